"""A trained VAE that several tests share: training one is the slowest part of all of them."""

import pytest

from tests.learning.frames import dot_vae


@pytest.fixture(scope="session")
def vae():
    """Sees where the square of a `toys.Dot` is."""
    return dot_vae()
