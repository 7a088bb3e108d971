"""No noise: what libraries write to the terminal that tells a user nothing."""

from __future__ import annotations

import os

# Kineto, which counts CPU memory in the cost stage, logs each start and stop, and that there is no GPU; torch warns
# that it began to count late. Both read their level once, when torch is imported.
NATIVE_LOGS = {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def quiet_native_logs() -> None:
    """Quieten torch's native logs, unless the user has set their level; to be called before torch is imported."""
    for name, level in NATIVE_LOGS.items():
        os.environ.setdefault(name, level)


def hide_loading_bars() -> None:
    """No "Loading weights" nor "Loading pipeline components": for models that load in a blink, and for log files."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
