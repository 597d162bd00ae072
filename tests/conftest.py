"""Fixtures for all tests."""

import signal

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)  # tests run side by side, and small operations on two busy cores stall


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
