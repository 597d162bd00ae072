"""A VAE learns the factor that its frames differ by."""

from tests.learning.frames import dot_vae, explained, redrawn


def check(vae, background):
    # Untrained VAEs reach 0.07 to 0.34, trained ones 0.95 to 0.99.
    assert explained(vae, background) > 0.8
    # Untrained VAEs draw the mean picture: below zero. Trained ones reach 0.74 to 0.87.
    assert redrawn(vae, background) > 0.4


def test_latents_hold_the_place_of_a_square(vae):
    check(vae, background=0)


def test_latents_hold_the_place_on_a_white_background():
    check(dot_vae(background=255), background=255)
