"""A session fixture with a trained VAE, because training it is the slowest part of these tests."""

import pytest

from tests.learning.frames import dot_vae


@pytest.fixture(scope="session")
def vae():
    """VAE trained on frames of `toys.Dot`; its latents encode the position of the square."""
    return dot_vae()
