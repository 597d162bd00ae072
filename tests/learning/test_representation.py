"""A VAE encodes the factor in which its frames differ."""

import pytest

from tests.learning.frames import dot_vae, position_r2, reconstruction_r2

PUBLISHED_VAE = True


def assert_position_is_encoded(vae, background):
    # Untrained VAEs reach 0.07 to 0.34; trained ones reach 0.95 to 0.99.
    assert position_r2(vae, background) > 0.8
    # Untrained VAEs reconstruct the mean frame and score below zero; trained ones reach 0.74 to 0.87.
    assert reconstruction_r2(vae, background) > 0.4


@pytest.mark.slow
def test_vae_encodes_the_position_of_a_square(vae):
    assert_position_is_encoded(vae, background=0)


@pytest.mark.slow
def test_vae_encodes_the_position_on_a_white_background():
    assert_position_is_encoded(dot_vae(background=255), background=255)
