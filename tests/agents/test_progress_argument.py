"""``progress=True`` shows a bar for every long function, policies have names, and public names are listed."""

import io
import logging
import re
import time

import numpy as np
import pytest
import torch

import worldmodel
from tests import toys
from worldmodel import RMDN, VAE, Memory, WorldModel, agents, envs, fit, rollouts
from worldmodel.agents import Agent, LinearController, evaluate, evolve, imitate
from worldmodel.training.progress import Lines, Task


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return rollouts.collect("CartPole-v1", "random", 3, seed=1, max_steps=6, out=tmp_path_factory.mktemp("store") / "s")


@pytest.fixture(scope="module")
def world(store):
    return WorldModel(VAE(4), Memory.for_store(store, RMDN, latent_dim=4, hidden_size=5), store)


WORK = {
    "collect": lambda store, world, **more: rollouts.collect(
        "CartPole-v1", "smooth", 2, max_steps=3, out=store.path.with_name(f"more-{len(more)}"), **more
    ),
    "fit": lambda store, world, **more: fit(
        Memory.for_store(store, RMDN, latent_dim=4, hidden_size=5), store.sequences(world.vae, 4), num_updates=2, **more
    ),
    "latents": lambda store, world, **more: store.latents(world.vae, **more),
    "evolve": lambda store, world, **more: evolve(
        LinearController(2, 1), lambda population, seed: -np.square(population).sum(axis=1), generations=3, **more
    ),
    "evaluate": lambda store, world, **more: evaluate("random", "CartPole-v1", 2, max_steps=3, **more),
    "dream": lambda store, world, **more: rollouts.dream(
        world, LinearController.for_world_model(world), torch.zeros(2, 4), horizon=3, num_rollouts=2, **more
    ),
    "imitate": lambda store, world, **more: imitate(
        Agent(world, LinearController.for_world_model(world)),
        world,
        store,
        LinearController.for_world_model(world),
        **more,
    ),
}


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_true_shows_progress_and_false_is_silent(name, store, world, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    WORK[name](store, world, progress=False)
    assert capsys.readouterr().err == ""
    WORK[name](store, world, progress=True)
    assert "/" in capsys.readouterr().err  # done/total
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    WORK[name](store, world, progress=True)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "━" in shown
    assert all(len(line) < 80 for line in re.split(r"[\r\n]", shown))
    with pytest.raises((ValueError, TypeError), match="progress"):
        WORK[name](store, world, progress="yes")


def test_an_interrupted_bar_is_removed(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)

    def stop(population, seed):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evolve(LinearController(2, 1), stop, generations=3, progress=True)
    text = screen.getvalue()
    assert "\x1b[2K" in text[text.rindex("evolve") :]  # cleared after it was last drawn


def test_missing_arguments_raise_type_errors():
    with pytest.raises(TypeError, match="evolve"):
        evolve(generations=3, progress=True)


def test_policies_can_be_given_by_name(store):
    assert store.metadata["policy"] == "uniform"
    env = toys.Counter()
    for name in ("smooth", "uniform", "random"):
        assert len(rollouts.play(env, name, seed=1, max_steps=3)) > 0
    assert len(rollouts.MixturePolicy("smooth", rollouts.uniform).policies) == 2
    for wrong in ("smoth", 3):
        with pytest.raises(ValueError, match="policy"):
            rollouts.collect("CartPole-v1", wrong, 1)
        with pytest.raises(ValueError, match="policy"):
            evaluate(wrong, "CartPole-v1", 1)


def test_a_store_without_a_folder_logs_its_path(caplog):
    with caplog.at_level(logging.WARNING):
        store = rollouts.collect("CartPole-v1", "uniform", 1, max_steps=2)
    assert str(store.path) in caplog.text
    assert str(store.path) in repr(store)


@pytest.mark.parametrize("module", [worldmodel, rollouts, envs, agents])
def test_dir_lists_the_public_names(module):
    assert dir(module) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in dir(module))


def test_the_version_starts_with_a_number():
    assert worldmodel.__version__[0].isdigit()


def test_shipped_agents_load_by_name():
    assert "car-racing" in agents.pretrained_names()
    agent = agents.load_pretrained("car-racing")
    assert isinstance(agent, Agent)
    assert len(repr(agent)) < 300
    with pytest.raises(ValueError, match="car-racing"):
        agents.load_pretrained("car-racng")


def test_reprs_are_one_short_line(store, world):
    controller = LinearController.for_world_model(world)
    dreams = rollouts.dream(world, controller, torch.zeros(2, 4), horizon=3, num_rollouts=2, keep=("latents",))
    report = evaluate("random", "CartPole-v1", 2, max_steps=3)
    for thing in (store, world, controller, Agent(world, controller), dreams, report, store.latents(world.vae)):
        assert "\n" not in repr(thing)
        assert len(repr(thing)) < 300
    assert "n = 2" in repr(report)
    assert "num_rollouts=2" in repr(dreams)


def test_logs_repeat_no_line(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    report = Lines(Task("play", "episodes"), lines.append)
    for done in (0, 0, 1, 1, 1, 1, 2, 2):
        report(done, 2, "")
        now[0] += 4.0
    assert len(lines) == 3  # the start, the first episode, the end
    assert "1/2" in lines[1] and "2/2" in lines[2]


def test_a_terminal_without_control_codes_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    evolve(
        LinearController(2, 1),
        lambda population, seed: -np.square(population).sum(axis=1),
        generations=3,
        progress=True,
    )
    assert "\x1b" not in screen.getvalue() and "3/3" in screen.getvalue()
