"""Report card of a world model: whether evolution in its dreams can pay.

Start reading at `report_card`. Evolution compares controllers by their dreamed returns. So the main numbers are correlations of
dreams and the game over start states, and the number of steps over which dreamed latents are better than persistence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldmodel import Memory, WorldModel
from worldmodel.agents.analysis.dream_comparison import (
    MAIN_HORIZON,
    Agreement,
    Drift,
    Promise,
    controller_promises,
    correlation,
    measure_drift,
    recorded_promises,
)
from worldmodel.agents.analysis.metrics import join, predict_steps, r_squared, reliability
from worldmodel.messages import format_number
from worldmodel.rollouts.policy.controllers import Controller
from worldmodel.rollouts.store.encoded_dataset import EncodedEpisode


@dataclass(frozen=True)
class RewardFit:
    """One-step predictions of rewards on real steps."""

    steps: str
    """The steps: "all", "rewarded" (above zero) or "controller" (its own episodes)."""
    num_steps: int
    r2: float | None
    """``1 - SSE / SS``; None: the rewards are constant."""
    slope: float | None
    """Slope of the regression of real on predicted rewards, 1 if calibrated; None: the predictions are constant."""
    predicted: float
    """Mean predicted reward."""
    real: float
    """Mean real reward."""


@dataclass(frozen=True)
class TerminationFit:
    """One-step predictions of terminations on held-out steps."""

    num_steps: int
    predicted: float
    """Expected number of terminations."""
    real: int
    """Number of terminations."""
    skill: float | None
    """1 - NLL / NLL of the constant rate of these steps; None: the rate is 0 or 1."""
    reliability: list[list[float]]
    """Mean probability, frequency and number of steps, for each bin of probabilities."""


@dataclass(frozen=True)
class ReportCard:
    """Report card of a world model."""

    rewards: list[RewardFit]
    """Empty without a reward head."""
    termination: TerminationFit | None
    """None: there is no termination head."""
    promises: list[Promise]
    drift: list[Drift]
    latent_steps: int
    """Number of open-loop steps at which the mean of dreams is better than persistence and than the mean latent."""
    max_latent_steps: int
    """Number of open-loop steps that were compared."""
    agreement: Agreement | None
    """None: there is no ensemble."""

    @property
    def to_json(self) -> dict[str, Any]:
        """Plain values for a file; `worldmodel.io.files.from_json` reads them."""
        return asdict(self)

    def promise(self, behavior: str = "recorded", horizon: int = MAIN_HORIZON) -> Promise | None:
        """Return the comparison of a behavior over a horizon, or over the longest one below that; None: there is none."""
        found = [one for one in self.promises if one.behavior == behavior and one.horizon <= horizon]
        return found[-1] if found else None


@torch.inference_mode()
def report_card(
    world: WorldModel,
    held_out: Sequence[EncodedEpisode],
    own: Sequence[EncodedEpisode] = (),
    controller: Controller | None = None,
    ensemble: Sequence[Memory] | None = None,
    latent_targets: str = "mean",
    seed: int = 0,
    max_idle_steps: int | None = None,
) -> ReportCard:
    """Measure a world model on episodes that its training did not use.

    Args:
        world: World model.
        held_out: Encoded episodes of any behaviour policy.
        own: Encoded episodes of a controller or another agent, the newest ones.
        controller: The controller that played ``own``; None: it is unknown.
        ensemble: Memories that imagine; dream n uses memory n modulo their number. None: the world model's own memory.
        latent_targets: Latents of one-step predictions: "mean" of the posterior, or "sample" from it, as in training.
        seed: Seed of start states and noise.
        max_idle_steps: Number of idle steps that truncate an episode; None: no idle truncation.

    Raises:
        ValueError: ``held_out`` is empty.
    """
    if not held_out:
        raise ValueError("held_out must hold at least one episode, got none")
    memory, rng = world.eval().memory, np.random.default_rng(seed)
    members = list(ensemble or [memory])
    steps = [predict_steps(memory, episode, latent_targets, number) for number, episode in enumerate(held_out)]
    own_steps = [predict_steps(memory, one, latent_targets, len(steps) + number) for number, one in enumerate(own)]
    rewards, predicted, real = [], join(steps, "predicted_reward"), join(steps, "reward")
    if predicted is not None:
        rewards = [_reward_fit("all", predicted, real)]
        if (rewarded := real > 0).any() and not rewarded.all():
            rewards.append(_reward_fit("rewarded", predicted[rewarded], real[rewarded]))
        if own_steps:
            rewards.append(_reward_fit("controller", join(own_steps, "predicted_reward"), join(own_steps, "reward")))
    probability = join(steps, "termination")
    promises, agreement = recorded_promises(world, members, held_out, rng, max_idle_steps)
    if controller is not None and own:
        promises += controller_promises(world, own, controller, members, seed, max_idle_steps)
    return ReportCard(
        rewards,
        None if probability is None else _termination_fit(probability, join(steps, "terminated")),
        promises,
        *measure_drift(world, members, held_out, rng),
        agreement,
    )


def _reward_fit(name: str, predicted: Tensor, real: Tensor) -> RewardFit:
    r = correlation(predicted.cpu().numpy(), real.cpu().numpy())
    slope = r * float(real.std() / predicted.std()) if r else None
    return RewardFit(name, len(real), r_squared(predicted, real), slope, float(predicted.mean()), float(real.mean()))


def _termination_fit(probability: Tensor, terminated: Tensor) -> TerminationFit:
    loss, rate = torch.nn.functional.binary_cross_entropy, terminated.mean()
    constant = float(loss(rate.expand_as(terminated), terminated))
    return TerminationFit(
        len(terminated),
        float(probability.sum()),
        int(terminated.sum()),
        1 - float(loss(probability, terminated)) / constant if 0 < rate < 1 else None,
        [list(row) for row in reliability(probability, terminated)],
    )


def table_of(cards: Mapping[str, ReportCard]) -> list[list[str]]:
    """Return report cards as rows of texts: the names of the cards, then each measurement with its value on every card."""
    columns = [_measurements(card) for card in cards.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    return [["", *cards], *([name, *(column.get(name, "") for column in columns)] for name in names)]


def _measurements(card: ReportCard) -> dict[str, str]:
    """Return the numbers of a report card as texts, by name."""
    rows = {}
    for fit in card.rewards:
        means = f"{_text(fit.predicted, 3)} ({_text(fit.real, 3)})"
        rows[f"rewards of {fit.steps} steps: R2, slope, predicted (real)"] = _join(fit.r2, fit.slope, means)
    if (ends := card.termination) is not None:
        counts = f"{format_number(ends.predicted)} ({ends.real})"
        rows["terminations: skill, predicted (real)"] = _join(ends.skill, counts)
    for one in card.promises:
        means = f"{format_number(one.dream)} ({format_number(one.real)})"
        name = f"return of {one.behavior} in {one.horizon} steps: r, of dreams with each other, dream (real)"
        rows[name] = _join(one.correlation, one.attainable, means)
        if one.other_actions is not None:
            rows[f"return of other actions in {one.horizon} steps: r"] = _join(one.other_actions)
        if ends is not None:
            means = f"{one.dream_survival:.0%} ({one.real_survival:.0%})"
            name = f"survival of {one.behavior} in {one.horizon} steps: r, of dreams with each other, dream (real)"
            rows[name] = _join(one.survival_correlation, one.survival_attainable, means)
    for drift in card.drift:
        name = f"latents after {drift.horizon} steps: explained by dreams, one dream, persistence, other episode"
        rows[name] = _join(drift.mean, drift.dream, drift.persistence, drift.other)
    rows["latents: steps better than persistence and mean"] = f"{card.latent_steps} of {card.max_latent_steps}"
    if card.agreement is not None:
        rows["ensemble: r of two members, spread"] = _join(card.agreement.correlation, card.agreement.spread)
    return rows


def _join(*values: float | str | None) -> str:
    """Return values in one cell; a missing one is a dash."""
    return ", ".join(value if isinstance(value, str) else _text(value) for value in values)


def _text(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
