"""Fixture run folders for the reports' tests."""

import matplotlib
import pytest

from tests.reports.fake_run import fake_run

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    """One invented run folder, FIXTURE DATA; read only."""
    return fake_run(tmp_path_factory.mktemp("runs") / "flux-mini")
