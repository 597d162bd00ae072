"""The memory and the world model: losses of the heads, unrolling, imagination, saving and loading."""

import pytest
import torch

from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel, seeded
from worldmodel.batches import SequenceBatch
from worldmodel.io.files import read_json, write_json
from worldmodel.memory import REWARD_BINS, _two_hot, reward_support
from worldmodel.world_model import WorldState


def memory(kind=FRMDN, **heads):
    with seeded(0):
        model = Memory(kind(input_size=6, output_size=4, hidden_size=8, num_components=2), **heads)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def build_world_model(discrete=False):
    with seeded(0):
        return WorldModel(VAE(latent_dim=4), memory(), discrete=discrete).eval()


def batch(steps=7, size=3):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(size, steps + 1, 4, generator=g)
    action = torch.rand(size, steps, 2, generator=g)
    reward, terminated = torch.randn(size, steps, generator=g), torch.zeros(size, steps)
    return SequenceBatch(z[:, :-1], action, z[:, 1:], reward, terminated, torch.ones(size, steps))


def two_hot(reward):
    """Weights of all reward bins."""
    upper, share = _two_hot(reward, reward_support(reward))
    weights = reward.new_zeros(*reward.shape, REWARD_BINS)
    weights.scatter_(-1, upper[..., None] - 1, 1 - share[..., None])
    return weights.scatter_(-1, upper[..., None], share[..., None])


def test_decoded_frames_are_rounded():
    model, latents = build_world_model(), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = (255 * model.vae.decode(latents)).detach().round().movedim(1, -1)
    assert model.decode(latents).tolist() == expected.tolist()


@pytest.mark.parametrize("rewards", [[0.0, 1.0, -0.1, 3.2, -100.0, 2980.0, -1e6, 1e6]])
def test_two_hot_has_the_reward_as_its_mean(rewards):
    reward = torch.tensor(rewards, dtype=torch.float64)
    weights = two_hot(reward)
    support = reward_support(reward)
    assert weights.shape == (len(rewards), REWARD_BINS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(rewards), dtype=torch.float64))
    assert int((weights > 0).sum(-1).max()) <= 2
    torch.testing.assert_close(weights @ support, reward.clamp(support[0], support[-1]))


def test_padding_does_not_count_in_the_mean():
    model, data = memory(), batch()
    padded = SequenceBatch(*(torch.cat((part, torch.zeros_like(part[:, :3])), dim=1) for part in data))
    torch.testing.assert_close(model.loss(padded).parts, model.loss(data).parts)


def test_loss_parts_are_the_mean_nll_and_the_heads():
    model, data = memory(), batch()
    prediction, _ = model(data.latent, data.action)
    parts = model.loss(data).parts
    torch.testing.assert_close(parts["nll"], -prediction.latent.log_prob(data.next_latent).mean())
    assert set(parts) == {"nll", "reward", "termination"}
    assert set(memory(reward=False, termination=False).loss(data).parts) == {"nll"}


def test_head_losses_equal_cross_entropies_computed_by_hand():
    model, data = memory(), batch()
    data.terminated[:, -1] = 1.0
    prediction, _ = model(data.latent, data.action)
    parts = model.loss(data).parts
    support = reward_support(data.reward)
    total = 0.0
    for logits, reward in zip(prediction.reward_logits.flatten(0, 1), data.reward.flatten(), strict=True):
        log_probs = logits.detach().double().log_softmax(-1)
        upper = int((support < reward).sum())
        share = float((reward - support[upper - 1]) / (support[upper] - support[upper - 1]))
        total -= float((1 - share) * log_probs[upper - 1] + share * log_probs[upper])
    assert float(parts["reward"]) == pytest.approx(total / data.reward.numel(), rel=1e-5)
    probability = prediction.termination_logit.detach().double().sigmoid()
    expected = -(data.terminated * probability.log() + (1 - data.terminated) * (1 - probability).log()).mean()
    assert float(parts["termination"]) == pytest.approx(float(expected), rel=1e-5)


def test_unobserved_latent_is_drawn_first():
    model = WorldModel(VAE(latent_dim=2), Memory(RMDN(4, 2, num_components=1))).eval()
    recurrent = model.observe(model.initial(3), torch.randn(3, 2), torch.randn(3, 2))
    generator = torch.Generator().manual_seed(0)
    step, _ = model.imagine(recurrent, torch.zeros(3, 2), 1e-12, generator)
    mean = model.memory.density.distribution(recurrent.hidden[:, -1]).mean
    expected, _ = model.imagine(WorldState(mean, recurrent), torch.zeros(3, 2), 1e-12, generator)
    torch.testing.assert_close(step.latent, expected.latent, atol=1e-4, rtol=1e-4)


def test_expected_reward_is_the_mean_of_the_bins():
    reward = torch.tensor([-100.0, -0.1, 0.0, 6.7], dtype=torch.float64)
    memory = Memory(FRMDN(input_size=3, output_size=2)).double()
    torch.testing.assert_close(memory.expected_reward(two_hot(reward).log()), reward, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_heads_learn_known_rewards_and_terminations():
    """The reward is twice the first action component, and a second component above 0.8 terminates the episode."""
    with seeded(1):
        model = Memory(RMDN(input_size=6, output_size=4, hidden_size=16, num_components=1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(400):
            action, z = torch.rand(32, 4, 2), torch.randn(32, 5, 4)
            data = SequenceBatch(z[:, :-1], action, z[:, 1:], 2 * action[..., 0], (action[..., 1] > 0.8).float(),
                                 torch.ones(32, 4))  # fmt: skip
            optimizer.zero_grad()
            model.loss(data).value.backward()
            optimizer.step()
        action = torch.rand(64, 4, 2)
    prediction, _ = model(torch.zeros(64, 4, 4), action)
    assert float((model.expected_reward(prediction.reward_logits) - 2 * action[..., 0]).abs().mean()) < 0.2
    terminated, continued = (
        prediction.termination_logit.sigmoid()[mask].mean() for mask in (action[..., 1] > 0.9, action[..., 1] < 0.7)
    )
    assert float(terminated) > 0.7 > 0.2 > float(continued)


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan")])
def test_padding_never_changes_loss_or_gradient(garbage):
    model, data = memory(), batch()
    data.mask[1, 4:] = 0
    results = []
    for fill in (7.0, garbage):
        parts = [part.clone() for part in data]
        for part in parts[2:5]:
            part[1, 4:] = fill
        for part in parts[:2]:  # inputs of the LSTM must be finite; their values must not matter
            part[1, 4:] = 0.0 if fill != fill else fill
        model.zero_grad()
        loss = model.loss(SequenceBatch(*parts)).value
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_observe_steps_equal_one_pass():
    model, data = build_world_model(), batch()
    state = model.initial(3)
    for t in range(data.latent.shape[1]):
        state = model.observe(state, data.latent[:, t], data.action[:, t])
    _, last = model.memory.unroll(data.latent, data.action)
    torch.testing.assert_close(state.hidden, last.hidden)


def test_imagine_repeats_with_the_same_generator():
    model = build_world_model()
    runs = []
    for _ in range(2):
        g = torch.Generator().manual_seed(4)
        state = WorldState(torch.zeros(3, 4), model.initial(3))
        for _ in range(5):
            step, state = model.imagine(state, torch.zeros(3, 2), 0.8, g)
        runs.append(step)
    assert all(a.equal(b) for a, b in zip(*runs, strict=True))


def test_imagine_draws_an_unobserved_latent():
    model = build_world_model()
    recurrent = model.observe(model.initial(2), torch.zeros(2, 4), torch.zeros(2, 2))
    step, after = model.imagine(recurrent, torch.zeros(2, 2), 0.7, torch.Generator().manual_seed(0))
    assert after.latent.equal(step.latent)
    generator = torch.Generator().manual_seed(0)
    drawn = model.memory.density.distribution(recurrent.hidden[:, -1]).sample((), 0.7, generator)
    same, _ = model.imagine(WorldState(drawn, recurrent), torch.zeros(2, 2), 0.7, generator)
    assert same.latent.equal(step.latent)


@pytest.mark.parametrize("discrete", [False, True])
def test_world_model_is_restored_from_a_folder(tmp_path, discrete):
    model = build_world_model(discrete)
    model.save(tmp_path / "w")
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == [
        "config.json",
        "memory.safetensors",
        "vae.safetensors",
    ]
    again = WorldModel.load(tmp_path / "w")
    assert again.discrete is discrete
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_squash_maps_outputs_to_actions():
    assert build_world_model().squash(torch.tensor([[0.0, 100.0]])).tolist() == [[0.0, 1.0]]
    assert build_world_model(discrete=True).squash(torch.tensor([[0.5, -1.0]])).tolist() == [[1.0, 0.0]]


def damage_truncate(folder):
    path = folder / "memory.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    return "memory.safetensors"


def damage_swap(folder):
    (folder / "memory.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
    return "memory.safetensors"


def damage_missing(folder):
    (folder / "vae.safetensors").unlink()
    return "vae.safetensors"


def damage_config(folder):
    (folder / "config.json").write_text("{")
    return "config.json"


def damage_format(folder):
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"format": 2})
    return r"config\.json.*format"


def damage_absurd(folder):
    import json

    config = json.loads((folder / "config.json").read_text())
    config["memory"]["hidden_size"] = 10**12
    write_json(folder / "config.json", config)
    return "hidden"


def damage_size(folder):
    import json

    config = json.loads((folder / "config.json").read_text())
    config["memory"]["hidden_size"] = 16
    write_json(folder / "config.json", config)
    return "memory.safetensors"


def damage_nan(folder):
    from worldmodel.io.files import read_tensors, write_tensors

    tensors = read_tensors(folder / "vae.safetensors")
    tensors["posterior.bias"][0] = float("nan")
    write_tensors(folder / "vae.safetensors", tensors)
    return "vae.safetensors.*posterior.bias"


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        damage_swap,
        damage_missing,
        damage_config,
        damage_format,
        damage_absurd,
        damage_size,
        damage_nan,
    ],
)
def test_damaged_folders_are_named(tmp_path, damage):
    build_world_model().save(tmp_path / "w")
    named = damage(tmp_path / "w")
    with pytest.raises(ValueError, match=named):
        WorldModel.load(tmp_path / "w")


def test_wrong_shapes_are_refused(as_users_do):
    model = build_world_model()
    with pytest.raises(ValueError, match=r"latent"):
        model.observe(model.initial(2), torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"action"):
        model.imagine(model.initial(2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="memory"):
        WorldModel(VAE(latent_dim=5), memory())
    with pytest.raises(ValueError, match="input_size"):
        Memory(RMDN(input_size=4, output_size=4))


def test_init_from_data_starts_near_the_statistics_of_the_data():
    data = batch(50, 20)
    data = data._replace(next_latent=5 + 0.1 * data.next_latent)
    model = memory(RMDN)
    before = float(model.loss(data).parts["nll"])
    model.init_from_data(data)
    prediction, _ = model(data.latent, data.action)
    assert float(model.loss(data).parts["nll"]) < before - 20
    torch.testing.assert_close(prediction.latent.mean.mean(dim=(0, 1)), torch.full((4,), 5.0), rtol=0, atol=0.3)


def test_init_from_data_sets_the_heads_to_the_marginals():
    data = batch(steps=40, size=8)
    reward = (torch.arange(320).reshape(8, 40) % 10 == 0).float()
    terminated = (torch.arange(320).reshape(8, 40) % 80 == 0).float()
    model = Memory(FRMDN(input_size=6, output_size=4, hidden_size=8, num_components=2))
    model.init_from_data(data._replace(reward=reward, terminated=terminated))
    prediction = model.predict(torch.randn(5, 8))
    expected = model.expected_reward(prediction.reward_logits - prediction.reward_logits.logsumexp(-1, keepdim=True))
    # The pseudo-count of one step over all bins does not move the mean: the bins are symmetric around zero.
    torch.testing.assert_close(expected, torch.full((5,), 32 / 321), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(prediction.termination_logit.sigmoid(), torch.full((5,), 4.5 / 321))
    parts = model.loss(data._replace(reward=reward, terminated=terminated)).parts
    bins = two_hot(reward).mean(dim=(0, 1))
    rate = torch.tensor(4 / 320)
    assert float(parts["reward"]) < float(torch.special.entr(bins).sum()) + 0.05
    assert float(parts["termination"]) < float(torch.special.entr(rate) + torch.special.entr(1 - rate)) + 0.01


def test_init_from_data_ignores_padding():
    data = batch()
    padded = SequenceBatch(
        *(torch.cat((part, torch.full_like(part, 7.0))) for part in data[:-1]), torch.cat((data.mask, 0 * data.mask))
    )
    first, second = memory(), memory()
    first.init_from_data(data)
    second.init_from_data(padded)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_reward_loss_is_weighted():
    data = batch()
    plain, weighted = memory().loss(data), memory(reward_weight=30.0).loss(data)
    torch.testing.assert_close(weighted.value, plain.value + 29 * plain.parts["reward"])
    assert set(weighted.parts) == set(plain.parts)


@pytest.mark.parametrize("reward_weight", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_reward_weight_is_refused(reward_weight):
    with pytest.raises(ValueError, match="reward_weight"):
        memory(reward_weight=reward_weight)


def test_reward_weight_is_saved(tmp_path):
    WorldModel(VAE(latent_dim=4), memory(reward_weight=30.0)).save(tmp_path)
    assert WorldModel.load(tmp_path).memory.reward_weight == 30.0
