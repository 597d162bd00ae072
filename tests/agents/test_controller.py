"""Controllers: their arithmetic against plain torch, their inputs and their files."""

import numpy as np
import pytest
import torch

from tests import toys
from tests.tolerance import assert_same_sums
from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import Agent, HiddenController, LinearController
from worldmodel.io.files import write_tensors
from worldmodel.rollouts.policy.controllers import Controller


@pytest.fixture(scope="module")
def world():
    with seeded(0):
        return WorldModel(VAE(4), Memory(RMDN(input_size=6, output_size=4, hidden_size=8)))


def random_parameters(size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_a_hidden_layer_is_two_linear_maps_with_tanh_between():
    controller = HiddenController(4, 2, random_parameters(HiddenController(4, 2, hidden_units=3).size), hidden_units=3)
    first, second = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)
    parts = controller.parameters.split([12, 3, 6, 2])
    for parameter, part in zip((first.weight, first.bias, second.weight, second.bias), parts, strict=True):
        parameter.data = part.view_as(parameter)
    inputs = random_parameters(40, 1).view(5, 2, 4)
    torch.testing.assert_close(controller(inputs), second(first(inputs).tanh()))


@pytest.mark.parametrize("kind", [LinearController, HiddenController])
def test_inputs_z_use_the_latent_only(kind, world):
    zeros = kind.for_world_model(world, inputs="z")
    controller = zeros.with_parameters(random_parameters(zeros.size))
    inputs = random_parameters(3 * world.num_features, 1).view(3, -1)
    other = inputs.clone()
    other[:, world.latent_dim :] += 5
    assert controller(inputs).equal(controller(other))
    other[:, 0] += 5
    assert not controller(inputs).equal(controller(other))


def test_a_linear_controller_on_z_equals_one_with_zero_weights_on_h(world):
    zeros = LinearController.for_world_model(world, inputs="z")
    latent_only = zeros.with_parameters(random_parameters(zeros.size))
    weight = torch.cat((latent_only.weight, torch.zeros(2, 8)), dim=1)
    full = LinearController(12, 2, torch.cat((weight.flatten(), latent_only.bias)))
    start_states = random_parameters(20, 1).view(5, 4)
    one, two = (
        rollouts.dream(world, one, start_states, horizon=6, num_rollouts=3, keep=("actions",))
        for one in (latent_only, full)
    )
    assert_same_sums(one.actions, two.actions, count=6 * (world.num_features + 1), terms=1.0)


@pytest.mark.parametrize("kind", [LinearController, HiddenController])
@pytest.mark.parametrize("inputs", ["z+h", "z"])
def test_populations_dream_like_their_members(kind, inputs, world):
    zeros = kind.for_world_model(world, inputs)
    population = random_parameters(3 * zeros.size).view(3, -1).numpy()
    start_states = random_parameters(20, 1).view(5, 4)
    settings = {"horizon": 5, "num_rollouts": 2, "seed": 3, "keep": ("actions", "latents")}
    batched = rollouts.dream(world, zeros.with_parameters(population), start_states, **settings)
    for index, member in enumerate(population):
        single = rollouts.dream(world, zeros.with_parameters(member), start_states, **settings)
        assert_same_sums(batched.actions[index], single.actions[0], count=5 * (world.num_features + 1), terms=1.0)
        assert_same_sums(batched.latents[index], single.latents[0], count=5 * (world.num_features + 1))
    assert np.abs(batched.actions[0] - batched.actions[1]).max() > 0.01


@pytest.mark.parametrize(
    "controller",
    [
        LinearController(5, 2, random_parameters(12)),
        HiddenController(5, 2, random_parameters(HiddenController(5, 2, hidden_units=7).size), hidden_units=7),
    ],
    ids=["linear", "hidden"],
)
def test_files_preserve_class_and_parameters(controller, tmp_path):
    controller.save(tmp_path / "c.safetensors")
    loaded = Controller.load(tmp_path / "c.safetensors")
    assert repr(loaded) == repr(controller)
    assert loaded.parameters.equal(controller.parameters)


def test_invalid_files_are_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    whole = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    layer = {"hidden.weight": torch.zeros(3, 5), "hidden.bias": torch.zeros(3)}
    for broken in (
        {"weight": torch.zeros(2, 3)},
        whole | {"more": torch.zeros(1)},
        whole | {"hidden.weight": torch.zeros(3, 5)},
        whole | layer | {"hidden.weight": torch.zeros(4, 5), "hidden.bias": torch.zeros(4)},
        {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)},
    ):
        write_tensors(path, broken)
        with pytest.raises(ValueError, match=r"c\.safetensors"):
            Controller.load(path)
    write_tensors(path, whole | layer)
    with pytest.raises(ValueError, match=r"c\.safetensors"):
        LinearController.load(path)
    with pytest.raises(ValueError, match="hidden"):
        HiddenController(2, 2, hidden_units=0)


def test_agents_with_every_controller_save_and_load(world, tmp_path):
    for kind in (LinearController, HiddenController):
        zeros = kind.for_world_model(world, inputs="z")
        agent = Agent(world, zeros.with_parameters(random_parameters(zeros.size)))
        agent.save(tmp_path / kind.__name__)
        loaded = Agent.load(tmp_path / kind.__name__)
        one, two = (rollouts.play(toys.counter(), each, 3, max_steps=4) for each in (agent, loaded))
        assert np.array_equal(one.actions, two.actions)
        assert np.abs(one.actions).max() > 0
    with pytest.raises(ValueError, match="controller"):
        Agent(world, LinearController(5, 2))
