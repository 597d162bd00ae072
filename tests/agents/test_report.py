"""What the page of a run shows."""

import numpy as np

import rollouts
from agents import dream_video as show
from agents.controller import LinearController
from agents.html import section, table
from agents.run import REST, Run
from tests import toys
from tests.agents.test_dream_video import episode, world
from worldmodel import FRMDN, VAE, Memory, WorldModel


def test_tables_have_no_empty_columns():
    html = table(["name", "flag", "n"], [["a", "", "1"], ["b", "", "2"]])
    assert "flag" not in html
    assert html.count("<td") == 4
    assert section("Nothing", "") == ""


def test_times_add_up_to_the_wall_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("agents.run.time.monotonic", lambda: now[0])
    run = Run(tmp_path)
    for _ in range(2):  # two sittings
        with run.session() as add_rest:
            now[0] += 1
            with run.stage("collect"):
                now[0] += 10
            add_rest()
    assert run.timings() == {"collect": 20, REST: 2}


def test_a_controller_drives_in_the_game_and_in_its_own_dream():
    built, lived = world(), episode()
    film = show.driving_film(built, LinearController.for_world_model(built), lived, 30)
    assert film.shape[2] == 2 * 256 + 8
    assert len(film) >= len(lived) + 1  # the shorter one stands still at its end
    np.testing.assert_array_equal(film[3, 16::4, :256:4], lived.frames[3])
    first = built.decode(show.seen(built, lived)[:1])[0]
    np.testing.assert_allclose(film[0, 16::4, 264::4].astype(int), first, atol=1)


def test_reconstructions_are_of_frames_that_differ(tmp_path):
    built = world()
    store = rollouts.collect(toys.counter, rollouts.uniform, 3, seed=1, out=tmp_path)
    frames = show.varied_frames(store, store.latents(built.vae), 6)
    values = frames[:, 0, 0, 0].tolist()
    assert len(set(values)) >= 3
    assert {0, 20} & set(values)
    assert show.reconstructions(built, frames).shape == (2 * (3 * 64 + 2 * 2), 2 * (6 * 64 + 5 * 2), 3)


def test_pictures_that_never_change_are_shown_too(tmp_path):
    built = WorldModel(VAE(latent_dim=3), Memory(FRMDN(4, 3, hidden_size=5))).eval()
    still = toys.Rewarding(lambda seed, now: 0)
    lived = rollouts.play(still, rollouts.uniform, 1)
    assert len(show.driving_film(built, LinearController.for_world_model(built), lived, 60)) >= len(lived) + 1
    assert show.write_film(tmp_path, "still", show.film(built, lived))[0].stat().st_size > 0
    store = rollouts.collect(toys.now_and_then, rollouts.uniform, 2, seed=1, out=tmp_path / "store")
    assert show.varied_frames(store, store.latents(built.vae)).shape == (10, 64, 64, 3)
    assert show.long_episode([5, 70, 9]) == 1
    assert show.long_episode([5, 7, 6]) == 1
    assert show.start_step(lived.first(4)) == 2
