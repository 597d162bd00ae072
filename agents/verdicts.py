"""Verdicts: diagnostics and evaluations as sentences with a level, so that no failure looks like a success.

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
"""Minimal explained variances: of a VAE that is not constant, of a good one, and of a good one on moving pixels."""
SIGNIFICANCE = 0.05
"""Significance level of the comparison with random actions."""
PERMUTATIONS = 9_999
"""Number of random relabellings of a permutation test."""
SHARE = 0.25
"""Minimal difference, as a fraction of the larger value. Dream and real returns must also differ by two standard errors,
numbers of terminations by three standard deviations of a Poisson distribution."""
LEAST_GAP = 0.01
"""Minimal absolute difference of dream and real returns; it matters when both are close to zero."""
CONTROLLERS = {"dream": "controller evolved in dreams", "game": "controller evolved in the game"}
CURES = {
    "dream": "try more episodes, a higher dream.temperature, or evolution in the game (--where game)",
    "game": "try more generations or a larger population",
}
"""Advice for a controller that is not better than random, by the place of its evolution."""


class Verdict(NamedTuple):
    """Quality of one part of a run, in one sentence and as a level."""

    part: str
    text: str
    level: Literal["good", "weak", "bad"]

    def __str__(self) -> str:
        """One line with the part and the text."""
        return f"{self.part}: {self.text}"


def verdict_of_vae(found: VAEDiagnostics) -> Verdict:
    """Verdict on the reconstructions of the VAE."""
    explained, moving = found.explained_variance, found.moving_explained_variance
    if explained is None:
        return Verdict("VAE", f"all {found.num_frames:,} held-out frames are equal: they contain no signal", "bad")
    numbers = f"explained variance {format_number(explained, 2)}"
    numbers += "" if moving is None else f", of moving pixels {format_number(moving, 2)}"
    numbers += f" on {found.num_frames:,} held-out frames"
    varies = found.reconstruction_std > 0.5 * found.frame_std
    if explained < LEAST_EXPLAINED:
        problem = (
            "reconstructions are no better than the mean frame" if varies else "all reconstructions are the same image"
        )
        advice = "no later stage can work; try more updates, another seed or a lower learning rate"
        return Verdict("VAE", f"{problem} ({numbers}); {advice}", "bad")
    if explained < ENOUGH_EXPLAINED:
        return Verdict("VAE", f"{numbers}: reconstructions lose much of the frame; try more updates", "weak")
    if moving is not None and moving < ENOUGH_MOVING:
        return Verdict("VAE", f"{numbers}: reconstructions lose the moving parts; try more updates", "weak")
    return Verdict("VAE", numbers, "good")


def verdict_of_memory(found: MemoryDiagnostics) -> Verdict:
    """Verdict on the predictions of the memory, in comparison with the persistence and marginal baselines."""
    baselines = {"persistence": found.persistence_nll, "marginal": found.marginal_nll}
    parts = [f"{name} {format_number(value)}" for name, value in baselines.items()]
    parts += [] if found.posterior_entropy is None else [f"floor {format_number(found.posterior_entropy)}"]
    numbers = f"NLL {format_number(found.nll)} nats a frame ({', '.join(parts)})"
    problems = []
    if worse := [name for name, value in baselines.items() if found.nll >= value]:
        problems.append(f"no better than the {' and the '.join(worse)} baseline")
    if found.reward_r2 is not None:
        numbers += f", R2 of rewards {format_number(found.reward_r2, 2)}"
        problems += ["reward predictions are no better than the mean reward"] if found.reward_r2 <= 0 else []
    if found.predicted_terminations is not None and found.num_steps:
        both = f"{format_number(found.predicted_terminations)} predicted, {found.terminations} real"
        numbers += f", terminations: {both} in {found.num_episodes} held-out episodes"
        excess = found.predicted_terminations - found.terminations
        counts = (found.predicted_terminations, found.terminations)
        if abs(excess) > max(3 * max(found.predicted_terminations, 1) ** 0.5, SHARE * max(counts)):
            problems.append(f"the memory predicts {'more' if excess > 0 else 'fewer'} terminations than occur")
        elif found.terminations and found.termination_nll >= found.constant_termination_nll:  # type: ignore[operator]
            problems.append("termination predictions are no better than the constant rate")
    if not problems:
        return Verdict("memory", numbers, "good")
    return Verdict("memory", f"{'; '.join(problems)}: {numbers}; try more updates or episodes",
                   "bad" if worse else "weak")  # fmt: skip


def verdict_of_dream(found: DreamDiagnostics) -> Verdict:
    """Verdict on the model-exploitation gap: dream return minus real return."""
    dream, real = found.dream_return, found.real_return
    numbers = f"a return of {number(dream)} in dreams, {number(real)} in the game, over {found.horizon} steps"
    numbers += f" from states of {found.num_episodes} real episodes"
    gap, least = dream - real, max(SHARE * max(abs(dream), abs(real)), LEAST_GAP)
    if found.real_stderr is None:
        return Verdict("dream", f"one real episode is not enough for a comparison: {numbers}", "weak")
    least = max(least, 2 * math.hypot(found.real_stderr, found.dream_stderr or 0.0))
    if gap > least:
        return Verdict("dream", f"returns are higher in dreams than in the game: {numbers}", "weak")
    if gap < -least:
        return Verdict("dream", f"returns are lower in dreams than in the game: {numbers}", "weak")
    return Verdict("dream", f"returns in dreams and in the game agree: {numbers}", "good")


@dataclass(frozen=True)
class Comparison:
    """Mean returns of a controller and of random actions."""

    mean: float
    random_mean: float
    p_value: float
    """P-value of a two-sided permutation test of equal means."""

    @property
    def words(self) -> str:
        """Result of the test in words."""
        if self.p_value >= SIGNIFICANCE:
            return "no better than random"
        return "better than random" if self.mean > self.random_mean else "worse than random"


def compared_with_random(report: Report, random: Report) -> Comparison:
    """Compare the mean return of a controller with that of random actions (`permutation_test`)."""
    return Comparison(report.mean, random.mean, permutation_test(report.returns, random.returns))


def permutation_test(one: Sequence[float], other: Sequence[float]) -> float:
    """P-value of a two-sided permutation test that two samples have the same mean.

    It is the fraction of relabelled samples whose statistic is at least as large. The statistic is Welch's t, so samples may
    differ in size and variance; if a sample has one value, it is the difference of means. All relabellings are enumerated
    for at most 16 values in total, otherwise `PERMUTATIONS` random ones are drawn.

    Args:
        one: the first sample.
        other: the second sample.

    Raises:
        ValueError: a sample is empty, or a value is not finite.

    References:
        Janssen, Studentized Permutation Tests for Non-i.i.d. Hypotheses and the Generalized Behrens-Fisher Problem, 1997.
        Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010.
    """
    values = np.concatenate([one, other]).astype(np.float64)
    total, count = len(values), len(one)
    if not 0 < count < total or not np.isfinite(values).all():
        raise ValueError(f"samples must contain finite values, at least one each, got {list(one)} and {list(other)}")
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
    """Absolute Welch's t of the chosen values against the others, (samples,), for a mask ``chosen`` (samples, values)."""
    values = values - values.mean()  # reduces cancellation in the variances
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
    """Whether two reports have the same environment, options and effective limit of steps."""
    same = (report.env, report.env_options) == (random.env, random.env_options)
    limits = ((report.max_steps, random), (random.max_steps, report))
    unlimited = all(limit is None or max(other.lengths) < limit for limit, other in limits)
    return same and (report.max_steps == random.max_steps or unlimited)


def verdict_of_controller(report: Report, random: Report) -> Verdict:
    """Verdict on a controller in comparison with random actions."""
    found = compared_with_random(report, random)
    p = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
    few = math.comb(report.n + random.n, report.n) * SIGNIFICANCE <= 2
    text = (
        f"{found.words}: {number(found.mean)} against {number(found.random_mean)} (n = {report.n} and {random.n}, {p})"
    )
    part = CONTROLLERS.get(report.policy, f"controller, {report.policy}")
    if found.words == "better than random":
        return Verdict(part, text, "good")
    advice = "there are too few episodes for a significant result, try more" if few else CURES.get(report.policy)
    return Verdict(part, text + (f"; {advice}" if advice else ""), "bad")


def against_random(run: Run, report: Report) -> Verdict | None:
    """Verdict on a report of a run's controller; None: the run has no comparable report of random actions."""
    random = run.reports().get("random")
    if random is None or report.agent == random.agent or not comparable(report, random):
        return None
    return verdict_of_controller(report, random)


def verdicts(run: Run) -> list[Verdict]:
    """All verdicts on the parts of a run, in the order of its stages."""
    judges: dict[str, Any] = {"vae": verdict_of_vae, "memory": verdict_of_memory, "dream": verdict_of_dream}
    known = [judges[name](found) for name, found in diagnostics(run).items()]
    tests = [against_random(run, report) for name, report in run.reports().items() if name in ("dream", "game")]
    return [*known, *(test for test in tests if test is not None)]


def weakest(known: Sequence[Verdict]) -> Verdict | None:
    """The first bad verdict, or else the first weak one: later stages depend on it."""
    ordered = [one for level in ("bad", "weak") for one in known if one.level == level]
    return ordered[0] if ordered else None


def number(value: float) -> str:
    """A return as text with few digits."""
    if abs(value) >= 1e7:
        return format_number(value)
    return f"{value:,.1f}" if abs(value) >= 1 or not value else f"{value:.3g}"
