"""What diagnostics and tests mean, in words: nothing that failed may look like success.

Start reading at `verdicts`.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from agents.diagnostics import DreamDiagnostics, MemoryDiagnostics, VAEDiagnostics, diagnostics
from agents.evaluation import Report
from agents.run import Run
from worldmodel.formatting import format_number

LEAST_EXPLAINED, ENOUGH_EXPLAINED, ENOUGH_MOVING = 0.05, 0.5, 0.2
"""Explained variances below which a VAE draws the same picture always, loses much, and does not draw what moves."""
SIGNIFICANCE = 0.05
PERMUTATIONS = 9_999
SHARE = 0.25
"""A dream's return differs from the real one if it does by this share of the larger one, and by two standard errors; numbers
of terminations if they do by this share, and by three standard deviations of a Poisson distribution."""
LEAST_GAP = 0.01
"""Returns that differ by less are the same, also where the game paid nothing at all."""
CONTROLLERS = {"dream": "controller evolved in dreams", "game": "controller evolved in the game"}
CURES = {
    "dream": "try more episodes, a higher dream.temperature, or evolve it in the game (--where game)",
    "game": "try more generations or a larger population",
}
"""What helps a controller that is no better than random, by where it was evolved."""


class Verdict(NamedTuple):
    """What one part of a run is worth, in a sentence."""

    part: str
    text: str
    level: Literal["good", "weak", "bad"]

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.part}: {self.text}"


def verdict_of_vae(found: VAEDiagnostics) -> Verdict:
    """Whether the VAE draws what it sees."""
    explained, moving = found.explained_variance, found.moving_explained_variance
    if explained is None:
        return Verdict(
            "VAE", f"all {found.num_frames:,} held-out frames are the same: there is nothing to learn", "bad"
        )
    numbers = f"explained variance {format_number(explained, 2)}"
    numbers += "" if moving is None else f", of moving pixels {format_number(moving, 2)}"
    numbers += f" on {found.num_frames:,} held-out frames"
    varies = found.reconstruction_std > 0.5 * found.frame_std
    if explained < LEAST_EXPLAINED:
        what = (
            "its pictures are no better than the mean" if varies else "the VAE draws the same picture whatever it sees"
        )
        cure = "nothing trained on it can work; try more updates, another seed or a lower lr"
        return Verdict("VAE", f"{what} ({numbers}); {cure}", "bad")
    if explained < ENOUGH_EXPLAINED:
        return Verdict("VAE", f"{numbers}: much of the picture is lost; try more updates", "weak")
    if moving is not None and moving < ENOUGH_MOVING:
        return Verdict("VAE", f"{numbers}: it does not draw what moves; try more updates", "weak")
    return Verdict("VAE", numbers, "good")


def verdict_of_memory(found: MemoryDiagnostics) -> Verdict:
    """Whether the memory predicts better than baselines that know nothing."""
    baselines = {"persistence": found.persistence_nll, "marginal": found.marginal_nll}
    parts = [f"{name} {format_number(value)}" for name, value in baselines.items()]
    parts += [] if found.posterior_entropy is None else [f"floor {format_number(found.posterior_entropy)}"]
    numbers = f"nll {format_number(found.nll)} nats a frame ({', '.join(parts)})"
    faults = []
    if worse := [name for name, value in baselines.items() if found.nll >= value]:
        faults.append(f"no better than the {' and the '.join(worse)} baseline")
    if found.reward_r2 is not None:
        numbers += f", R2 of rewards {format_number(found.reward_r2, 2)}"
        faults += ["rewards are predicted no better than by their mean"] if found.reward_r2 <= 0 else []
    if found.predicted_terminations is not None and found.num_steps:
        happened = f"{format_number(found.predicted_terminations)} predicted, {found.terminations} happened"
        numbers += f", terminations: {happened} in {found.num_episodes} held-out episodes"
        excess = found.predicted_terminations - found.terminations
        counts = (found.predicted_terminations, found.terminations)
        if abs(excess) > max(3 * max(found.predicted_terminations, 1) ** 0.5, SHARE * max(counts)):
            faults.append(f"terminations are predicted {'more' if excess > 0 else 'less'} often than they happen")
        elif found.terminations and found.termination_nll >= found.constant_termination_nll:  # type: ignore[operator]
            faults.append("terminations are predicted no better than by their rate")
    if not faults:
        return Verdict("memory", numbers, "good")
    return Verdict("memory", f"{'; '.join(faults)}: {numbers}; try more updates or episodes",
                   "bad" if worse else "weak")  # fmt: skip


def verdict_of_dream(found: DreamDiagnostics) -> Verdict:
    """Whether the game pays what dreams promise."""
    dream, real = found.dream_return, found.real_return
    numbers = f"a return of {number(dream)} in dreams, {number(real)} in the game, over {found.horizon} steps"
    numbers += f" from states of {found.num_episodes} real episodes"
    gap, least = dream - real, max(SHARE * max(abs(dream), abs(real)), LEAST_GAP)
    if found.real_stderr is None:
        return Verdict("dream", f"one real episode shows nothing: {numbers}", "weak")
    least = max(least, 2 * math.hypot(found.real_stderr, found.dream_stderr or 0.0))
    if gap > least:
        return Verdict("dream", f"it promises more than the game pays: {numbers}", "weak")
    if gap < -least:
        return Verdict("dream", f"it promises less than the game pays: {numbers}", "weak")
    return Verdict("dream", f"it promises about what the game pays: {numbers}", "good")


@dataclass(frozen=True)
class Comparison:
    """Returns of a controller against those of random actions."""

    mean: float
    random_mean: float
    p_value: float
    """Of a two-sided permutation test that the means are equal."""

    @property
    def words(self) -> str:
        """What it shows."""
        if self.p_value >= SIGNIFICANCE:
            return "no better than random"
        return "better than random" if self.mean > self.random_mean else "worse than random"


def compared_with_random(report: Report, random: Report) -> Comparison:
    """Test whether a controller's mean return differs from that of random actions."""
    return Comparison(report.mean, random.mean, permutation_test(report.returns, random.returns))


def permutation_test(one: Sequence[float], other: Sequence[float]) -> float:
    """P-value of a two-sided test that two samples have one mean: the fraction of relabelled samples that differ as much.

    The statistic is Welch's t, so samples may differ in size and variance; the plain difference of means where a sample has
    one value. All relabellings are tested where there are few, else `PERMUTATIONS` random ones.

    Raises:
        ValueError: a sample is empty, or a value is not finite.

    References:
        Janssen, Studentized Permutation Tests for Non-i.i.d. Hypotheses and the Generalized Behrens-Fisher Problem, 1997.
        Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010.
    """
    values = np.concatenate([one, other]).astype(np.float64)
    total, count = len(values), len(one)
    if not 0 < count < total or not np.isfinite(values).all():
        raise ValueError(f"samples must hold finite values, at least one each, got {list(one)} and {list(other)}")
    values = values / max(float(np.abs(values).max()), 1e-300)
    subsets = list(itertools.combinations(range(total), count)) if total <= 16 else []  # 12,870 at most
    if subsets:
        chosen = np.zeros((len(subsets), total), bool)
        np.put_along_axis(chosen, np.array(subsets), True, axis=1)
    else:
        rng = np.random.default_rng(0)
        chosen = np.argsort(rng.random((PERMUTATIONS, total)), axis=1) < count
    observed = float(_welch_t(values, (np.arange(total) < count)[None])[0])
    extreme = int((_welch_t(values, chosen) >= observed * (1 - 1e-9)).sum())
    return extreme / len(chosen) if subsets else (extreme + 1) / (PERMUTATIONS + 1)


def _welch_t(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Absolute t statistic of the chosen values against the others, for each row of ``chosen`` (samples, values)."""
    values = values - values.mean()  # so that little cancels in the variances
    means, variances = [], []
    for part in (chosen.astype(np.float64), (~chosen).astype(np.float64)):
        n = part.sum(axis=1)
        mean = part @ values / n
        means.append(mean)
        variances.append((part @ values**2 / n - mean**2).clip(min=0) / np.maximum(n - 1, 1))
    difference = np.abs(means[0] - means[1])
    difference[difference < 1e-12] = 0.0  # values are at most 1
    if min(chosen[0].sum(), (~chosen[0]).sum()) == 1:
        return difference
    error = np.sqrt(variances[0] + variances[1])
    return np.divide(difference, error, out=np.where(difference > 0, np.inf, 0.0), where=error > 1e-9)


def comparable(report: Report, random: Report) -> bool:
    """Whether two tests are of the same game: environment, options, and episodes that are cut alike."""
    same = (report.env, report.env_options) == (random.env, random.env_options)
    limits = ((report.max_steps, random), (random.max_steps, report))
    uncut = all(limit is None or max(other.lengths) < limit for limit, other in limits)
    return same and (report.max_steps == random.max_steps or uncut)


def verdict_of_controller(report: Report, random: Report) -> Verdict:
    """Whether a controller is better than random actions."""
    found = compared_with_random(report, random)
    p = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
    few = math.comb(report.n + random.n, report.n) * SIGNIFICANCE <= 2
    text = (
        f"{found.words}: {number(found.mean)} against {number(found.random_mean)} (n = {report.n} and {random.n}, {p})"
    )
    part = CONTROLLERS.get(report.policy, f"controller, {report.policy}")
    if found.words == "better than random":
        return Verdict(part, text, "good")
    cure = "these are too few episodes to tell, try more" if few else CURES.get(report.policy)
    return Verdict(part, text + (f"; {cure}" if cure else ""), "bad")


def against_random(run: Run, report: Report) -> Verdict | None:
    """A test of a run's controller beside the run's test of random actions; None where there is none of the same game."""
    random = run.reports().get("random")
    if random is None or report.agent == random.agent or not comparable(report, random):
        return None
    return verdict_of_controller(report, random)


def verdicts(run: Run) -> list[Verdict]:
    """All that is known of a run's parts, in the order of its stages."""
    words: dict[str, Any] = {"vae": verdict_of_vae, "memory": verdict_of_memory, "dream": verdict_of_dream}
    known = [words[name](found) for name, found in diagnostics(run).items()]
    tests = [against_random(run, report) for name, report in run.reports().items() if name in ("dream", "game")]
    return [*known, *(test for test in tests if test is not None)]


def weakest(known: Sequence[Verdict]) -> Verdict | None:
    """The first part that failed, or else the first that is weak: what comes later stands on it."""
    ordered = [one for level in ("bad", "weak") for one in known if one.level == level]
    return ordered[0] if ordered else None


def number(value: float) -> str:
    """A return in few digits."""
    if abs(value) >= 1e7:
        return format_number(value)
    return f"{value:,.1f}" if abs(value) >= 1 or not value else f"{value:.3g}"
