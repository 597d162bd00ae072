"""A VAE learns the factor that its frames differ by."""

from tests.learning.frames import dot_vae, explained

# An untrained VAE explains ...; training for longer ... . Half-way learning or latents that ignore the frame fail.
BOUND = 0.9


def test_latents_hold_the_place_of_a_square(vae):
    assert explained(vae) > BOUND


def test_latents_hold_the_place_on_a_white_background():
    assert explained(dot_vae(background=255), background=255) > BOUND
