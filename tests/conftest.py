"""Fixtures for all tests."""

import jaxtyping
import pytest


@pytest.fixture
def as_users_do():
    """Without jaxtyping's checks, which answer before our own messages do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
