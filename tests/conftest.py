"""Fixtures for all tests.

Environment variables that a run of the tests heeds, beside those of torch itself (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`):
    TEST_THREADS: torch's threads, 1 unless told. Every count must pass.
"""

import os
import signal

import jaxtyping
import numpy as np
import pytest
import torch

# One thread: tests run side by side, and small operations on two busy cores stall.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))


def pytest_report_header() -> str:
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


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
