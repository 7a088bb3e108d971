"""Several processes on one machine, without a launcher: on CPUs `accelerate launch` starts them under MPI only.

Each gets torchrun's environment variables, which accelerate reads; so a user's own
`accelerate launch -m reproduce flux` on GPUs takes the same path from there on.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

INTERRUPTED = 3
GRACE_S = 30.0  # what a stopped process has to close its files
LAUNCHER = "L2P_LAUNCHER_PID"
# malloc.h's M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD, in bytes
MALLOC_OPTIONS = {-1: 2**31 - 1, -2: 64 * 2**20, -3: 2**30}


def is_launched() -> bool:
    """Whether a launcher (ours, accelerate's or torchrun's) started this process as one of several."""
    return "RANK" in os.environ


def is_ours() -> bool:
    """Whether `launch` started this process."""
    return LAUNCHER in os.environ


def is_main() -> bool:
    """Whether this process is the first of its launcher's, or has none."""
    return os.environ.get("RANK", "0") == "0"


def check_group(num_processes: int) -> None:
    """Raise RuntimeError when the launcher started another number of processes than found each other.

    Each would do all of the work alone, over the other's files.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes != started:
        raise RuntimeError(f"{started} processes were started, but accelerate formed a group of {num_processes}")


def launch(arguments: Sequence[str], num_processes: int, *, cpu: bool) -> int:
    """Run `python -m reproduce <arguments>` as `num_processes` processes; the first failure stops them all.

    Returns the failure's exit status, 3 when interrupted, 0 when all are done. On a CPU each process has one thread.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "reproduce", *arguments],
            env=os.environ | environment(rank, num_processes, free_port, cpu=cpu),
            start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
        )
        for free_port in [_free_port()]
        for rank in range(num_processes)
    ]
    interrupted = threading.Event()
    previous = {
        number: signal.signal(number, lambda _number, _frame: interrupted.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return _wait(processes, interrupted)
    finally:
        _stop(processes)
        for number, handler in previous.items():
            signal.signal(number, handler)


def environment(rank: int, num_processes: int, port: int, *, cpu: bool) -> dict[str, str]:
    """torchrun's variables for one of `num_processes` on this machine."""
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        LAUNCHER: str(os.getpid()),
    }
    return variables | ({"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"} if cpu else {})


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _wait(processes: Sequence[subprocess.Popen], interrupted: threading.Event) -> int:
    while True:
        statuses = [process.poll() for process in processes]
        if interrupted.is_set():
            return INTERRUPTED
        failures = [status for status in statuses if status]
        if failures and failures[0] < 0:  # minus a signal's number
            name = signal.Signals(-failures[0]).name
            print(f"a process was ended by {name}; the same command goes on from here", file=sys.stderr)
            return 128 - failures[0]
        if failures:
            return failures[0]
        if all(status == 0 for status in statuses):
            return 0
        time.sleep(0.1)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def prepare_processor() -> None:
    """Make this process fast on a CPU: one thread, and freed memory kept for the next tensor instead of given back.

    Nets this small gain nothing from more threads, and bytes would depend on their number. The C library gives large
    blocks back to the system whenever they are freed; that alone is a tenth of a transfer step
    (docs/log/2026-11-24-speed.md).
    """
    import torch

    torch.set_num_threads(1)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, size in MALLOC_OPTIONS.items():
            libc.mallopt(parameter, size)  # it answers 0 for what a version does not take: slower, not wrong


def raise_on_signals() -> None:
    """Let SIGTERM end this process as Ctrl-C does, by one KeyboardInterrupt; later ones wait while files close."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


def die_with_launcher() -> None:
    """End this process when our launcher was killed: it must not go on writing beside a run started anew."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.5)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()
