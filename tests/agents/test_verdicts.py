"""Verdicts on the parts of a run."""

import json
from dataclasses import replace

import numpy as np
import pytest

from worldmodel.agents.analysis.diagnostics import DreamDiagnostics, MemoryDiagnostics, VAEDiagnostics
from worldmodel.agents.analysis.dream_comparison import Drift, Promise
from worldmodel.agents.analysis.report_card import ReportCard, RewardFit, TerminationFit
from worldmodel.agents.analysis.verdicts import (
    comparable,
    number,
    permutation_test,
    search_verdict,
    verdict_of_controller,
    verdict_of_dream,
    verdict_of_memory,
    verdict_of_search,
    verdict_of_searches,
    verdict_of_vae,
    verdicts_of_card,
    weakest,
)
from worldmodel.agents.evaluation import Report
from worldmodel.agents.runs.run_folder import Run


def report_of(returns, lengths=10, max_steps=None, env="CartPole-v1", **options) -> Report:
    """A report with these returns."""
    count = len(returns)
    seeds = list(range(count))
    return Report(
        env, [float(one) for one in returns], [lengths] * count, seeds, env_options=options, max_steps=max_steps
    )


@pytest.mark.parametrize(
    ("explained", "moving", "std", "level"),
    [
        (0.9, 0.8, 0.2, "good"),
        (-3.9, -2.0, 0.0, "bad"),
        (0.01, 0.0, 0.19, "bad"),
        (0.3, 0.3, 0.1, "weak"),
        (0.9, 0.01, 0.2, "weak"),
        (0.9, None, 0.2, "good"),
        (None, None, 0.0, "bad"),
    ],
)
def test_the_verdict_of_a_vae_finds_poor_reconstructions(explained, moving, std, level):
    result = verdict_of_vae(VAEDiagnostics(explained, moving, std, 0.2, 100))
    assert result.level == level


MEMORY = MemoryDiagnostics(40.0, 44.0, 45.0, 30.0, 0.4, 5.0, 5, 0.1, 0.2, 1_000, 5)


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "good"),
        ({"nll": 44.5}, "bad"),
        ({"nll": 46.0}, "bad"),
        ({"reward_r2": -0.1}, "weak"),
        ({"termination_nll": 0.3}, "weak"),
        ({"reward_r2": None, "posterior_entropy": None}, "good"),
        ({"predicted_terminations": None, "termination_nll": None, "constant_termination_nll": None}, "good"),
        ({"terminations": 0, "termination_nll": 0.3}, "good"),
        ({"terminations": 0, "predicted_terminations": 24.0}, "weak"),
        ({"terminations": 20, "predicted_terminations": 5.0}, "weak"),
        ({"terminations": 1_000, "predicted_terminations": 1_100.0}, "good"),
    ],
)
def test_the_verdict_of_a_memory_compares_it_with_baselines(changes, level):
    assert verdict_of_memory(replace(MEMORY, **changes)).level == level


PROMISE = Promise("recorded", 10, 50, 5.0, 6.0, 0.9, 0.2, 0.8, 0.7, 0.7)
CARD = ReportCard(
    [RewardFit("all", 100, 0.1, 1.0, 0.5, 0.6)],
    TerminationFit(100, 5.0, 4, 0.1, []),
    [PROMISE, replace(PROMISE, horizon=30), replace(PROMISE, horizon=100, correlation=0.0)],
    [Drift(1, 48, 0.9, 0.8, 0.5, -1.0)],
    40,
    100,
    None,
)


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({}, ["good", "good"]),
        ({"correlation": 0.5}, ["weak", "good"]),
        ({"correlation": 0.21}, ["bad", "good"]),
        ({"correlation": -0.9}, ["bad", "good"]),
        ({"other_actions": 0.89}, ["weak", "good"]),  # dreams ignore actions
        ({"correlation": None}, ["good"]),
        ({"survival_correlation": 0.1}, ["good", "bad"]),
        ({"survival_correlation": None}, ["good"]),
    ],
)
def test_verdicts_on_heads_need_dreams_that_rank_as_the_game(changes, levels):
    card = replace(CARD, promises=[replace(one, **changes) for one in CARD.promises])
    assert [one.level for one in verdicts_of_card(card)] == [*levels, "good"]
    assert [one.level for one in verdicts_of_card(replace(card, latent_steps=3))] == [*levels, "weak"]


def test_missing_heads_have_no_verdict():
    assert [one.part for one in verdicts_of_card(replace(CARD, rewards=[]))] == ["terminations", "latents"]
    assert [one.part for one in verdicts_of_card(replace(CARD, termination=None))] == ["rewards", "latents"]
    assert verdicts_of_card(ReportCard([], None, [], [], 0, 0, None)) == []


@pytest.mark.parametrize(
    ("dream", "real", "stderr", "level"),
    [(50, 48, (1, 1), "good"), (100, 20, (1, 1), "weak"), (20, 100, (1, 1), "weak"), (100, 20, (50, 0), "good"),
     (100, 20, (0, 50), "good"), (0, 0, (0, 0), "good"), (-20, -80, (2, 2), "weak"), (50, 48, (None, 1), "weak")],
)  # fmt: skip
def test_the_verdict_of_a_dream_compares_it_with_the_game(dream, real, stderr, level):
    assert verdict_of_dream(DreamDiagnostics(dream, real, *stderr, 100, 8)).level == level


def test_controllers_are_compared_with_random_actions():
    random = report_of(np.arange(20, 36))
    result = [verdict_of_controller(report_of(np.arange(first, first + 16)), random) for first in (5, 21, 80)]
    assert [one.level for one in result] == ["bad", "bad", "good"]  # worse, no better, better
    assert len({one.text for one in result}) == 3
    assert verdict_of_controller(report_of([500.0]), report_of([1.0])).level == "bad"  # one episode is no evidence
    assert verdict_of_controller(report_of([9.0] * 8), report_of([9.0] * 8)).level == "bad"


@pytest.mark.parametrize(("n", "m", "too_few"), [(3, 3, True), (3, 4, False), (2, 4, True), (2, 5, False)])
def test_samples_without_a_possible_significant_result_are_too_few(n, m, too_few):
    """The smallest p-value is 2 / C(n + m, n) for equal sizes, otherwise 1 / C(n + m, n)."""
    text = verdict_of_controller(report_of([1.0] * n), report_of([1.0] * m)).text
    assert ("too few episodes" in text) == too_few
    smallest = permutation_test(np.arange(n) + 1e3, np.arange(m) / 10)
    assert (smallest >= 0.05) == too_few


@pytest.mark.parametrize(("policy", "helps"), [("dream", ("temperature", "--where game")), ("game", ("generations",))])
def test_the_verdict_of_a_controller_below_random_names_remedies(policy, helps):
    low, high = (replace(report_of(np.arange(first, first + 16)), policy=policy) for first in (5, 50))
    assert all(word in verdict_of_controller(low, high).text for word in helps)
    assert not any(word in verdict_of_controller(high, low).text for word in helps)


@pytest.mark.parametrize("where", ["dream", "game"])
def test_a_search_without_differences_is_bad(where):
    tied = [{"mean": -40.0, "std": 0.0}, {"mean": -40.0, "std": 0.01}]
    assert verdict_of_search(tied, where).level == "bad"
    assert verdict_of_search([{"mean": 0.0, "std": 0.0}], where).level == "bad"
    assert verdict_of_search([*tied, {"mean": -40.0, "std": 0.5}], where) is None
    assert verdict_of_search([], where) is None


@pytest.mark.parametrize("row", ['{"mean": 1.0}', '{"mean": 1.0, "std": "x"}', "[]", "7"])
def test_a_damaged_row_of_a_search_is_named(tmp_path, row):
    path = tmp_path / "evolve-dream" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_text(row + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        search_verdict(tmp_path, "dream")
    assert search_verdict(tmp_path, "game") is None


def test_searches_of_iterations_are_judged(tmp_path):
    for iteration, std in ((1, 0.5), (2, 0.0)):
        for candidate in (1, 2):
            folder = tmp_path / "iterations" / f"{iteration:02d}" / f"candidate-{candidate}" / "evolve-dream"
            folder.mkdir(parents=True)
            (folder / "metrics.jsonl").write_text(json.dumps({"mean": 3.0, "std": std}) + "\n", encoding="utf-8")
    verdict = verdict_of_searches(Run(tmp_path), "dream")
    assert verdict.level == "bad" and "02" in verdict.part
    own = tmp_path / "evolve-dream"
    own.mkdir()
    (own / "metrics.jsonl").write_text(json.dumps({"mean": 3.0, "std": 0.5}) + "\n", encoding="utf-8")
    assert verdict_of_searches(Run(tmp_path), "dream") is None


def test_returns_below_one_keep_their_digits():
    assert [number(value) for value in (0.0, 0.042, -0.5, 20.25, 1e30)] == ["0.0", "0.042", "-0.5", "20.2", "1e+30"]


def test_the_permutation_test_is_exact_for_small_samples():
    assert permutation_test([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)
    assert permutation_test([1e300, 1e300], [0, 0]) == pytest.approx(2 / 6)
    few = [1e6 + 1e-4 * number for number in range(5)]
    assert permutation_test(few, [value + 1e-3 for value in few]) == pytest.approx(2 / 252)  # a far common offset
    assert permutation_test([1e6 + 0.1] * 5, [1e6 + 0.1] * 4) == 1.0
    rng = np.random.default_rng(0)
    result = [permutation_test(rng.normal(size=10), rng.normal(size=12)) for _ in range(60)]
    assert 0.35 < float(np.mean(result)) < 0.65  # uniform where there is no difference
    for bad in ([], [np.nan, 1.0], [np.inf]):
        with pytest.raises(ValueError, match="finite"):
            permutation_test(bad, [1.0, 2.0])


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "scales"), [((4, 40), (10, 1)), ((10, 10), (1, 10))])
def test_the_permutation_test_holds_its_level_for_unequal_variances(sizes, scales):
    rng = np.random.default_rng(1)
    samples = [[rng.normal(size=n) * scale for n, scale in zip(sizes, scales, strict=True)] for _ in range(40)]
    false = np.mean([permutation_test(*pair) < 0.05 for pair in samples])
    assert false < 0.2  # a test of plain differences errs in most cases
    result = [permutation_test(one + 40, other) < 0.05 for one, other in samples]
    assert np.mean(result) > 0.8


def test_only_reports_of_the_same_game_are_comparable():
    one = report_of([1, 2])
    assert comparable(one, report_of([3]))
    assert not comparable(one, report_of([3], env="Acrobot-v1"))
    assert not comparable(one, report_of([3], action_repeat=2))
    assert comparable(one, report_of([3], max_steps=11))  # nothing was truncated
    assert not comparable(one, report_of([3], max_steps=10))
    assert not comparable(report_of([1], lengths=50), report_of([3], lengths=5, max_steps=20))


def test_the_weakest_part_is_the_first_that_failed():
    vae = verdict_of_vae(VAEDiagnostics(0.3, 0.3, 0.2, 0.2, 100))
    memory = verdict_of_memory(replace(MEMORY, nll=46.0))
    good = verdict_of_memory(MEMORY)
    assert weakest([vae, memory]) == memory
    assert weakest([good, vae]) == vae
    assert weakest([good]) is None
