"""README keeps its word: the story runs, its table comes from files, its commands exist."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest

import agents
import rollouts
import worldmodel
from agents.commands import COMMANDS
from agents.evaluation import Report
from benchmarks import records
from benchmarks.results import BEGIN, END, MEMORIES, MEMORIES_END, memories, table
from worldmodel.checkpoints import read_json

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_story_in_python_runs(monkeypatch, capsys):
    """The very block, with smaller defaults put in."""
    block = re.search(r"## The story in Python\n\n```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    collect, evaluate = rollouts.collect, agents.evaluate
    monkeypatch.setattr(worldmodel, "fit", functools.partial(worldmodel.fit, updates=3, batch=4))
    monkeypatch.setattr(agents, "evolve", functools.partial(agents.evolve, generations=2, population=4))
    monkeypatch.setattr(rollouts, "collect", lambda *a, episodes, **k: collect(*a, episodes=3, max_steps=6, **k))
    monkeypatch.setattr(agents, "evaluate", lambda *a, episodes, **k: evaluate(*a, episodes=2, max_steps=5, **k))
    monkeypatch.setattr(rollouts, "dreamed", functools.partial(rollouts.dreamed, horizon=5, dreams=2))
    exec(compile(block, "README.md", "exec"), {})
    assert "CarRacing, agent:" in capsys.readouterr().out


def test_the_table_is_what_the_files_say():
    shown = README.partition(BEGIN)[2].partition(END)[0]
    assert shown == table()
    assert len(re.findall(r"\| evolved in the game \|", shown)) == 2
    assert README.partition(records.MARK)[2].partition(records.END)[0] == records.table()
    page = (ROOT / "docs" / "frmdn.md").read_text(encoding="utf-8")
    assert page.partition(MEMORIES)[2].partition(MEMORIES_END)[0] == memories()


def test_the_page_of_records_says_what_its_files_say():
    page = " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split())
    generations = records.rows("car-racing")
    tested = [row for row in generations if "check" in row]
    best = max(tested, key=lambda row: row["check"])
    report = Report.load(records.RECORDS / "car-racing.json")
    for words in (
        f"{best['check']:.0f} ± {best['check_std']:.0f} on {best['check_n']} tracks in generation {best['generation']}",
        f"On 100 others it has {report.mean:.0f} ± {report.std:.0f}",
        f"{len(generations) - best['generation']} more generations won nothing",
        f"(0.1 to {generations[-1]['sigma']:.3f})",
    ):
        assert words in page
    assert len(tested) == 14  # "fourteen tests"
    said = read_json(records.RECORDS / "car-racing-dream.iterations.json")["rows"]
    trap, cured = said[:3], said[3:]
    dreamer = Report.load(records.RECORDS / "car-racing-dream.json")
    for words in (
        f"promises {_range(trap, 'dream')} in 120 steps, the game gives {_range(trap, 'real')}",
        f"gives {_range(cured, 'real')} of a promised {_range(cured, 'dream')}",
        f"{dreamer.mean:.0f} ± {dreamer.std:.0f} on {dreamer.n} official tracks",
    ):
        assert words in page
    assert len(said) == 18
    tried = records.RECORDS / "tried"
    grown = [row for row in _lines(tried / "car-racing-growing-episodes.jsonl") if "check" in row]
    top = max(grown, key=lambda row: row["check"])
    random = _lines(tried / "car-racing-dream-random-rollouts.jsonl")[-1]
    mario = _lines(tried / "mario-1-1.jsonl")
    elite, member = max(row.get("elite", 0) for row in mario), max(row["max"] for row in mario)
    for words in (
        f"{top['check']:.0f} ± {top['check_std']:.0f} on {top['check_n']} tracks in generation {top['generation']}",
        f"After three iterations the dream promised {random['dream']:.0f} and the game gave {random['real']:.0f}",
        f"reach {elite:.0f} in a test of 16 episodes and {member:.0f} in",
    ):
        assert words in page
    assert len(grown) == 11
    rows = _lines(tried / "car-racing-growing-episodes.jsonl")
    lived = {
        row["generation"]: [one["mean"] for one in rows[row["generation"] - 5 : row["generation"]]] for row in grown
    }
    below = [row["check"] - np.mean(lived[row["generation"]]) for row in grown]
    noise = np.mean([row["noise"] for row in rows[-45:]])
    for words in (
        f"mean lies {min(below):.0f} to {max(below):.0f} below the mean's own test",
        f"in the last 45 generations {100 * noise:.0f} % of the variance",
    ):
        assert words in page
    assert [min(row["episodes"] for row in rows), max(row["episodes"] for row in rows)] == [3, 4]
    again = _lines(tried / "car-racing-dream-averaged.jsonl")
    gaps = [row["gap"] for row in again]
    for words in (
        f"whole episodes had {_range(again, 'episode_mean')}.",
        f"fell from {gaps[0]:.0f} to {gaps[2]:.0f} (iterations 1 to 3) to {min(gaps):.0f} at the best",
        f"and rose again to {gaps[-1]:.0f}",
    ):
        assert words in page
    assert [len(again), min(gaps) > 20] == [14, True]
    averaged = [row for row in _lines(tried / "car-racing-averaged.jsonl") if "check" in row]
    mean, average = (np.mean([row[name] for row in averaged]) for name in ("check", "average"))
    assert [sum(row["average"] > row["check"] for row in averaged), len(averaged)] == [6, 7]
    white = {row["generation"]: row["check"] for row in _lines(tried / "car-racing-whitened.jsonl") if "check" in row}
    large, on = _lines(tried / "mario-1-1-whitened.jsonl"), _lines(tried / "mario-1-1-from-a-member.jsonl")
    for words in (
        f"the average has {average:.0f} and the mean {mean:.0f}",
        f"The best of them, {averaged[-1]['average']:.0f} in generation {averaged[-1]['generation']}",
        f"{white[20]:.0f} and {white[50]:.0f} in generations 20 and 50",
        f"stays below 730 while single members reach {max(row.get('elite', 0) for row in large):.0f} in a test of 12",
        f"holds what it has, {on[-1]['check']:.0f} in all of {on[-1]['check_n']} episodes",
        f"one member came to {max(row['max'] for row in on):.0f}",
    ):
        assert words in page
    assert max(row.get("check", 0) for row in large) < 730


def test_the_table_of_ablations_says_what_its_files_say():
    tried = records.RECORDS / "tried"
    page, best = (ROOT / "docs" / "records.md").read_text(encoding="utf-8"), []
    for label, size, name in (
        ("latent and memory", 291, "growing-episodes"),
        ("latent and untrained memory", 291, "untrained-memory"),
        ("latent alone", 99, "latent-only"),
    ):
        rows = _lines(tried / f"car-racing-{name}.jsonl")[:30]
        cells = [f"{row['check']:.0f} ± {row['check_std']:.0f}" for row in rows if "check" in row]
        played = sum(row["steps"] for row in rows) * 3 / 1e6
        assert f"| {label} | {size} | {' | '.join(cells)} | {played:.1f} million |" in page
        best.append(max(row.get("check", 0) for row in rows))
    assert f"worth {best[0] - best[1]:.0f} points over an untrained one and {best[0] - best[2]:.0f} over none" in page


def _range(rows, name):
    values = [row[name] for row in rows]
    return f"{min(values):.0f} to {max(values):.0f}"


def _lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_page_of_files_says_what_its_file_says():
    found = json.loads((ROOT / "docs" / "results" / "endurance.json").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs" / "files.md").read_text(encoding="utf-8").split())
    rate = int(found["random windows of 32 frames/s on one core"]) // 100 * 100
    for words in (
        f"({found['raw GB']:.0f} GB of frames, {found['stored GB']:.1f} GB on disk)",
        f"in {found['wall clock s']:.0f} seconds on two cores, ten restarts",
        f"{rate:,} random windows of 32 frames a second on one core",
    ):
        assert words in page
    assert (found["episodes"], found["distinct episodes"], found["kills"]) == (1000, 1000, 10)


def test_commands_in_the_readme_exist():
    for command in re.findall(
        r"worldmodel ((?:train |density )?[a-z]+)", "\n".join(re.findall(r"`(worldmodel [^`]*)`", README))
    ):
        assert command in COMMANDS, command


def test_files_in_the_readme_exist_and_the_picture_is_small():
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / target).exists(), target
    assert (ROOT / "docs/pictures/dream-beside-reality.gif").stat().st_size < 1_000_000


@pytest.mark.parametrize("world", ["car-racing", "mario"])
def test_the_comparison_of_memories_says_what_its_file_says(world):
    """FRMDN against RMDN on held-out episodes, both targets: the page's figures are those of results.json."""
    folder = ROOT / "docs" / "results" / f"memory-{world}"
    page = (folder / "README.md").read_text(encoding="utf-8")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for targets in ("mean", "sample"):
        nll = {
            name: np.mean(
                [row["nll"] for row in results if (row["job"]["name"], row["job"]["targets"]) == (name, targets)],
                axis=0,
            )
            for name in ("RMDN", "FRMDN")
        }
        assert len({row["job"]["seed"] for row in results}) >= 3
        paired = nll["FRMDN"] - nll["RMDN"]
        half = 1.96 * paired.std(ddof=1) / len(paired) ** 0.5
        assert f"| {nll['FRMDN'].mean():.2f} |" in page
        assert f"| {paired.mean():+.2f} ± {half:.2f} |" in page
        assert paired.mean() + half < 0
        if targets == "mean":
            assert paired.mean() < -10


def test_evolved_controllers_beat_random_actions():
    """The results that are kept show what the quick preset promises."""
    for folder in (path.parent for path in (ROOT / "docs" / "results").glob("*/timings.json")):
        random, game = (Report.load(folder / f"{name}.json") for name in ("random", "game"))
        assert min(random.n, game.n) >= 10
        assert game.mean - random.mean > 3 * (random.stderr**2 + game.stderr**2) ** 0.5


@pytest.mark.parametrize("name", ["espeak-16k", "font-digits"])
def test_densities_say_what_their_file_says(name):
    folder = ROOT / "docs" / "results" / f"density-{name}"
    page, found = (folder / "README.md").read_text(encoding="utf-8"), read_json(folder / "results.json")
    rows = found["trainings"]
    assert len({row["job"]["seed"] for row in rows}) == 3
    means = {}
    for model in ("RMDN", "FRMDN"):
        values = [row["measures"][0]["mean"] for row in rows if row["job"]["name"] == model]
        means[model] = np.mean(values)
        line = next(line for line in page.splitlines() if line.startswith(f"| {model} |"))
        assert re.search(r"\| (-?[\d.]+) ± ", line)[1] in (f"{means[model]:.1f}", f"{means[model]:.4f}")
    assert (means["FRMDN"] - means["RMDN"]) * (1 if name.startswith("espeak") else -1) > 0.5
