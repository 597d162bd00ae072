"""Behavior cloning of stored actions, and of an agent into a controller of another world model."""

import gymnasium
import numpy as np
import pytest
import torch

from tests import toys
from tests.command_line import exit_code, refused
from tests.rollouts.dreams import beacon_world, world
from worldmodel import rollouts
from worldmodel.agents import Agent, HiddenController, LinearController, clone_actions, imitate
from worldmodel.agents.config.schema import ControllerConfig
from worldmodel.agents.evolution.behavior_cloning import Clone
from worldmodel.agents.evolution.whitening import controller_inputs
from worldmodel.agents.pipeline.cloning import _difference, _verdict
from worldmodel.agents.pipeline.init_controller import init_controller
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import read_json
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.datasets import split_episodes


def two_encoders(store, **kind):
    """Two world models: one encodes a store with mean 0 and deviation 1, the other with an affine map of these latents."""
    one, other = world(**kind), world(**kind)
    frames = torch.from_numpy(np.concatenate([store.episode(index).frames for index in range(len(store))]))
    std, mean = torch.std_mean(one.encode(frames), dim=0)
    affine = torch.tensor([[1.0, 0.5, 0.0], [0.0, -2.0, 0.3], [0.2, 0.0, 0.7]])
    for world_model, matrix in ((one, torch.eye(3)), (other, affine)):
        layer = world_model.vae.posterior
        layer.weight.data[:3] = matrix @ (layer.weight[:3] / std[:, None])
        layer.bias.data[:3] = matrix @ ((layer.bias[:3] - mean) / std)
    return one, other


def outputs(agent, store):
    return agent.controller(controller_inputs(agent.world, store.latents(agent.world.vae), len(store)))


def latent_agent(world_model, actions):
    """An agent whose controller takes the latent only."""
    weight = np.random.default_rng(2).normal(size=3 * actions)
    return Agent(world_model, LinearController(3, actions, [*2 * weight, *np.zeros(actions)]))


def test_a_linear_clone_of_a_linear_agent_is_nearly_exact(tmp_path):
    store = rollouts.collect(toys.counter, rollouts.uniform, 2, seed=1, out=tmp_path)
    one, other = two_encoders(store)
    agent = latent_agent(one, 2)
    clone = Agent(other, imitate(agent, other, store, LinearController(3, 2)))
    cloned, expected = outputs(clone, store).tanh(), outputs(agent, store).tanh()
    assert expected.std() > 0.3
    assert (cloned - expected).square().mean() < 0.001 * expected.var()


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0, 6], ids=["linear", "hidden"])
def test_clones_act_like_the_agent_with_another_encoder(tmp_path, hidden):
    store = rollouts.collect("Pendulum-v1", rollouts.uniform, 4, seed=1, out=tmp_path, max_steps=30)
    one, other = two_encoders(store, actions=1)
    agent = latent_agent(one, 1)
    kind = HiddenController(3, 1, hidden_units=hidden) if hidden else LinearController(3, 1)
    clone = Agent(other, imitate(agent, other, store, kind))
    assert repr(clone.controller) == repr(kind)
    cloned, expected = outputs(clone, store).tanh(), outputs(agent, store).tanh()
    assert expected.std() > 0.3
    assert (cloned - expected).square().mean() < 0.01 * expected.var()
    assert torch.equal(imitate(agent, other, store, kind).parameters, clone.controller.parameters)


@pytest.mark.slow
def test_clones_choose_the_discrete_actions_of_the_agent(tmp_path):
    store = rollouts.collect("CartPole-v1", rollouts.uniform, 8, seed=1, out=tmp_path)
    one, other = two_encoders(store, discrete=True)
    agent = latent_agent(one, 2)
    clone = Agent(other, imitate(agent, other, store, LinearController(3, 2)))
    chosen, expected = (outputs(one, store).argmax(dim=-1).double() for one in (clone, agent))
    assert 0.2 < expected.mean() < 0.8
    assert (chosen == expected).double().mean() > 0.95


def test_other_action_sizes_are_refused(tmp_path):
    store = rollouts.collect(toys.beacon, rollouts.uniform, 1, seed=1, out=tmp_path)
    agent, other = Agent(beacon_world(), LinearController(3, 1)), world(actions=2)
    with pytest.raises(ValueError, match="agent"):
        imitate(agent, other, store, LinearController.for_world_model(other))


def test_a_clone_of_recorded_actions_is_nearly_the_linear_agent_that_took_them(tmp_path):
    one, _ = two_encoders(rollouts.collect(toys.counter, rollouts.uniform, 2, seed=1, out=tmp_path / "random"))
    agent = latent_agent(one, 2)
    store = rollouts.collect(toys.counter, agent, 6, seed=1, out=tmp_path / "agent")
    clone = clone_actions(one, store, LinearController(3, 2))
    assert clone.training_episodes + clone.validation_episodes == 6 and clone.validation_episodes
    cloned, expected = outputs(Agent(one, clone.controller), store).tanh(), outputs(agent, store).tanh()
    assert (cloned - expected).square().mean() < 0.001 * expected.var()
    assert clone.error < 0.001 * clone.baseline_error


def test_the_errors_are_those_of_held_out_episodes(tmp_path):
    store, model = rollouts.collect(toys.counter, rollouts.uniform, 6, seed=1, out=tmp_path), world()
    clone = clone_actions(model, store, LinearController.for_world_model(model), seed=4)
    training, validation = split_episodes(np.arange(6), 0.2, 4)
    mean = np.concatenate([store.episode(index).actions for index in training]).mean(axis=0)
    frames, rows = 21, []  # of an episode
    everything = outputs(Agent(model, clone.controller), store).tanh().numpy()
    for index in validation:
        rows.append(everything[frames * index : frames * index + frames - 1] - store.episode(index).actions)
    assert clone.error == pytest.approx(np.square(rows).mean(), rel=1e-5)
    assert clone.validation_steps == 20 * clone.validation_episodes
    assert clone.baseline_error == pytest.approx(
        np.mean([np.square(mean - store.episode(index).actions).mean() for index in validation]), rel=1e-5
    )
    assert clone.error > 0.8 * clone.baseline_error  # random actions cannot be predicted


def lit():
    """Episodes of dark and of bright frames, with action 1 in bright ones, which are rarer."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        bright = rng.random(13) < 0.3
        frames = np.broadcast_to(255 * bright[:, None, None, None], (13, 64, 64, 3)).astype(np.uint8)
        yield frames, bright[:-1].astype(int), np.zeros(12), False


def test_discrete_actions_are_measured_by_their_accuracy(tmp_path):
    model = world(discrete=True)
    store = rollouts.write(lit(), tmp_path, num_actions=2)
    clone = clone_actions(model, store, LinearController.for_world_model(model))
    _, validation = split_episodes(np.arange(6), 0.2, 0)
    bright = np.concatenate([store.episode(index).actions for index in validation])
    assert clone.error == 0
    assert clone.baseline_error == pytest.approx(bright.mean())  # the most frequent action is 0


def run_folder(tmp_path, model, name="run"):
    """A run with a world model and random episodes."""
    run = Run(tmp_path / name)
    model.save(run.world_folder)
    rollouts.collect("FrozenLake-v1", rollouts.uniform, 4, seed=1, out=run.rollouts_folder, max_steps=8)
    return run


def test_a_clone_is_written_into_the_run_for_evolution_and_kept(tmp_path, capsys):
    model = world(discrete=True, actions=4)
    run = run_folder(tmp_path, model)
    assert exit_code("train", "controller", str(run.folder)) == 0
    path = run.folder / "clone" / "controller.safetensors"
    initial = init_controller(run, model, ControllerConfig(), str(path))
    assert torch.equal(initial.parameters, Controller.load(path).parameters) and initial.parameters.any()
    assert read_json(path.parent / "clone.json")["source"] == run.store().identity
    before = path.read_bytes()
    assert exit_code("train", "controller", str(run.folder)) == 0
    assert path.read_bytes() == before and not (run.folder / "earlier").exists()
    other = rollouts.collect("FrozenLake-v1", rollouts.uniform, 5, seed=2, out=tmp_path / "other", max_steps=8)
    assert exit_code("train", "controller", str(run.folder), "--from", str(other.path)) == 0
    assert (run.folder / "earlier" / "clone-1" / path.name).read_bytes() == before
    assert read_json(path.parent / "clone.json")["source"] == other.identity


def test_recordings_that_do_not_fit_are_refused_by_name(tmp_path, capsys):
    run = run_folder(tmp_path, world(discrete=True, actions=4))
    box = rollouts.collect(toys.counter, rollouts.uniform, 2, seed=1, out=tmp_path / "box").path
    single = rollouts.collect("FrozenLake-v1", rollouts.uniform, 1, seed=1, out=tmp_path / "single").path
    empty = rollouts.collect("FrozenLake-v1", rollouts.uniform, 1, seed=1, out=tmp_path / "empty").path
    next(empty.glob("shards/*.h5")).unlink()
    (tmp_path / "recording" / "game").mkdir(parents=True)
    for source, named in {
        box: "(2,)",
        single: "2 episodes",
        empty: str(empty),
        tmp_path / "none": "none",
        tmp_path / "recording": str(tmp_path / "recording" / "game"),
    }.items():
        assert named in refused(capsys, "train", "controller", str(run.folder), "--from", str(source))
    assert not (run.folder / "clone").exists()
    untrained = Run(tmp_path / "untrained")
    rollouts.collect("FrozenLake-v1", rollouts.uniform, 2, seed=1, out=untrained.rollouts_folder)
    assert "train vae" in refused(capsys, "train", "controller", str(untrained.folder))


@pytest.mark.slow
def test_a_clone_is_evaluated_and_evolved(tmp_path, capsys):
    run = run_folder(tmp_path, world(discrete=True, actions=4))
    assert "train controller" in refused(capsys, "evaluate", str(run.folder), "--where", "clone")
    assert exit_code("train", "controller", str(run.folder)) == 0
    small = ["--eval.episodes", "2", "--eval.max_steps", "4", "--workers", "1"]
    assert exit_code("evaluate", str(run.folder), "--where", "clone", *small) == 0
    assert [path.name.startswith("clone-") for path in (run.folder / "tests").iterdir()] == [True]
    search = ["--game.generations", "1", "--game.population", "4", "--game.episodes", "1", "--game.max_steps", "4"]
    start = ["--game.init_from", str(run.folder / "clone" / "controller.safetensors"), "--game.eval_episodes", "1"]
    assert exit_code("evolve", str(run.folder), "--where", "game", *start, *search, "--workers", "1") == 0


class Buttons(gymnasium.Env):
    """Three buttons."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.MultiBinary(3)

    def reset(self, *, seed=None, options=None):
        return np.zeros((64, 64, 3), np.uint8), {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


def test_the_constant_of_choices_is_the_most_frequent_combination(tmp_path):
    """Each button is pressed in two of three steps, never all three together: the mode of each is not the mode of all."""
    rows = np.resize([[1, 1, 0], [1, 0, 1], [0, 1, 1]], (12, 3))
    store = rollouts.collect(Buttons, lambda space, rng: Presses(rows), 4, seed=1, out=tmp_path, max_steps=12)
    model = world(actions=3)
    model.nvec = (2, 2, 2)
    clone = clone_actions(model, store, LinearController.for_world_model(model))
    assert clone.baseline_error == pytest.approx(2 / 3)


class Presses:
    """Takes the actions of a list."""

    def __init__(self, rows):
        self.rows = iter(rows.astype(np.float32))

    def __call__(self, frame):
        return next(self.rows)


def test_a_useless_clone_is_called_so():
    clone = Clone(None, 0.5, 0.5, 5, 1, 12, True)
    assert _verdict(clone, "").level == "bad"
    assert _verdict(clone._replace(error=0.4), "").level == "good"
    assert _verdict(clone._replace(error=0.4), "; others").level == "weak"


def test_episodes_of_other_settings_or_dreams_are_pointed_out(tmp_path):
    model = world(discrete=True)
    run = run_folder(tmp_path, model)
    own = rollouts.collect("FrozenLake-v1", rollouts.uniform, 1, seed=2, out=tmp_path / "same")
    assert _difference(run, model, own) == ""
    other = {"is_slippery": False}
    found = rollouts.collect("FrozenLake-v1", rollouts.uniform, 1, seed=2, out=tmp_path / "other", env_options=other)
    assert "is_slippery" in _difference(run, model, found)
