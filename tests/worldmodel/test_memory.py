import pytest
import torch

from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel, seeded
from worldmodel.batches import SequenceBatch
from worldmodel.io import write_json
from worldmodel.memory import REWARD_BINS, _two_hot, reward_support


def memory(kind=FRMDN, **heads):
    with seeded(0):
        built = Memory(kind(input_size=6, output_size=4, hidden_size=8, num_components=2), **heads)
        for parameter in built.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return built


def world(discrete=False):
    with seeded(0):
        return WorldModel(VAE(latent_dim=4), memory(), discrete=discrete).eval()


def batch(steps=7, size=3):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(size, steps + 1, 4, generator=g)
    action = torch.rand(size, steps, 2, generator=g)
    reward, terminated = torch.randn(size, steps, generator=g), torch.zeros(size, steps)
    return SequenceBatch(z[:, :-1], action, z[:, 1:], reward, terminated, torch.ones(size, steps))


def two_hot(reward):
    """The weights of all bins."""
    upper, share = _two_hot(reward, reward_support(reward))
    weights = reward.new_zeros(*reward.shape, REWARD_BINS)
    weights.scatter_(-1, upper[..., None] - 1, 1 - share[..., None])
    return weights.scatter_(-1, upper[..., None], share[..., None])


@pytest.mark.parametrize("rewards", [[0.0, 1.0, -0.1, 3.2, -100.0, 2980.0, -1e6, 1e6]])
def test_two_hot_has_the_reward_as_its_mean(rewards):
    reward = torch.tensor(rewards, dtype=torch.float64)
    weights = two_hot(reward)
    support = reward_support(reward)
    assert weights.shape == (len(rewards), REWARD_BINS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(len(rewards), dtype=torch.float64))
    assert int((weights > 0).sum(-1).max()) <= 2
    torch.testing.assert_close(weights @ support, reward.clamp(support[0], support[-1]))


def test_loss_is_the_mean_nll_and_the_heads():
    model, data = memory(), batch()
    prediction, _ = model(data.latent, data.action)
    parts = model.loss(data).parts
    torch.testing.assert_close(parts["nll"], -prediction.latent.log_prob(data.next_latent).mean())
    assert set(parts) == {"nll", "reward", "termination"}
    assert set(memory(reward=False, termination=False).loss(data).parts) == {"nll"}


def test_heads_are_cross_entropies_by_hand():
    model, data = memory(), batch()
    data.terminated[:, -1] = 1.0
    prediction, _ = model(data.latent, data.action)
    parts = model.loss(data).parts
    support = reward_support(data.reward)
    total = 0.0
    for logits, reward in zip(prediction.reward_logits.flatten(0, 1), data.reward.flatten(), strict=True):
        logs = logits.detach().double().log_softmax(-1)
        above = int((support < reward).sum())
        share = float((reward - support[above - 1]) / (support[above] - support[above - 1]))
        total -= float((1 - share) * logs[above - 1] + share * logs[above])
    assert float(parts["reward"]) == pytest.approx(total / data.reward.numel(), rel=1e-5)
    chance = prediction.termination_logit.detach().double().sigmoid()
    wanted = -(data.terminated * chance.log() + (1 - data.terminated) * (1 - chance).log()).mean()
    assert float(parts["termination"]) == pytest.approx(float(wanted), rel=1e-5)


def test_a_latent_that_was_not_seen_is_drawn_with_the_noise_s_own_temperature():
    built = WorldModel(VAE(latent_dim=2), Memory(RMDN(4, 2, num_components=1))).eval()
    state = built.observe(built.initial(3), torch.randn(3, 2), torch.randn(3, 2))
    generator = torch.Generator().manual_seed(0)
    step, _ = built.imagine(state, torch.zeros(3, 2), 1.0, generator, noise_temperature=1e-12)
    mean = built.memory.density.distribution(state.hidden).mean
    wanted, _ = built.imagine(state.with_latent(mean), torch.zeros(3, 2), 1.0, generator, noise_temperature=1e-12)
    torch.testing.assert_close(step.latent, wanted.latent, atol=1e-4, rtol=1e-4)


def test_expected_reward_is_the_mean_of_the_bins():
    reward = torch.tensor([-100.0, -0.1, 0.0, 6.7], dtype=torch.float64)
    memory = Memory(FRMDN(input_size=3, output_size=2)).double()
    torch.testing.assert_close(memory.expected_reward(two_hot(reward).log()), reward, rtol=1e-6, atol=1e-6)


def test_heads_learn_what_is_true():
    """The reward is twice the first action, and every action above 0.8 ends the episode."""
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
    ends, goes = (
        prediction.termination_logit.sigmoid()[mask].mean() for mask in (action[..., 1] > 0.9, action[..., 1] < 0.7)
    )
    assert float(ends) > 0.7 > 0.2 > float(goes)


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan")])
def test_padding_never_changes_loss_or_gradient(garbage):
    model, data = memory(), batch()
    data.mask[1, 4:] = 0
    results = []
    for fill in (7.0, garbage):
        parts = [part.clone() for part in data]
        for part in parts[2:5]:
            part[1, 4:] = fill
        for part in parts[:2]:  # inputs must be numbers for the LSTM; their values must not matter
            part[1, 4:] = 0.0 if fill != fill else fill
        model.zero_grad()
        loss = model.loss(SequenceBatch(*parts)).value
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_observe_steps_equal_one_pass():
    built, data = world(), batch()
    state = built.initial(3)
    for t in range(data.latent.shape[1]):
        state = built.observe(state, data.latent[:, t], data.action[:, t])
    _, last = built.memory.unroll(data.latent, data.action)
    torch.testing.assert_close(state.memory.hidden, last.hidden)
    torch.testing.assert_close(state.hidden, last.hidden[:, -1])


def test_imagine_repeats_with_the_same_generator():
    built = world()
    runs = []
    for _ in range(2):
        g = torch.Generator().manual_seed(4)
        state = built.initial(3).with_latent(torch.zeros(3, 4))
        for _ in range(5):
            step, state = built.imagine(state, torch.zeros(3, 2), 0.8, g)
        runs.append(step)
    assert all(a.equal(b) for a, b in zip(*runs, strict=True))


def test_imagine_draws_the_latent_that_was_not_seen():
    built = world()
    state = built.observe(built.initial(2), torch.zeros(2, 4), torch.zeros(2, 2))
    assert state.latent is None
    step, after = built.imagine(state, torch.zeros(2, 2), 0.7, torch.Generator().manual_seed(0))
    assert after.latent is not None
    assert after.latent.equal(step.latent)
    generator = torch.Generator().manual_seed(0)
    drawn = built.memory.density.distribution(state.hidden).sample((), 0.7, generator)
    same, _ = built.imagine(state.with_latent(drawn), torch.zeros(2, 2), 0.7, generator)
    assert same.latent.equal(step.latent)


@pytest.mark.parametrize("discrete", [False, True])
def test_save_and_load(tmp_path, discrete):
    built = world(discrete)
    built.save(tmp_path / "w")
    assert sorted(p.name for p in (tmp_path / "w").iterdir()) == [
        "config.json",
        "memory.safetensors",
        "vae.safetensors",
    ]
    again = WorldModel.load(tmp_path / "w")
    assert again.discrete is discrete
    for one, other in zip(built.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_squash():
    assert world().squash(torch.tensor([[0.0, 100.0]])).tolist() == [[0.0, 1.0]]
    assert world(discrete=True).squash(torch.tensor([[0.5, -1.0]])).tolist() == [[1.0, 0.0]]


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
    from worldmodel.io import read_tensors, write_tensors

    tensors = read_tensors(folder / "vae.safetensors")
    tensors["posterior.bias"][0] = float("nan")
    write_tensors(folder / "vae.safetensors", tensors)
    return "vae.safetensors.*posterior.bias"


@pytest.mark.parametrize(
    "damage",
    [damage_truncate, damage_swap, damage_missing, damage_config, damage_absurd, damage_size, damage_nan],
)
def test_damaged_folders_are_named(tmp_path, damage):
    world().save(tmp_path / "w")
    named = damage(tmp_path / "w")
    with pytest.raises(ValueError, match=named):
        WorldModel.load(tmp_path / "w")


def test_shapes_are_checked(as_users_do):
    built = world()
    with pytest.raises(ValueError, match=r"latent"):
        built.observe(built.initial(2), torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"action"):
        built.imagine(built.initial(2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="memory"):
        WorldModel(VAE(latent_dim=5), memory())
    with pytest.raises(ValueError, match="input_size"):
        Memory(RMDN(input_size=4, output_size=4))


def test_a_training_begins_near_the_data_s_statistics():
    data = batch(50, 20)
    data = data._replace(next_latent=5 + 0.1 * data.next_latent)
    model = memory(RMDN)
    before = float(model.loss(data).parts["nll"])
    model.init_from_data(data)
    prediction, _ = model(data.latent, data.action)
    assert float(model.loss(data).parts["nll"]) < before - 20
    torch.testing.assert_close(prediction.latent.mean.mean(dim=(0, 1)), torch.full((4,), 5.0), rtol=0, atol=0.3)


def test_the_heads_begin_at_the_data_s_marginals():
    data = batch(steps=40, size=8)
    reward = (torch.arange(320).reshape(8, 40) % 10 == 0).float()
    terminated = (torch.arange(320).reshape(8, 40) % 80 == 0).float()
    model = Memory(FRMDN(input_size=6, output_size=4, hidden_size=8, num_components=2))
    model.init_from_data(data._replace(reward=reward, terminated=terminated))
    prediction = model.predict(torch.randn(5, 8))
    expected = model.expected_reward(prediction.reward_logits - prediction.reward_logits.logsumexp(-1, keepdim=True))
    # The one step of weight that is spread over all bins moves nothing: the bins are symmetric around zero.
    torch.testing.assert_close(expected, torch.full((5,), 32 / 321), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(prediction.termination_logit.sigmoid(), torch.full((5,), 4.5 / 321))
    parts = model.loss(data._replace(reward=reward, terminated=terminated)).parts
    bins = two_hot(reward).mean(dim=(0, 1))
    rate = torch.tensor(4 / 320)
    assert float(parts["reward"]) < float(torch.special.entr(bins).sum()) + 0.05
    assert float(parts["termination"]) < float(torch.special.entr(rate) + torch.special.entr(1 - rate)) + 0.01


def test_padding_does_not_move_where_the_heads_begin():
    data = batch()
    padded = SequenceBatch(
        *(torch.cat((part, torch.full_like(part, 7.0))) for part in data[:-1]), torch.cat((data.mask, 0 * data.mask))
    )
    first, second = memory(), memory()
    first.init_from_data(data)
    second.init_from_data(padded)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_reward_s_loss_is_weighted():
    data = batch()
    plain, weighted = memory().loss(data), memory(reward_weight=30.0).loss(data)
    torch.testing.assert_close(weighted.value, plain.value + 29 * plain.parts["reward"])
    assert set(weighted.parts) == set(plain.parts)


@pytest.mark.parametrize("reward_weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_reward_weight_that_is_none_is_refused(reward_weight):
    with pytest.raises(ValueError, match="reward_weight"):
        memory(reward_weight=reward_weight)


def test_the_reward_weight_is_saved(tmp_path):
    WorldModel(VAE(latent_dim=4), memory(reward_weight=30.0)).save(tmp_path)
    assert WorldModel.load(tmp_path).memory.reward_weight == 30.0
