"""Fixtures for all tests.

Environment variables that a run of the tests heeds, beside those of torch itself (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`):
    TEST_THREADS: torch's threads, 1 unless told. Every count must pass.

``pytest --no-skips`` (``make test SKIPS=forbid``) fails where a test was skipped for want of something that can be installed.
"""

import os
import signal

import jaxtyping
import numpy as np
import pytest
import torch

from tests.skips import IMPOSSIBLE

# One thread: tests run side by side, and small operations on two busy cores stall.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))


def pytest_report_header() -> str:
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail where a test was skipped that could run here")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn skips into a failed session; in the process that reports, not in pytest-xdist's workers."""
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if not config.getoption("--no-skips") or hasattr(config, "workerinput") or reporter is None:
        return
    reasons = {str(report.longrepr[2]) for report in reporter.stats.get("skipped", []) if len(report.longrepr) == 3}
    cured = sorted(reason for reason in reasons if not reason.removeprefix("Skipped: ").startswith(IMPOSSIBLE))
    if cured and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line("")
        reporter.write_line(f"--no-skips: {'; '.join(cured)}", red=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test or its fixtures draw without a seed of their own is the same in any order of the tests."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def as_users_do():
    """Without jaxtyping's checks, which answer before our own messages do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a terminal's program knows it; one that a shell started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
