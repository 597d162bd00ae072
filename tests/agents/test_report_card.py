"""Report cards of hand-made worlds, whose rewards, terminations and latents are known exactly."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldmodel import RMDN, VAE, Memory, WorldModel
from worldmodel.agents.analysis.dream_comparison import DRIFT_HORIZONS, HORIZONS, MAIN_HORIZON, correlation
from worldmodel.agents.analysis.report_card import ReportCard, report_card, table_of
from worldmodel.agents.analysis.verdicts import _ranking, verdicts_of_card
from worldmodel.distributions import GaussianMixture
from worldmodel.io.files import from_json
from worldmodel.mdn_rnn import State
from worldmodel.rollouts.policy.controllers import LinearController
from worldmodel.rollouts.store.encoded_dataset import EncodedEpisode

SPEED, BIN = 0.1, 35
"""Distance of a step with action 1, and index of the reward bin of the largest reward."""


class Walk(nn.Module):
    """A density without noise, or with some: the first latent moves by ``speed`` times the action; features are the input."""

    input_size, output_size, hidden_size, num_features, noise_shapes = 3, 2, 3, 3, ((1,), (2,))
    residual = False

    def __init__(self, speed: float, log_precision: Tensor | float = 60.0) -> None:
        super().__init__()
        self.log_precision = log_precision
        self.step = nn.Parameter(torch.tensor([speed, 0.0]))

    def initial(self, batch):
        return State(torch.zeros(batch, 1, 3), torch.zeros(batch, 1, 0))

    def unroll(self, x, state=None):
        return x, State(x[:, -1:], torch.zeros(len(x), 1, 0))

    def features(self, state):
        return state.hidden[:, -1]

    def distribution(self, hidden):
        loc = (hidden[..., :2] + hidden[..., 2:] * self.step)[..., None, :]
        return GaussianMixture(torch.zeros_like(loc[..., 0]), loc, torch.zeros_like(loc) + self.log_precision)


class ExactReward(nn.Module):
    """Logits whose expected reward is (1 + action) / 4 times the reward of a bin."""

    def forward(self, hidden):
        share = (1 + hidden[..., 2]) / 4
        logits = torch.full((*share.shape, 63), -1e4)
        logits[..., BIN], logits[..., 31] = share.log(), (1 - share).log()  # the middle bin is 0
        return logits


class ExactTermination(nn.Module):
    """Logits of termination where the position after the step is above 1."""

    def forward(self, hidden):
        return 40 * torch.where(hidden[..., :1] + SPEED * hidden[..., 2:] > 1, 1.0, -1.0)


def world_of(speed=SPEED, reward: nn.Module | None = None, termination: nn.Module | None = None, **heads):
    memory = Memory(RMDN(3, 2, hidden_size=3, num_components=1), **heads)
    memory.density = Walk(speed)
    memory.reward_head = reward or memory.reward_head
    memory.termination_head = termination or memory.termination_head
    return WorldModel(VAE(latent_dim=2), memory).eval()


def exact_world():
    return world_of(reward=ExactReward(), termination=ExactTermination())


def played(count, steps, seed, policy=None, terminates=True):
    """Episodes of the walk; each has its own mean action, and the second latent identifies it."""
    rng, largest = np.random.default_rng(seed), float(exact_world().memory.support[BIN])
    episodes = []
    for number in range(count):
        latent, actions, drive = (
            [np.array([rng.uniform(-1, 0.5), number / count], np.float32)],
            [],
            rng.uniform(-0.5, 0.8),
        )
        for _ in range(steps):
            action = policy(latent[-1]) if policy else np.clip(drive + rng.normal(0, 0.2), -1, 1)
            actions.append(np.float32(action))
            latent.append(latent[-1] + np.float32([SPEED, 0]) * actions[-1])
            if terminates and latent[-1][0] > 1:
                break
        action = np.array(actions, np.float32)[:, None]
        ended = np.zeros(len(action), np.float32)
        ended[-1] = float(terminates and latent[-1][0] > 1)
        mean = np.stack(latent)
        reward = ((1 + action[:, 0]) / 4 * largest).astype(np.float32)
        episodes.append(EncodedEpisode(mean, np.full_like(mean, -8), action, reward, ended))
    return episodes


@pytest.fixture(scope="module")
def episodes():
    return played(20, 150, 0)


@pytest.fixture(scope="module")
def card(episodes):
    return report_card(exact_world(), episodes)


def test_an_exact_world_gets_full_marks(card, episodes):
    fit = card.rewards[0]
    assert (fit.r2, fit.slope) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-3))
    assert fit.predicted == pytest.approx(fit.real, rel=1e-4)
    assert [one.horizon for one in card.promises] == list(HORIZONS)
    for one in card.promises:
        assert one.correlation == pytest.approx(1, abs=1e-3)
        assert one.dream == pytest.approx(one.real, rel=1e-3)
        assert one.dream_survival == pytest.approx(one.real_survival, abs=1e-6)
        assert one.survival_correlation in (None, pytest.approx(1))
    assert card.promise().survival_correlation == pytest.approx(1)
    assert card.promise().other_actions < 0.9
    assert card.termination.real == sum(int(one.terminated.sum()) for one in episodes) > 5
    assert card.termination.predicted == pytest.approx(card.termination.real)
    assert card.termination.skill == pytest.approx(1)
    assert [one.mean for one in card.drift] == pytest.approx([1] * len(card.drift), abs=1e-5)
    assert [one.dream for one in card.drift] == pytest.approx([1] * len(card.drift), abs=1e-5)
    assert card.agreement is None
    assert {one.level for one in verdicts_of_card(card)} == {"good"}


def test_dead_heads_rank_nothing(episodes):
    """Heads of zeros predict the same reward and the same probability everywhere."""
    card = report_card(world_of(), episodes)
    assert card.rewards[0].r2 <= 0
    assert card.rewards[0].slope is None
    for one in card.promises:
        assert one.correlation == one.other_actions == 0 or one.horizon > MAIN_HORIZON
        assert one.survival_correlation in (None, 0)
    assert [one.level for one in verdicts_of_card(card)][:2] == ["bad", "bad"]


def test_a_world_that_stands_still_drifts_as_persistence(episodes):
    card = report_card(world_of(speed=0.0), episodes)
    for one in card.drift:
        assert one.mean == one.dream == pytest.approx(one.persistence, abs=1e-6)
    assert (card.latent_steps, card.max_latent_steps) == (0, max(DRIFT_HORIZONS))
    assert verdicts_of_card(card)[-1].level == "weak"


def test_latents_of_another_episode_explain_nothing(episodes):
    other = report_card(exact_world(), episodes).drift[0].other
    assert other < 0


def test_missing_heads_and_short_episodes_have_no_values(episodes):
    card = report_card(world_of(reward=None, termination=None, speed=SPEED), [one.window(0, 4) for one in episodes])
    assert card.promises == []
    assert [one.horizon for one in card.drift] == [1]
    bare = world_of(speed=SPEED)
    bare.memory.reward_head = bare.memory.termination_head = None
    card = report_card(bare, episodes)
    assert (card.rewards, card.termination) == ([], None)
    assert [one.part for one in verdicts_of_card(card)] == ["latents"]
    one_step = report_card(bare, [episodes[0].window(0, 1)])
    assert (one_step.promises, one_step.drift, verdicts_of_card(one_step)) == ([], [], [])
    with pytest.raises(ValueError, match="held_out"):
        report_card(bare, [])


def test_the_end_of_a_recording_tells_a_dream_nothing():
    """Episodes have different lengths and a reward of 1 per step; a memory that predicts no end ranks nothing."""
    rng = np.random.default_rng(0)
    some = [one.window(0, int(rng.integers(5, 60))) for one in played(20, 80, 1, terminates=False)]
    ended = [one._replace(reward=np.ones_like(one.reward), terminated=np.eye(len(one.reward))[-1]) for one in some]
    constant = world_of()
    constant.memory.termination_head = None
    card = report_card(constant, ended)
    assert card.promise().correlation == 0
    assert card.promise().real < MAIN_HORIZON


def test_a_controller_is_compared_with_its_own_episodes(episodes):
    world = exact_world()
    controller = LinearController(5, 1, torch.tensor([0.3, 0.5, 0, 0, 0, 0.1]))

    def act(latent):
        return np.tanh(0.3 * latent[0] + 0.5 * latent[1] + 0.1)

    own = played(12, 150, 3, act)
    card = report_card(world, episodes, own, controller)
    promise = card.promise("controller")
    assert promise.correlation == pytest.approx(1, abs=1e-3)
    assert promise.dream == pytest.approx(promise.real, rel=1e-3)
    assert [fit.steps for fit in card.rewards][-1] == "controller"
    assert card.rewards[-1].r2 == pytest.approx(1, abs=1e-3)


def test_members_of_an_ensemble_agree_if_they_are_equal(episodes, card):
    exact, dead = exact_world(), world_of(termination=ExactTermination())
    equal = report_card(exact, episodes, ensemble=[exact_world().memory, exact_world().memory])
    assert (equal.agreement.num_members, equal.agreement.correlation) == (2, pytest.approx(1))
    assert equal.agreement.spread == pytest.approx(0, abs=1e-6)
    assert equal.promise().correlation == pytest.approx(card.promise().correlation, abs=1e-3)
    mixed = report_card(exact, episodes, ensemble=[exact.memory, dead.memory, exact.memory])
    assert mixed.agreement.spread > 0.1


def test_noise_of_a_true_world_is_not_its_error():
    """Actions pull a noisy latent back, so 0.49 of its variance is predictable; copies of a world know no more than one."""
    rng, world, noisy = np.random.default_rng(0), exact_world(), []
    world.memory.density = Walk(1.0, torch.tensor([0.0, 60.0]))
    for _ in range(20):
        latent, noise = np.zeros((201, 2), np.float32), rng.normal(size=201)
        for step in range(200):
            latent[step + 1, 0] = 0.7 * latent[step, 0] + noise[step]
        action, zeros = -0.3 * latent[:-1, :1], np.zeros(200, np.float32)
        noisy.append(EncodedEpisode(latent, np.full_like(latent, -8), action, zeros, zeros))
    one, three = (report_card(world, noisy, ensemble=[world.memory] * members).drift[0] for members in (1, 3))
    assert one.mean == pytest.approx(0.49, abs=0.2)  # 48 start states
    assert one.dream < one.mean - 0.2
    assert (three.mean, three.dream) == pytest.approx((one.mean, one.dream), abs=1e-5)


def steady_hazard(hazard, limit, count=400, seed=0):
    """Episodes of reward 1 that terminate with the same probability at each step, or are truncated."""
    rng, blank = np.random.default_rng(seed), np.zeros((limit + 1, 2), np.float32)
    episodes = []
    for _ in range(count):
        last = int(rng.geometric(hazard))
        steps, ended = min(last, limit), np.zeros(min(last, limit), np.float32)
        ended[-1] = last <= limit
        action = np.zeros((steps, 1), np.float32)
        episodes.append(
            EncodedEpisode(blank[: steps + 1], blank[: steps + 1], action, np.ones(steps, np.float32), ended)
        )
    return episodes


def test_start_states_are_not_chosen_by_what_follows():
    episodes = steady_hazard(0.02, 40)
    for one in report_card(world_of(), episodes).promises:
        assert one.real_survival == pytest.approx(0.98**one.horizon, abs=0.15)
        assert one.real == pytest.approx((1 - 0.98**one.horizon) / 0.02, rel=0.2)
    assert len(report_card(world_of(), episodes).promises) == 2  # 100 steps do not fit before the time limit


def test_a_share_of_the_attainable_correlation_is_not_bad():
    """A true world of rare random ends cannot rank them well; one that predicts nothing ranks nothing."""
    promise = replace(report_card(world_of(), steady_hazard(0.02, 40)).promises[0], survival_correlation=0.25)
    levels = [
        _ranking("terminations", promise.survival_correlation, attainable, "").level for attainable in (None, 0.38, 0.9)
    ]
    assert levels == ["bad", "weak", "bad"]
    assert _ranking("terminations", 0.05, 0.05, "").level == "bad"


def test_a_head_that_only_its_noise_limits_is_good():
    """Correlations 0.5 with the game and 0.52 of dreams with each other; noise that nothing outweighs excuses nothing."""
    levels = [_ranking("rewards", 0.5, attainable, "").level for attainable in (None, 0.52, 0.9, 0.1)]
    assert levels == ["weak", "good", "weak", "weak"]
    assert _ranking("rewards", 0.5, 0.52, "", other_actions=0.5).level == "weak"


def test_cards_survive_json(card, tmp_path):
    content = json.loads(json.dumps(card.to_json, allow_nan=False))
    assert from_json(ReportCard, content, tmp_path) == card
    content["drift"][0]["mean"] = "much"
    with pytest.raises(ValueError, match="mean"):
        from_json(ReportCard, content, tmp_path)


def test_tables_have_a_column_for_each_card(card):
    other = replace(card, termination=None, rewards=[])
    rows = table_of({"one": card, "two": other})
    assert rows[0] == ["", "one", "two"]
    assert all(len(row) == 3 for row in rows)
    assert any(row[1] and not row[2] for row in rows)


def test_constant_values_have_no_correlation():
    line = np.arange(10.0)
    assert correlation(line, 3 * line + 1) == pytest.approx(1)
    assert correlation(line, -line) == pytest.approx(-1)
    assert correlation(np.full(10, 0.1), line) == 0
    assert correlation(line, np.full(10, 0.1)) is None
