"""The autoregressive head: causality, normalization, samples that follow the density, and its place among the models."""

import pytest
import torch
from torch.distributions import Normal

from worldmodel import seeded
from worldmodel.baselines import AutoregressiveRNN
from worldmodel.registry import build_mdn_rnn

BATCH = 3


def network(size=4, components=3, spread=0.4, **sizes):
    with seeded(1):
        made = AutoregressiveRNN(
            size, size, **{"hidden_size": 8, "width": 16} | sizes, num_components=components
        ).double()
        for parameter in made.parameters():
            parameter.data += spread * torch.randn_like(parameter)
        made.init_from_statistics(torch.randn(size), 0.5 + torch.rand(size))
    return made


def distribution(net, batch=BATCH):
    features = torch.randn(batch, net.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return net.distribution(features)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("width", [1, 3, 16])
def test_a_dimension_depends_on_those_before_it_alone(size, width):
    net = network(size, width=width)
    features = torch.randn(net.hidden_size, dtype=torch.float64)

    def means(value):
        return net._mixtures_after(features, value).loc.squeeze(-1).sum(dim=-1)

    jacobian = torch.autograd.functional.jacobian(means, torch.randn(size, dtype=torch.float64))
    assert torch.equal(jacobian.triu(), torch.zeros_like(jacobian))
    if width >= size > 1:
        assert (jacobian.tril(-1).abs() > 0).sum() == size * (size - 1) // 2


def test_the_density_integrates_to_1_and_is_a_product_of_mixtures():
    net = network(2, spread=0.2)
    dist = distribution(net)
    line = torch.linspace(-16, 16, 700, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    area = (line[1] - line[0]) ** 2
    total = dist.log_prob(grid[:, None].expand(-1, BATCH, -1)).exp().sum(dim=0) * area
    torch.testing.assert_close(total, torch.ones(BATCH, dtype=torch.float64), atol=2e-3, rtol=0)
    value, expected = torch.tensor([0.3, -0.8], dtype=torch.float64), 0.0
    for dimension in range(2):
        scalar = net._mixtures_after(dist.features, value.expand(BATCH, 2))
        weights = scalar.logits[:, dimension].softmax(dim=-1)
        std = (-0.5 * scalar.log_precision[:, dimension, :, 0]).exp()
        density = Normal(scalar.loc[:, dimension, :, 0], std).log_prob(value[dimension]).exp()
        expected = expected + (weights * density).sum(dim=-1).log()
    torch.testing.assert_close(dist.log_prob(value), expected)


def test_samples_follow_the_density():
    """The probability integral transform of each dimension, given those before it, is uniform and independent."""
    net = network(3)
    dist = distribution(net, 1)
    drawn = dist.sample((20_000,), generator=torch.Generator().manual_seed(3))[:, 0]
    scalar = net._mixtures_after(dist.features.expand(len(drawn), -1), drawn)
    std = (-0.5 * scalar.log_precision[..., 0]).exp()
    below = Normal(scalar.loc[..., 0], std).cdf(drawn[..., None])
    uniform = (scalar.logits.softmax(dim=-1) * below).sum(dim=-1)
    for dimension in range(3):
        steps = torch.linspace(0, 1, len(drawn), dtype=torch.float64)
        assert (uniform[:, dimension].sort().values - steps).abs().max() < 1.9 / len(drawn) ** 0.5  # p about 0.001
    assert uniform.T.corrcoef().triu(1).abs().max() < 0.03


def test_cold_samples_are_the_mode_and_noise_decides_the_rest():
    dist = distribution(network(4))
    cold = dist.sample((5,), temperature=1e-9, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(cold, dist.mode.expand(5, -1, -1), atol=1e-3, rtol=0)
    normal = torch.randn(BATCH, 4, dtype=torch.float64)
    gumbel = torch.rand(BATCH, 4, 3, dtype=torch.float64)
    one, other = (dist.rsample_from_noise(gumbel, normal, temperature) for temperature in (1.0, 0.5))
    torch.testing.assert_close(one, dist.rsample_from_noise(gumbel, normal))
    assert not torch.allclose(one, other)
    with pytest.raises(ValueError, match="temperature"):
        dist.sample(temperature=0.0)


def test_an_expanded_distribution_has_the_same_density():
    dist = distribution(network(4))
    value = torch.randn(BATCH, 4, dtype=torch.float64)
    torch.testing.assert_close(dist.expand((6, BATCH)).log_prob(value), dist.log_prob(value).expand(6, BATCH))
    assert dist.expand((6, BATCH)).sample((2,)).shape == (2, 6, BATCH, 4)


def test_a_new_head_is_the_one_without_dependence():
    with seeded(1):
        net = AutoregressiveRNN(4, 4, hidden_size=8)
    features = torch.randn(BATCH, 8)
    plain = super(AutoregressiveRNN, net).distribution(features)
    value = torch.randn(BATCH, 4)
    torch.testing.assert_close(net.distribution(features).log_prob(value), plain.log_prob(value))


def test_its_settings_rebuild_it():
    net = network(4)
    again = build_mdn_rnn({"density": "AutoregressiveRNN", **net.config}).double()
    again.load_state_dict(net.state_dict())
    value = torch.randn(BATCH, 4, dtype=torch.float64)
    assert torch.equal(distribution(net).log_prob(value), distribution(again).log_prob(value))
    with pytest.raises(ValueError, match="width"):
        AutoregressiveRNN(4, 4, width=0)
