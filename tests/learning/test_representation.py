"""A VAE learns the factor that its frames differ by."""

from tests.learning.frames import dot_vae, explained

# Untrained VAEs explain 0.3 and 0.6 of the variance, trained ones 0.93 to 0.99.
BOUND = 0.8


def test_latents_hold_the_place_of_a_square(vae):
    assert explained(vae) > BOUND


def test_latents_hold_the_place_on_a_white_background():
    assert explained(dot_vae(background=255), background=255) > BOUND
