"""A run on vectors: every stage, an interruption, workers, and every command."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.agents.test_pipeline import SMALL, results
from tests.command_line import refused
from worldmodel import envs, rollouts
from worldmodel.agents import Agent, evaluate
from worldmodel.agents.cli.main import main
from worldmodel.agents.pipeline import stages
from worldmodel.agents.runs.run_folder import Run
from worldmodel.agents.viewer import scene_of
from worldmodel.agents.viewer.session import Session

VECTORS = ["run", "CartPole-v1", *SMALL, "--env_options.observation", "vector"]
pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("vectors") / "run"
    assert main([*VECTORS, "--out", str(out)]) == 0
    return out


def test_latents_are_the_standardized_numbers_of_the_environment(finished):
    run = Run(finished)
    store, world = run.store(), run.world()
    assert (store.observation_shape, world.observation_shape, world.latent_dim) == ((4,), (4,), 4)
    latents = run.latents(world).episode(0).mean
    np.testing.assert_allclose(world.decode(torch.from_numpy(latents.copy())), store.episode(0).frames, atol=1e-5)
    assert json.loads((finished / "memory" / "settings.json").read_text())["data"]["latent_targets"] == "mean"


def test_results_do_not_depend_on_workers_or_interruptions(finished, tmp_path, monkeypatch):
    def stop(*given, **more):
        raise KeyboardInterrupt

    words = [*VECTORS, "--out", str(tmp_path), "--workers", "2"]
    for stage in ("train_vae", "train_memory", "evolve_dream"):
        with monkeypatch.context() as patch:
            patch.setattr(stages, stage, stop)
            assert main(words)
    assert main(words) == 0
    assert results(tmp_path) == results(finished)


def test_commands_of_stages_run_on_vectors(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    for words in (
        ["train", "vae", str(run), "--preset", "quick"],
        ["evaluate", str(run), "--eval.episodes", "2"],
        ["inspect", str(run)],
        ["inspect", str(run), "--world"],
        ["dream", str(run), "--horizon", "4"],
        ["dream", str(run), "--horizon", "4", "--num_rollouts", "2", "--store", str(tmp_path / "dreams")],
    ):
        assert main(words) == 0, words
    assert "4 numbers" in capsys.readouterr().out
    dreams = rollouts.Store(tmp_path / "dreams")
    assert dreams.observation_shape == (4,)
    assert dreams.episode(0).frames.shape == (len(dreams.episode(0)) + 1, 4)
    assert len(dreams.episode(0)) <= 4  # it may terminate


def test_the_page_draws_vectors(finished):
    scene = scene_of(Run(finished))
    session = Session(scene, seed=1)
    session.receive({"type": "reality", "value": True})
    session.receive({"type": "step"})
    frame = session.advance()
    session.close()
    assert frame.dream.shape == frame.reality.shape == (64, 64, 3)
    assert frame.dream.any()


def test_an_agent_of_vectors_needs_an_environment_of_vectors(finished):
    run = Run(finished)
    agent = Agent(run.world(), run.controller("dream"))
    env = envs.make("CartPole-v1", observation="vector")
    assert agent.act(env.reset(seed=1)[0]) in (0, 1)
    with pytest.raises(ValueError, match="observation='vector'"):
        evaluate(agent, "CartPole-v1", episodes=1)
    with pytest.raises(ValueError, match="64"):
        agent.act(np.zeros((64, 64, 3), np.uint8))


def test_a_run_keeps_what_it_observes(finished, capsys):
    assert "env_options" in refused(capsys, *VECTORS[:-2], "--out", str(finished))
