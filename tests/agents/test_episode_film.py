"""Films show the best, the median and the worst episode of an evaluation as they were played; kept means show learning."""

import io
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from tests import toys
from tests.agents.spheres import controller, sphere
from tests.agents.test_behavior_cloning import run_folder
from tests.command_line import exit_code
from tests.rollouts.dreams import beacon_world, world
from worldmodel import rollouts
from worldmodel.agents import Agent, LinearController, evaluate, evolve
from worldmodel.agents.analysis import report, video
from worldmodel.agents.analysis.episode_film import COLUMNS, learning_rows
from worldmodel.agents.config.schema import DreamConfig, EvalConfig, GameConfig, RunConfig
from worldmodel.agents.evolution.callbacks import KeepMeans
from worldmodel.agents.pipeline import stages
from worldmodel.rollouts.policy.controllers import Controller


def decoded(path):
    """The frames of a film without its title, at the size of an observation."""
    with av.open(io.BytesIO(path.read_bytes())) as container:
        return np.stack([frame.to_ndarray(format="rgb24")[16::4, ::4] for frame in container.decode(video=0)])


def beacon_agent():
    weights = torch.randn(9, generator=torch.Generator().manual_seed(3)).numpy()
    return Agent(beacon_world(), LinearController.for_world_model(beacon_world()).with_parameters(weights))


@pytest.mark.parametrize("player", [beacon_agent(), rollouts.uniform], ids=["agent", "policy"])
def test_films_show_the_best_the_median_and_the_worst_episode(player, tmp_path):
    result = evaluate(player, toys.beacon, episodes=5, seed=30, film=tmp_path)
    ordered = sorted(zip(result.returns, result.seeds, strict=True), reverse=True)
    films = {path.name.partition("-")[0]: path for path in tmp_path.iterdir()}
    assert set(films) == {"best", "median", "worst"}
    for name, (total, seed) in zip(("best", "median", "worst"), (ordered[0], ordered[2], ordered[4]), strict=True):
        assert films[name].name == f"{name}-seed-{seed}-return-{total:.6g}.mp4"
        expected = rollouts.play(toys.beacon(), player, seed).frames
        frames = decoded(films[name])
        assert frames.shape == expected.shape
        assert np.abs(frames.astype(int) - expected).mean() < 20  # another half is lit: 255


def test_evaluations_of_few_episodes_have_few_films_and_replace_older_ones(tmp_path):
    for episodes, names in ((2, ["best", "worst"]), (1, ["best"])):
        evaluate(rollouts.uniform, toys.beacon, episodes=episodes, seed=7, film=tmp_path)
        assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == names


class Unseeded(toys.Beacon):
    """Each episode has another reward, whatever its seed."""

    count = 0

    def step(self, action):
        Unseeded.count += 1
        frame, _, *rest = super().step(action)
        return frame, float(Unseeded.count), *rest


def test_an_episode_that_cannot_be_replayed_has_no_film(tmp_path, caplog):
    result = evaluate(rollouts.uniform, Unseeded, episodes=3, seed=7, film=tmp_path)
    assert result.n == 3 and not list(tmp_path.iterdir())
    assert "seed 7" in caplog.text


def test_frames_can_be_encoded_one_after_the_other():
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    assert video.mp4(iter(frames)) == video.mp4(frames)


def test_rows_of_successive_controllers_show_the_same_steps(monkeypatch):
    monkeypatch.setattr(
        "worldmodel.agents.analysis.episode_film.envs.make", lambda env, **options: toys.Counter(**options)
    )
    model = world()
    agent = (model, LinearController.for_world_model(model))
    rows = learning_rows({"first": agent, "last": agent}, "Counter", {"length": 18}, 3, 200)
    assert [(row.name, row.steps, row.episode_return) for row in rows] == [("first", 18, 171), ("last", 18, 171)]
    shown = rows[0].picture[32, 32 :: 64 + 2, 0]  # two white columns between frames
    np.testing.assert_array_equal(shown, range(0, 19, 2))
    assert len(shown) == COLUMNS


def test_means_of_a_search_are_kept_and_change_nothing(tmp_path):
    settings = {"generations": 13, "population": 6, "seed": 1}
    means = {}

    def remember(search):
        means[search.generation] = search.mean.copy()

    found = evolve(controller(), sphere, **settings, out=tmp_path, callbacks=[KeepMeans(13), remember])
    assert torch.equal(found.parameters, evolve(controller(), sphere, **settings).parameters)
    kept = {int(path.stem): Controller.load(path).parameters.numpy() for path in (tmp_path / "means").iterdir()}
    assert sorted(kept) == [0, 3, 6, 9, 12, 13] and not kept[0].any()
    for generation in (3, 9, 13):
        np.testing.assert_allclose(kept[generation], means[generation], rtol=1e-6)


@pytest.mark.slow
def test_a_run_shows_its_learning_and_films_its_evaluation(tmp_path, capsys):
    run = run_folder(tmp_path, world(discrete=True, actions=4))
    game = GameConfig(generations=3, population=4, episodes=1, max_steps=5, eval_episodes=1)
    settings = RunConfig("FrozenLake-v1", workers=1, game=game, dream=DreamConfig(generations=0), eval=EvalConfig(2))
    stages.evolve_game(run, settings)
    names = list(report.successive_controllers(run))
    assert names == [f"game, generation {number}" for number in range(4)]
    page = report._learning(run, settings)
    assert page.count("<img") == 4 and all(name in page for name in names)
    assert not report._learning(replace(run, folder=tmp_path / "none"), settings)
    small = ["--eval.episodes", "3", "--eval.max_steps", "6", "--workers", "1"]
    assert exit_code("evaluate", str(run.folder), "--where", "game", "--film", *small) == 0
    [folder] = (path for path in (run.folder / "tests").iterdir() if path.is_dir())
    assert folder.with_suffix(".json").exists() and list(folder.glob("best-seed-*.mp4"))
    assert str(folder) in capsys.readouterr().out
