"""Controllers, agents and their evaluation."""

import pickle
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from tests import toys
from tests.tolerance import assert_same_sums
from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel, envs, rollouts, seeded
from worldmodel.agents import Agent, LinearController, Report, evaluate
from worldmodel.agents.evaluation import reproduce_command
from worldmodel.agents.pipeline.stages import make_policy
from worldmodel.rollouts.policy.actors import make_actor


def world(discrete=False, actions=1):
    with seeded(0):
        return WorldModel(VAE(latent_dim=3), Memory(RMDN(3 + actions, 3, hidden_size=5)), discrete=discrete).eval()


def agent(world_model=None, **options):
    world_model = world_model or world()
    controller = LinearController.for_world_model(world_model)
    return Agent(world_model, controller.with_parameters(np.linspace(-1, 1, controller.size)), **options)


def test_published_size_and_action_map():
    big = WorldModel(VAE(latent_dim=32), Memory(FRMDN(input_size=35, output_size=32, hidden_size=256)))
    assert LinearController.for_world_model(big).size == 867
    raw = torch.tensor([[0.3, -0.7, -2.0]])
    steer, gas, brake = big.squash(raw)[0].tolist()
    env = envs.make("CarRacing")
    command = env._game_action(np.array([steer, gas, brake], np.float32))
    assert command.tolist() == pytest.approx([np.tanh(0.3), (np.tanh(-0.7) + 1) / 2, 0.0], abs=1e-6)
    env.close()


def test_outputs_are_w_x_plus_b():
    controller = LinearController(2, 3, torch.arange(9.0))
    x = torch.tensor([1.0, 10.0])
    assert controller(x).tolist() == [0 + 10 + 6, 2 + 30 + 7, 4 + 50 + 8]
    batch = controller.outputs(torch.stack([torch.arange(9.0), torch.zeros(9)]), x.expand(2, 4, 2))
    assert batch.shape == (2, 4, 3)
    assert batch[1].abs().sum() == 0
    assert batch[0, 2].equal(controller(x))


def test_controllers_and_agents_save_and_load(tmp_path):
    one = agent()
    one.save(tmp_path / "a")
    other = Agent.load(tmp_path / "a")
    assert other.name == one.name
    assert other.controller.parameters.equal(one.controller.parameters)
    (tmp_path / "a" / "controller.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="controller.safetensors"):
        Agent.load(tmp_path / "a")


def test_bad_controllers_are_refused():
    with pytest.raises(ValueError, match=r"parameters"):
        LinearController(2, 3, torch.zeros(8))
    with pytest.raises(ValueError, match="parameters"):
        LinearController(2, 3, torch.full((9,), float("nan")))
    with pytest.raises(ValueError, match="controller"):
        Agent(world(), LinearController(4, 1))
    with pytest.raises(ValueError, match=r"\b1\b.*\b2\b"):
        evaluate(agent(), "CartPole-v1", episodes=1)


@pytest.mark.slow
def test_agents_collect_with_action_noise(tmp_path):
    store = rollouts.collect(toys.beacon, agent(action_noise=0.3), 3, out=tmp_path / "s")
    again = rollouts.collect(toys.beacon, agent(action_noise=0.3), 3, out=tmp_path / "t")
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(store.episodes(), again.episodes(), strict=True))
    noiseless = rollouts.collect(toys.beacon, agent(), 3, out=tmp_path / "u")
    assert not np.array_equal(noiseless.episode(0).actions, store.episode(0).actions)
    with pytest.raises(ValueError, match="action_noise"):
        evaluate(agent(action_noise=0.3), toys.beacon, episodes=1)


@pytest.mark.parametrize("discrete", [False, True])
def test_act_equals_the_policy_in_rollouts(discrete):
    world_model = world(discrete, 3)
    space = gymnasium.spaces.Discrete(3) if discrete else gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    noisy = agent(world_model, action_noise=0.5, param_noise=0.5)
    frames = np.random.default_rng(0).integers(256, size=(6, 64, 64, 3)).astype(np.uint8)
    for seed in (4, 5):  # the second reset starts a new episode
        actor = make_actor(noisy, space, [seed])
        actor.reset(0, 0)
        noisy.reset(seed=seed)
        for frame in frames:
            action, expected = noisy.act(frame), actor.act(frame[None], [0])[0]
            assert np.array_equal(action, expected)
            assert isinstance(action, int) if discrete else action.dtype == np.float32
            assert space.contains(action)


@pytest.mark.parametrize("discrete", [False, True])
def test_the_memory_observes_the_action_with_its_noise(discrete):
    model = world(discrete, 3)
    space = gymnasium.spaces.Discrete(3) if discrete else gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    actor = make_actor(agent(model, action_noise=1.0), space, [3])
    actor.reset(0, 0)
    frame = np.full((1, 64, 64, 3), 9, np.uint8)
    action = np.asarray(actor.act(frame, [0]))
    with torch.no_grad():
        latent = model.encode(torch.from_numpy(frame))
        expected = model.observe(model.initial(1), latent, model.action_inputs(action))
    torch.testing.assert_close(tuple(actor.memory), tuple(expected))


def test_act_starts_the_first_episode_and_reset_the_next():
    noiseless = agent(world(actions=3))
    frames = np.random.default_rng(0).integers(256, size=(6, 64, 64, 3)).astype(np.uint8)
    first = [noiseless.act(frame) for frame in frames]
    second = [noiseless.act(frame) for frame in frames]
    noiseless.reset()
    again = [noiseless.act(frame) for frame in frames]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    copy = pickle.loads(pickle.dumps(noiseless))
    assert np.array_equal(copy.act(frames[0]), first[0])
    with pytest.raises(ValueError, match="frame"):
        noiseless.act(frames)


@pytest.mark.slow
def test_evaluate_reports_every_return(tmp_path):
    report = evaluate(agent(), toys.beacon, episodes=7, seed=50, workers=2)
    assert (report.n, report.seeds, report.lengths) == (7, list(range(50, 57)), [5] * 7)
    assert report.mean == pytest.approx(np.mean(report.returns))
    assert report.std == pytest.approx(np.std(report.returns, ddof=1))
    assert report.stderr == pytest.approx(report.std / 7**0.5)
    single = [evaluate(agent(), toys.beacon, episodes=1, seed=seed).returns[0] for seed in report.seeds]
    assert_same_sums(single, report.returns, count=5 * (agent().world.num_features + 1), terms=1.0)
    report.save(tmp_path / "r.json")
    assert Report.load(tmp_path / "r.json") == report


def test_reproduce_command_contains_the_options_that_are_not_stored():
    report = Report("CartPole-v1", [1.0, 2.0], [1, 2], [50, 51])
    assert reproduce_command(["runs/a"], report, {}) == "worldmodel evaluate runs/a --eval.episodes 2 --eval.seed 50"
    command = "worldmodel evaluate runs/a --eval.episodes 2 --eval.seed 50 --eval.max_steps 9"
    command += " --env_options '{\"sticky_action_prob\": 0.25}'"
    assert reproduce_command(["runs/a"], report, {"sticky_action_prob": 0.25}, 9) == command


@pytest.mark.slow
def test_policies_play_the_seeds_of_the_report():
    report = evaluate(rollouts.uniform, toys.beacon, episodes=3, seed=40, workers=2)
    assert report.seeds == [40, 41, 42]
    played = [rollouts.play(toys.beacon(), rollouts.uniform, seed) for seed in report.seeds]
    assert_same_sums(report.returns, [float(episode.rewards.sum()) for episode in played], count=5, terms=1.0)
    assert report.lengths == [len(episode) for episode in played]
    with pytest.raises(ValueError, match="seed"):
        evaluate(rollouts.uniform, toys.beacon, episodes=3, seed=2**24)


def test_discrete_exploration_has_the_given_rate():
    world_model = world(discrete=True, actions=4)
    noiseless, exploring = (agent(world_model, action_noise=noise) for noise in (0.0, 0.4))
    space, frame = gymnasium.spaces.Discrete(4), np.zeros((64, 64, 3), np.uint8)
    greedy = noiseless(space, np.random.default_rng(0))(frame)
    chosen = [exploring(space, np.random.default_rng(seed))(frame) for seed in range(120)]
    assert np.mean([choice != greedy for choice in chosen]) == pytest.approx(0.4 * 3 / 4, abs=0.13)
    assert set(chosen) == {0, 1, 2, 3}


def test_box_exploration_has_the_given_standard_deviation():
    world_model, frame = world(), np.zeros((64, 64, 3), np.uint8)
    space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    zero = LinearController.for_world_model(world_model)
    act, saturated = (Agent(world_model, zero, std)(space, np.random.default_rng(0)) for std in (0.2, 9.0))
    drawn = [act(frame)[0] for _ in range(150)]
    assert np.std(drawn) == pytest.approx(0.2, rel=0.2)
    assert np.abs([saturated(frame)[0] for _ in range(20)]).max() <= 1


def test_param_noise_draws_a_controller_for_each_episode():
    world_model, space = world(), gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    central = agent(world_model)
    perturbed = replace(central, param_noise=0.5)
    frames = np.random.default_rng(0).integers(256, size=(3, 64, 64, 3)).astype(np.uint8)
    drawn = np.array([np.random.default_rng(seed).normal(0, 0.5, central.controller.size) for seed in range(6)])
    actor = perturbed.batched_actor(space, [np.random.default_rng(seed) for seed in range(6)], num_envs=6)
    for slot in range(6):
        actor.reset(slot, slot)
    batched = np.array([actor.act(np.stack([frame] * 6), range(6)) for frame in frames])
    assert batched.std(axis=1).min() > 1e-3  # controllers differ
    for seed, noise in enumerate(drawn):
        single = perturbed(space, np.random.default_rng(seed))
        plain = Agent(
            world_model, central.controller.with_parameters(central.controller.parameters + torch.from_numpy(noise))
        )
        reference = plain(space, np.random.default_rng(0))
        for step, frame in enumerate(frames):
            action = single(frame)
            for other in (reference(frame), batched[step, seed]):
                assert_same_sums(action, other, count=len(frames) * (world_model.num_features + 1), terms=1.0)
    assert perturbed.name == f"{central.name}-spread-0.5"
    with pytest.raises(ValueError, match="action_noise"):
        evaluate(perturbed, toys.beacon, episodes=1)


@pytest.mark.parametrize(
    ("name", "value"), [("action_noise", -0.1), ("action_noise", float("nan")), ("param_noise", -0.1)]
)
def test_invalid_noise_is_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} .*{value}"):
        agent(**{name: value})


def test_smooth_random_actions_are_smooth_and_stay_inside():
    act = rollouts.smooth_random(gymnasium.spaces.Box(-1, 1, (2,), np.float32), np.random.default_rng(0))
    walk = np.array([act(None) for _ in range(5_000)])
    steps = np.diff(walk, axis=0)
    assert np.abs(walk).max() <= 1
    assert steps.std() == pytest.approx(50**-0.5, rel=0.05)
    assert np.histogram(walk, bins=4, range=(-1, 1))[0].min() > 1_500  # reflected, not stuck at the bounds
    hold = rollouts.smooth_random(gymnasium.spaces.Discrete(5), np.random.default_rng(0))
    choices = np.array([hold(None) for _ in range(5_000)])
    assert (np.diff(choices) != 0).mean() == pytest.approx(0.8 / 8, rel=0.2)
    assert set(choices) == set(range(5))


def ones(space, rng):
    return lambda frame: np.ones(1, np.float32)


def minus_ones(space, rng):
    return lambda frame: -np.ones(1, np.float32)


def test_mixture_policies_draw_one_policy_per_episode(tmp_path):
    mixed = rollouts.MixturePolicy(ones, minus_ones)
    store = rollouts.collect(toys.beacon, mixed, 40, out=tmp_path / "s")
    assert store.metadata["policy"] == "mixed(ones, minus_ones)"
    played = [set(episode.actions.flatten()) for episode in store.episodes()]
    assert all(len(actions) == 1 for actions in played)  # one policy for a whole episode
    assert 10 <= sum(actions == {1.0} for actions in played) <= 30
    with pytest.raises(ValueError, match="polic"):
        rollouts.MixturePolicy()


def test_policies_are_made_from_names(tmp_path):
    agent().save(tmp_path / "agent")
    mixed = make_policy(f"smooth,uniform,{tmp_path / 'agent'}:0.2,{tmp_path / 'agent'}", {})
    assert mixed.policies[:2] == (rollouts.smooth_random, rollouts.uniform)
    assert [policy.action_noise for policy in mixed.policies[2:]] == [0.2, 0.1]
    assert make_policy("uniform", {}) is rollouts.uniform
    with pytest.raises(ValueError, match="policy .*'clever'"):
        make_policy("smooth,clever", {})


def test_policies_can_be_evaluated():
    report = evaluate(rollouts.uniform, "CartPole-v1", episodes=4, seed=9)
    assert report.returns == [float(length) for length in report.lengths]
    assert report.policy == "uniform"
    assert evaluate(rollouts.uniform, toys.counter, episodes=2, max_steps=3).lengths == [3, 3]


@pytest.mark.slow
def test_mario_reports_the_flag():
    report = evaluate(rollouts.uniform, "SuperMarioBros-1-1", episodes=2, seed=1, max_steps=40)
    assert report.flags == [False, False]
    assert report.flag_rate == 0.0


def test_bad_evaluations_are_refused():
    with pytest.raises(ValueError, match="episodes"):
        evaluate(agent(), toys.beacon, episodes=0)
    with pytest.raises(ValueError, match="workers"):
        evaluate(agent(), toys.beacon, episodes=1, workers=0)
    with pytest.raises(ValueError, match="episodes"):
        evaluate(agent(), toys.beacon, episodes=2**64 + 1)
    with pytest.raises(ValueError, match="seed .*16777214.*16777215"):
        evaluate(agent(), toys.beacon, episodes=2, seed=2**24 - 1)
