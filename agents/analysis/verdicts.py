"""Verdicts: diagnostics and evaluations as sentences with a level, which makes failures visible.

Start reading at `verdicts`.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from worldmodel import VectorEncoder
from worldmodel.agents.analysis.diagnostics import DreamDiagnostics, MemoryDiagnostics, VAEDiagnostics, diagnostics
from worldmodel.agents.analysis.dream_comparison import SURVIVAL_HORIZON
from worldmodel.agents.analysis.report_card import ReportCard
from worldmodel.agents.evaluation import Report
from worldmodel.agents.runs.run_folder import Run, rows_of
from worldmodel.io.files import error_context
from worldmodel.messages import format_number

MIN_EXPLAINED, GOOD_EXPLAINED, GOOD_MOVING_EXPLAINED = 0.05, 0.5, 0.2
"""Minimum explained variances: of a VAE that is not bad, of a good VAE, and of a good VAE on moving pixels."""
SIGNIFICANCE = 0.05
"""Significance level of the comparison with random actions."""
PERMUTATIONS = 9_999
"""Number of random relabellings of a permutation test."""
MIN_CORRELATION, GOOD_CORRELATION = 0.3, 0.6
"""Minimum correlations of dreams and the game over start states: of a head that is not bad, and of a good one."""
MIN_ATTAINED, MIN_ATTAINABLE = 0.6, 0.2
"""Minimum share of the attainable correlation of a head that is not bad, and the least value that is taken for attainable: a
head that predicts nothing takes everything for noise."""
NEARLY_ATTAINED = 0.9
"""Minimum share of the attainable correlation of a head that only the noise of its dreams limits."""
MIN_ACTION_EFFECT = 0.05
"""Minimum difference of the correlations under the recorded and under other actions."""
GOOD_LATENT_STEPS = 10
"""Minimum number of steps at which good dreams are better than both baselines."""
MIN_DIFFERENCE = 0.25
"""Minimum difference of two values that disagree, as a fraction of the larger one. Dream and real returns must also differ by
two standard errors, numbers of terminations by three standard deviations of a Poisson distribution."""
MIN_GAP = 0.01
"""Minimum absolute difference of dream and real returns that disagree; it matters when both are close to zero."""
MIN_SPREAD = 1e-3
"""Minimum standard deviation of the returns of a generation whose members differ, as a fraction of their mean."""
SEARCHES = {"dream": "evolution in dreams", "game": "evolution in the game"}
CONTROLLERS = {"dream": "controller evolved in dreams", "game": "controller evolved in the game"}
ADVICE = {
    "dream": "try more episodes, a higher dream.temperature, or evolution in the game (--where game)",
    "game": "try more generations or a larger population",
}
"""Advice for a controller that is not better than random, by its origin."""


Level = Literal["good", "weak", "bad"]


class Verdict(NamedTuple):
    """Quality of one part of a run, in one sentence and as a level."""

    part: str
    text: str
    level: Level

    def __str__(self) -> str:
        """One line with the part and the text."""
        return f"{self.part}: {self.text}"


def verdict_of_vae(metrics: VAEDiagnostics) -> Verdict:
    """Return the verdict on the reconstructions of the VAE."""
    explained, moving = metrics.explained_variance, metrics.moving_explained_variance
    if explained is None:
        return Verdict("VAE", f"all {metrics.num_frames:,} held-out frames are equal: they contain no signal", "bad")
    numbers = f"explained variance {format_number(explained, 2)}"
    numbers += "" if moving is None else f", of moving pixels {format_number(moving, 2)}"
    numbers += f" on {metrics.num_frames:,} held-out frames"
    varies = metrics.reconstruction_std > 0.5 * metrics.frame_std
    if explained < MIN_EXPLAINED:
        problem = (
            "reconstructions are no better than the mean frame" if varies else "all reconstructions are the same image"
        )
        advice = "no later stage can work; try more updates, another seed or a lower learning rate"
        return Verdict("VAE", f"{problem} ({numbers}); {advice}", "bad")
    if explained < GOOD_EXPLAINED:
        return Verdict("VAE", f"{numbers}: reconstructions lose much of the frame; try more updates", "weak")
    if moving is not None and moving < GOOD_MOVING_EXPLAINED:
        return Verdict("VAE", f"{numbers}: reconstructions lose the moving parts; try more updates", "weak")
    return Verdict("VAE", numbers, "good")


def verdict_of_vectors(encoder: VectorEncoder, steps: int) -> Verdict:
    """Return the verdict on standardized vectors: whether their numbers vary."""
    constant = int((encoder.scale == 1).sum())
    text = f"{encoder.latent_dim} numbers, standardized over {steps:,} steps"
    if constant == encoder.latent_dim:
        return Verdict("vectors", f"all numbers are constant: they contain no signal ({text})", "bad")
    return Verdict("vectors", text + (f"; {constant} are constant" if constant else ""), "good")


def verdict_of_memory(metrics: MemoryDiagnostics) -> Verdict:
    """Return the verdict on the predictions of the memory, compared with the persistence and the marginal baseline."""
    baselines = {"persistence": metrics.persistence_nll, "marginal": metrics.marginal_nll}
    parts = [f"{name} {format_number(value)}" for name, value in baselines.items()]
    parts += [] if metrics.posterior_entropy is None else [f"floor {format_number(metrics.posterior_entropy)}"]
    numbers = f"NLL {format_number(metrics.nll)} nats per frame ({', '.join(parts)})"
    problems = []
    if worse := [name for name, value in baselines.items() if metrics.nll >= value]:
        problems.append(f"no better than the {' and the '.join(worse)} baseline")
    if metrics.reward_r2 is not None:
        numbers += f", R2 of rewards {format_number(metrics.reward_r2, 2)}"
        problems += ["reward predictions are no better than the mean reward"] if metrics.reward_r2 <= 0 else []
    if metrics.predicted_terminations is not None and metrics.num_steps:
        counts_text = f"{format_number(metrics.predicted_terminations)} predicted, {metrics.terminations} real"
        numbers += f", terminations: {counts_text} in {metrics.num_episodes} held-out episodes"
        excess = metrics.predicted_terminations - metrics.terminations
        counts = (metrics.predicted_terminations, metrics.terminations)
        if abs(excess) > max(3 * max(metrics.predicted_terminations, 1) ** 0.5, MIN_DIFFERENCE * max(counts)):
            problems.append(f"the memory predicts {'more' if excess > 0 else 'fewer'} terminations than occur")
        elif metrics.terminations and metrics.termination_nll >= metrics.constant_termination_nll:  # type: ignore[operator]
            problems.append("termination predictions are no better than the constant rate")
    if not problems:
        return Verdict("memory", numbers, "good")
    return Verdict("memory", f"{'; '.join(problems)}: {numbers}; try more updates or episodes",
                   "bad" if worse else "weak")  # fmt: skip


def verdicts_of_card(card: ReportCard) -> list[Verdict]:
    """Return a verdict on each head of a memory: whether evolution in its dreams can pay.

    Evolution compares controllers by dreamed returns. What matters is that dreams rank returns and survival as the game does,
    and for how many steps dreamed latents follow the real ones.
    """
    results, promise, survival = [], card.promise(), card.promise(horizon=SURVIVAL_HORIZON)
    if promise is not None and card.rewards and promise.correlation is not None:
        numbers = f"dreams rank {promise.horizon}-step returns with r = {promise.correlation:.2f}"
        numbers += f" (mean {number(promise.dream)}, real {number(promise.real)})"
        results.append(_ranking("rewards", promise.correlation, promise.attainable, numbers, promise.other_actions))
    if survival is not None and card.termination is not None and survival.survival_correlation is not None:
        numbers = f"dreams rank survival of {survival.horizon} steps with r = {survival.survival_correlation:.2f}"
        numbers += f" (mean {survival.dream_survival:.0%}, real {survival.real_survival:.0%})"
        results.append(_ranking("terminations", survival.survival_correlation, survival.survival_attainable, numbers))
    if card.drift:
        text = f"dreams of real actions beat persistence and the mean at {card.latent_steps} of {card.max_latent_steps} steps"
        level: Level = "good" if card.latent_steps >= min(GOOD_LATENT_STEPS, card.max_latent_steps) else "weak"
        results.append(Verdict("latents", text if level == "good" else f"{text}: dreams lose the game early", level))
    return results


def _ranking(
    part: str, correlation: float, attainable: float | None, numbers: str, other_actions: float | None = None
) -> Verdict:
    """Return the verdict on a correlation of dreams and the game.

    Args:
        part: Head.
        correlation: Correlation over start states.
        attainable: That of dreams with dreams of other noise: what a true world model as noisy reaches; None: unknown.
        numbers: Beginning of the sentence.
        other_actions: Correlation of dreams under other actions; None: unknown.
    """
    numbers += "" if attainable is None else f", each other with {attainable:.2f}"
    attained = attainable is not None and correlation >= MIN_ATTAINED * max(attainable, MIN_ATTAINABLE)
    if correlation < MIN_CORRELATION and not attained:
        return Verdict(part, f"{numbers}: evolution in these dreams learns little", "bad")
    if other_actions is not None and other_actions > correlation - MIN_ACTION_EFFECT:
        text = f"{numbers}, with other actions {other_actions:.2f}: dreams hardly depend on actions"
        return Verdict(part, text, "weak")
    if attainable is not None and MIN_CORRELATION <= attainable <= correlation / NEARLY_ATTAINED:
        return Verdict(part, f"{numbers}: as well as their noise allows", "good")
    if correlation < GOOD_CORRELATION:
        return Verdict(part, f"{numbers}: evolution in these dreams is slow", "weak")
    return Verdict(part, f"{numbers}: evolution in these dreams can learn", "good")


def verdict_of_dream(metrics: DreamDiagnostics) -> Verdict:
    """Return the verdict on the model-exploitation gap: dream return minus real return."""
    dream, real = metrics.dream_return, metrics.real_return
    numbers = f"a return of {number(dream)} in dreams, {number(real)} in the game, over {metrics.horizon} steps"
    numbers += f" from states of {metrics.num_episodes} real episodes"
    gap, min_gap = dream - real, max(MIN_DIFFERENCE * max(abs(dream), abs(real)), MIN_GAP)
    if metrics.real_stderr is None:
        return Verdict("dream", f"one real episode is not enough for a comparison: {numbers}", "weak")
    min_gap = max(min_gap, 2 * math.hypot(metrics.real_stderr, metrics.dream_stderr or 0.0))
    if gap > min_gap:
        return Verdict("dream", f"returns are higher in dreams than in the game: {numbers}", "weak")
    if gap < -min_gap:
        return Verdict("dream", f"returns are lower in dreams than in the game: {numbers}", "weak")
    return Verdict("dream", f"returns in dreams and in the game agree: {numbers}", "good")


def verdict_of_search(rows: Sequence[Mapping[str, Any]], where: str) -> Verdict | None:
    """Return the verdict on an evolution whose members all have nearly the same return; None: they differ.

    Args:
        rows: Rows of ``metrics.jsonl``, one for each generation.
        where: "dream" or "game".
    """
    if not rows or any(row["std"] > MIN_SPREAD * max(abs(row["mean"]), MIN_GAP) for row in rows):
        return None
    text = f"all members have the same return, {number(rows[-1]['mean'])}, in all generations: evolution cannot compare them"
    advice = {
        "dream": "the memory may predict no rewards: collect episodes that have some",
        "game": "no member reached a reward: try longer episodes, a larger sigma, or a start from another controller",
    }
    return Verdict(SEARCHES[where], f"{text}; {advice[where]}", "bad")


def search_verdict(folder: Path, where: str) -> Verdict | None:
    """Return the verdict on the evolution in a folder (`verdict_of_search`).

    Raises:
        ValueError: The file of its generations is damaged.
    """
    path = folder / f"evolve-{where}" / "metrics.jsonl"
    with error_context(path):
        return verdict_of_search(rows_of(path), where)


@dataclass(frozen=True)
class Comparison:
    """Mean returns of a controller and of random actions."""

    mean: float
    random_mean: float
    p_value: float
    """P-value of a two-sided permutation test of equal means."""

    @property
    def result(self) -> str:
        """Result of the test in words."""
        if self.p_value >= SIGNIFICANCE:
            return "no better than random"
        return "better than random" if self.mean > self.random_mean else "worse than random"


def compared_with_random(report: Report, random: Report) -> Comparison:
    """Compare the mean returns of a controller and of random actions (`permutation_test`)."""
    return Comparison(report.mean, random.mean, permutation_test(report.returns, random.returns))


def permutation_test(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the p-value of a two-sided permutation test that two samples have the same mean.

    It is the fraction of relabelled samples whose statistic is at least as large. The statistic is Welch's t. The test is
    exact if both samples have the same distribution, and approximate if their variances differ. If a sample has one value,
    the statistic is the difference of the means. For at most 16 values in total, all relabellings are enumerated; otherwise
    `PERMUTATIONS` random ones are drawn.

    Args:
        one: First sample.
        other: Second sample.

    Raises:
        ValueError: A sample is empty, or a value is not finite.

    References:
        Janssen, Studentized Permutation Tests for Non-i.i.d. Hypotheses and the Generalized Behrens-Fisher Problem, 1997.
        Phipson and Smyth, Permutation P-values Should Never Be Zero, 2010.
    """
    values = np.concatenate([one, other]).astype(np.float64)
    total, count = len(values), len(one)
    if not 0 < count < total or not np.isfinite(values).all():
        raise ValueError(f"samples must contain finite values, at least one each, got {list(one)} and {list(other)}")
    values = np.ldexp(values, -math.frexp(float(np.abs(values).max()))[1])  # against overflow, without rounding
    values = values - values.mean()
    spread = float(np.abs(values).max())
    values = values / spread if spread > 1e-14 else np.zeros(total)  # the rest of equal values is rounding
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
    """Return the absolute Welch's t of chosen values and the others, (samples,), for a mask ``chosen`` (samples, values).

    The values have mean zero and largest absolute value 1.
    """
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
    """Whether two reports have the same environment, the same options and the same effective limit of steps."""
    same = (report.env, report.env_options) == (random.env, random.env_options)
    limits = ((report.max_steps, random), (random.max_steps, report))
    unlimited = all(limit is None or max(other.lengths) < limit for limit, other in limits)
    return same and (report.max_steps == random.max_steps or unlimited)


def verdict_of_controller(report: Report, random: Report) -> Verdict:
    """Return the verdict on a controller, compared with random actions."""
    comparison = compared_with_random(report, random)
    p = "p < 0.001" if comparison.p_value < 0.001 else f"p = {comparison.p_value:.2g}"
    # the smallest p-value: exchanging the labels of equally large samples gives the same statistic
    too_few = math.comb(report.n + random.n, report.n) * SIGNIFICANCE <= (2 if report.n == random.n else 1)
    means = f"{number(comparison.mean)} against {number(comparison.random_mean)}"
    text = f"{comparison.result}: {means} (n = {report.n} and {random.n}, {p})"
    part = CONTROLLERS.get(report.policy, f"controller, {report.policy}")
    if comparison.result == "better than random":
        return Verdict(part, text, "good")
    advice = "there are too few episodes for a significant result, try more" if too_few else ADVICE.get(report.policy)
    return Verdict(part, text + (f"; {advice}" if advice else ""), "bad")


def against_random(run: Run, report: Report) -> Verdict | None:
    """Return the verdict on an evaluated controller; None: the run has no comparable report of random actions."""
    random = run.reports().get("random")
    if random is None or report.agent == random.agent or not comparable(report, random):
        return None
    return verdict_of_controller(report, random)


def verdicts(run: Run) -> list[Verdict]:
    """Return all verdicts on the parts of a run, in the order of its stages."""
    functions: dict[str, Any] = {
        "vae": lambda metrics: [verdict_of_vae(metrics)],
        "memory": lambda metrics: [verdict_of_memory(metrics)],
        "card": verdicts_of_card,
        "dream": lambda metrics: [verdict_of_dream(metrics)],
    }
    results = [one for name, metrics in diagnostics(run).items() for one in functions[name](metrics)]
    searches = [verdict_of_searches(run, where) for where in SEARCHES]
    tests = [against_random(run, report) for name, report in run.reports().items() if name in SEARCHES]
    return [*results, *(one for one in (*searches, *tests) if one is not None)]


def verdict_of_searches(run: Run, where: str) -> Verdict | None:
    """Return the verdict on the first search of a run, or of its iterations, whose members all have the same return."""
    for folder in run.searches_of(where):
        if (found := search_verdict(folder, where)) is not None:
            name = "" if folder == run.folder else f", {folder.relative_to(run.folder)}"
            return found._replace(part=found.part + name)
    return None


def weakest(results: Sequence[Verdict]) -> Verdict | None:
    """Return the first bad verdict, or else the first weak one: later stages depend on earlier ones."""
    ordered = [one for level in ("bad", "weak") for one in results if one.level == level]
    return ordered[0] if ordered else None


def number(value: float) -> str:
    """Format a return with few digits."""
    if abs(value) >= 1e7:
        return format_number(value)
    return f"{value:,.1f}" if abs(value) >= 1 or not value else f"{value:.3g}"
