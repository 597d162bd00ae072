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
from agents.comparison.report import difference, episodes, terminations
from agents.evaluation import Report
from benchmarks import fitness, records
from benchmarks.density_tables import compared
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
    rows = records.rows("car-racing")
    begin = [number for number, row in enumerate(rows) if row["generation"] == 1][1]
    generations, second = rows[:begin], rows[begin:]
    tested, again = ([row for row in some if "check" in row] for some in (generations, second))
    best = max(tested, key=lambda row: row["check"])
    report = Report.load(records.RECORDS / "car-racing.json")
    one = Report.load(records.RECORDS / "tried" / "car-racing-one-search.json")
    kept = max(again, key=lambda row: max(row["check"], row["average"]))
    averages = [f"{row['average']:.0f}" for row in again]
    moments = [row for row in _lines(records.RECORDS / "tried" / "car-racing-moments.jsonl") if "check" in row]
    for words in (
        f"{best['check']:.0f} ± {best['check_std']:.0f} on {best['check_n']} tracks in generation {best['generation']}",
        f"The first search ended with {one.mean:.0f} ± {one.std:.0f} on the hundred tracks",
        f"{len(generations) - best['generation']} more generations won nothing",
        f"(0.1 to {generations[-1]['sigma']:.3f})",
        f"(0.045 to {second[-1]['sigma']:.3f} in {len(second)} generations)",
        f"# stopped in generation {len(second)}",
        f"had {np.mean([row['mean'] for row in second[:8]]):.0f} on average over the first eight generations "
        f"and {np.mean([row['mean'] for row in second[-8:]]):.0f} over the last eight",
        f"over {kept['check_n']} fresh tracks every five generations, {', '.join(averages[:3])} at first "
        f"and {', '.join(averages[-4:])} at last",
        f"What was kept is the average of generation {kept['generation']}. "
        f"It has {report.mean:.0f} ± {report.std:.0f} on the hundred tracks",
        f"half of them above {np.median(report.returns):.0f}; what it loses",
        f"tests of the mean have {_listed(moments, 'check')} in generations 5 to 20, "
        f"those of the average {_listed(moments, 'average')}.",
    ):
        assert words in page
    assert kept["average"] > kept["check"]
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


def _listed(rows, name):
    numbers = [f"{row[name]:.0f}" for row in rows]
    return f"{', '.join(numbers[:-1])} and {numbers[-1]}"


def test_the_page_of_records_says_of_super_mario_what_its_files_say():
    page = " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split())
    rows = records.rows("mario-1-1")
    begins = [number for number, row in enumerate(rows) if row["generation"] == 1]
    first = {row["generation"]: row for row in rows[: begins[1]]}
    report, fixed, sticky = (
        Report.load(records.RECORDS / f"mario-1-1{name}.json") for name in ("", "-deterministic", "-sticky-actions")
    )
    two = Report.load(records.RECORDS / "tried" / "mario-1-1-two-searches.json")
    third = rows[begins[2] :]
    best = max(third, key=lambda row: max(row.get("check", 0), row.get("elite", 0)))
    quick = Report.load(ROOT / "docs" / "results" / "mario-quick" / "game.json")
    again = [
        row["check"] for row in _lines(records.RECORDS / "tried" / "mario-1-1-small-steps.jsonl") if "check" in row
    ]
    for words in (
        f"it had {first[20]['check']:.0f} in generation 20, after five minutes, and {first[50]['check']:.0f} in generation 50",
        f"The flag is reached in {100 * report.flag_rate:.0f} of {report.n} episodes, and in the deterministic game",
        f"with a flag in {100 * two.flag_rate:.0f} of {two.n} episodes, {two.mean:.0f} ± {two.std:.0f}",
        f"tests on 31 episodes: {min(again):.0f} to {max(again):.0f}",
        f"With sticky actions it has {sticky.mean:.0f}, with the flag in {100 * sticky.flag_rate:.0f} of {sticky.n}",
        f"stopped in generation {len(first)}",
        f"stopped in generation {len(third) + 1}; the best test is that of generation {best['generation']}",
        f"with moments, one has {quick.mean:.0f} ± {quick.std:.0f}",
    ):
        assert words in page
    assert 290 < sum(row["seconds"] for row in rows[:20]) < 310
    assert fixed.flag_rate == 1
    odd = [np.random.default_rng(seed).integers(31) % 2 == 1 for seed in two.seeds]  # as the game draws them
    assert odd == two.flags


def test_the_page_of_records_tells_what_was_tried_as_its_files_do():
    page, tried = (
        " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split()),
        records.RECORDS / "tried",
    )
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
    dreamer = _lines(tried / "mario-1-1-dream.jsonl")
    for words in (
        f"in nine iterations, {dreamer[-1]['real_steps']:,} real steps, whole episodes have {_range(dreamer, 'episode_mean')}",
        f"promise {_range(dreamer, 'dream')} and the game gives {_range(dreamer, 'real')}",
        f"({dreamer[0]['gap']:.0f} in the first iteration, {dreamer[-1]['gap']:.0f} in the last one)",
    ):
        assert words in page
    assert len(dreamer) == 9
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
    assert [sum(row["average"] > row["check"] for row in averaged), len(averaged)] == [10, 14]
    best = max(averaged, key=lambda row: row["average"])
    later = [row["average"] for row in averaged if row["generation"] > best["generation"]]
    white = {row["generation"]: row["check"] for row in _lines(tried / "car-racing-whitened.jsonl") if "check" in row}
    large, on = _lines(tried / "mario-1-1-whitened.jsonl"), _lines(tried / "mario-1-1-from-a-member.jsonl")
    for words in (
        f"14 tests in 73 generations the average has {average:.0f} and the mean {mean:.0f}",
        f"The best of them, {best['average']:.0f} in generation {best['generation']}",
        f"the seven tests behind it have {np.mean(later):.0f}.",
        f"{white[20]:.0f} and {white[50]:.0f} in generations 20 and 50",
        f"stays below 730 while single members reach {max(row.get('elite', 0) for row in large):.0f} in a test of 12",
        f"holds what it has, {on[-1]['check']:.0f} in all of {on[-1]['check_n']} episodes",
        f"one member came to {max(row['max'] for row in on):.0f}",
    ):
        assert words in page
    assert max(row.get("check", 0) for row in large) < 730


def test_the_page_of_evolution_says_how_long_a_generation_takes():
    found = read_json(ROOT / "docs" / "results" / "generation.json")
    page = " ".join((ROOT / "docs" / "evolution.md").read_text(encoding="utf-8").split())
    took, theirs = found["seconds"], found["published seconds"]
    assert f"{found['population']} members with {found['episodes']} lives each" in page
    assert f"takes {took['dreams']:.1f} seconds in dreams and {took['game']:.0f} in the game" in page
    assert f"tell of {theirs['dreams']:.0f} and {theirs['game']:.0f} on 64 workers" in page


def test_the_table_of_fitness_is_what_its_file_says():
    page = (ROOT / "docs" / "evolution.md").read_text(encoding="utf-8")
    found = read_json(fitness.RESULT)
    assert page.partition(fitness.MARK)[2].partition(fitness.END)[0] == fitness.table(found)
    alone = next(row for row in found["rows"] if not row["episodes"])
    assert abs(alone["plain"]) < 0.2  # "next to nothing"


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
    speeds = {
        what: float(rate.replace(",", ""))
        for what, rate in re.findall(
            r"^\| (.+?) \| ([\d,]+) \|", (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    written = speeds["writing frames, our shards (gzip by ISA-L, synced), 762 bytes each"]
    written /= speeds["writing frames, gzip 1 (HDF5's zlib), 862 bytes each"]
    read = speeds["reading frames, our shards"] / speeds["reading frames, gzip 1 (HDF5's zlib)"]
    assert f"{written:.1f} times as fast as HDF5's own filter in writing and {read:.1f} times in reading" in page
    stored = speeds["rollouts.collect of it, 1 workers"] / speeds["playing FastCarRacing, nothing stored, 1 core"]
    assert f"Storing takes {100 * (1 - stored):.0f} % of the fastest environment's time on one core" in page
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
        found = difference([row for row in results if row["job"]["targets"] == targets], "FRMDN")
        assert found.mean == pytest.approx((nll["FRMDN"] - nll["RMDN"]).mean())
        assert f"| {nll['FRMDN'].mean():.2f} |" in page
        assert f"| {found.text()} |" in page
        assert found.sign == (0 if (world, targets) == ("mario", "sample") else -1)
        if targets == "mean":
            assert found.mean < -10


def test_what_is_said_of_memories_follows_from_their_files():
    page = " ".join((ROOT / "docs" / "frmdn.md").read_text(encoding="utf-8").split())
    floors, won, dreams = [], {}, {}
    for world in ("car-racing", "mario"):
        results = read_json(ROOT / "docs" / "results" / f"memory-{world}" / "results.json")
        means, draws = ([row for row in results if row["job"]["targets"] == kind] for kind in ("mean", "sample"))
        nll = {name: episodes(draws, name).mean() for name in dict.fromkeys(row["job"]["name"] for row in draws)}
        floor = np.mean(draws[0]["floor"])
        floors.append(f"{floor:.2f}")
        won[world] = {
            name: f"{(nll['RMDN'] - value) / (nll['RMDN'] - floor):.0%}".replace("%", " %")
            for name, value in nll.items()
        }
        errors = [
            np.mean([row["dreams"]["1.0"]["20"]["mean"] for row in means if row["job"]["name"] == name])
            for name in dict.fromkeys(row["job"]["name"] for row in means if row.get("dreams"))
        ]
        dreams[world] = [f"{value:.2f}" for value in (errors[0], min(errors), max(errors), len(errors))]
        for name in dict.fromkeys(row["job"]["name"] for row in means):
            if name.startswith("FRMDN") and name != "FRMDN, untrained":
                assert difference(means, name).sign == -1, name
            if name.startswith("RMDN, rank"):
                assert difference(means, name).sign == 0, name
        for more, fewer in (("FRMDN", "FRMDN, 1 coupling"), ("FRMDN, 3 couplings", "FRMDN"),
                            ("FRMDN, 4 couplings", "FRMDN, 3 couplings"), ("FRMDN, spline", "FRMDN"),
                            ("FRMDN, no memory", "FRMDN"), ("FRMDN, K = 1", "RMDN, K = 32")):  # fmt: skip
            assert difference(means, more, fewer).sign == -1, (more, fewer)
        for more, fewer in (("FRMDN", "FRMDN, no memory"), ("FRMDN, K = 16", "FRMDN"), ("FRMDN, K = 32", "FRMDN"),
                            ("RMDN, K = 32", "RMDN"), ("FRMDN, conditional", "FRMDN")):  # fmt: skip
            assert difference(draws, more, fewer).sign == -1, (more, fewer)
        for rows in (means, draws):
            assert difference(rows, "FRMDN, GRU", "FRMDN").sign == 0
        ends, steps = terminations(means)
        if world == "car-racing":
            assert f"{ends} of {steps:,} held-out steps are terminations" in page
            assert all(difference(means, name, "FRMDN").sign == 0 for name in ("FRMDN, K = 16", "FRMDN, K = 32"))
            assert [difference(draws, f"RMDN, rank {rank}").sign for rank in (1, 4, 8)] == [0, -1, -1]
            four, spline = (episodes(means, name).mean() for name in ("FRMDN, 4 couplings", "FRMDN, spline"))
            assert f"come to {four:.2f} beside the splines' {spline:.2f} on CarRacing" in page
        else:
            alone = (
                "FRMDN",
                "FRMDN, rank 4",
                "FRMDN, spline",
                "FRMDN, 3 couplings",
                "FRMDN, 4 couplings",
                "FRMDN, GRU",
            )
            assert all(difference(draws, name).sign == 0 for name in alone)
    car, mario = won["car-racing"], won["mario"]
    affine, spline = "FRMDN, conditional", "FRMDN, spline, conditional"
    for words in (
        f"it is {floors[0]} and {floors[1]} nats a frame",
        f"win {car[affine]} (affine) and {car[spline]} (spline) of the RMDN's distance to the floor on CarRacing, "
        f"{mario[affine]} and {mario[spline]} on Mario",
        f"the FRMDN with K = 32 wins {mario['FRMDN, K = 32']}",
        f"{dreams['car-racing'][1]} to {dreams['car-racing'][2]} for five variants on CarRacing's means",
        f"{dreams['mario'][0]} (RMDN) to {dreams['mario'][2]} on Mario's",
    ):
        assert words in page, words
    assert dreams["mario"][0] == dreams["mario"][1]
    assert dreams["mario"][3] == "5.00"


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
        seconds = sorted(row["seconds"] for row in rows if row["job"]["name"] == model)[1]
        assert line.endswith(f" {seconds:.0f} |")
    found_out = compared(found, "FRMDN", 0, "RMDN")
    assert found_out.mean == pytest.approx(means["FRMDN"] - means["RMDN"], abs=1e-3)
    assert len(set(found["clusters"]["labels"])) == {"espeak-16k": 5, "font-digits": 3}[name]
    said = " ".join((ROOT / "docs" / "density.md").read_text(encoding="utf-8").split())
    if name == "espeak-16k":
        assert f"by {found_out.mean:.0f} ± {found_out.half:.0f} nats a half second" in said
        assert found_out.sign == 1
        assert compared(found, "RMDN, rank 2", 0, "RMDN").sign == -1
        assert all(compared(found, model, 1, "FRMDN").sign == -1 for model in ("VRNN-Gauss", "VRNN-GMM"))
    else:
        other = compared(found, "VRNN-Gauss", 1, "FRMDN")
        ends = sorted(row["measures"][0]["mean"] for row in rows if row["job"]["name"] == "RMDN")
        for words in (
            f"the FRMDN has {-found_out.mean:.2f} ± {found_out.half:.2f} bits a dimension less",
            f"end at {ends[0]:.2f}, {ends[1]:.2f} and {ends[2]:.2f}",
            f"the VRNN-Gauss {-other.mean:.2f} ± {other.half:.2f} less than the FRMDN",
        ):
            assert words in said
        assert found_out.sign == other.sign == 0
    assert all(row["best_update"] > row["job"]["updates"] - row["job"]["check_every"] for row in rows)  # not converged
