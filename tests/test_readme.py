"""README keeps its word: the story runs, its table comes from files, its commands exist."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import agents
import rollouts
import worldmodel
from agents.commands import COMMANDS
from agents.comparison.report import difference, episodes, terminations
from agents.evaluation import Report
from benchmarks import defences, ends, fitness, records, seen
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


def test_the_page_of_evolution_says_how_long_a_generation_takes():
    found = read_json(ROOT / "docs" / "results" / "generation.json")
    page = " ".join((ROOT / "docs" / "evolution.md").read_text(encoding="utf-8").split())
    took, theirs = found["seconds"], found["published seconds"]
    assert f"{found['population']} members with {found['episodes']} lives each" in page
    assert f"takes {took['dreams']:.1f} seconds in dreams and {took['game']:.0f} in the game" in page
    assert f"tell of {theirs['dreams']:.0f} and {theirs['game']:.0f} on 64 workers" in page


@pytest.mark.parametrize("world", ["car-racing", "mario"])
def test_the_demo_that_was_measured_plays_what_the_preset_says(world):
    preset = yaml.safe_load((ROOT / "agents" / "presets" / f"{world}.quick.yaml").read_text(encoding="utf-8"))
    report = Report.load(ROOT / "docs" / "results" / f"{world}-quick" / "game.json")
    assert report.env_options == preset["env_options"]


def test_the_table_of_what_is_seen_is_what_its_file_says():
    page = (ROOT / "docs" / "evolution.md").read_text(encoding="utf-8")
    assert page.partition(seen.MARK)[2].partition(seen.END)[0] == seen.table(read_json(seen.RESULT))


def test_the_table_of_ends_is_what_its_file_says():
    page = (ROOT / "docs" / "evolution.md").read_text(encoding="utf-8")
    assert page.partition(ends.MARK)[2].partition(ends.END)[0] == ends.table(read_json(ends.RESULT))


def test_the_table_of_fitness_is_what_its_file_says():
    page = (ROOT / "docs" / "evolution.md").read_text(encoding="utf-8")
    found = read_json(fitness.RESULT)
    assert page.partition(fitness.MARK)[2].partition(fitness.END)[0] == fitness.table(found)
    alone = next(row for row in found["rows"] if not row["episodes"])
    assert abs(alone["plain"]) < 0.2  # "next to nothing"


def test_the_table_of_defences_is_what_its_file_says():
    page = (ROOT / "docs" / "evolution.md").read_text(encoding="utf-8")
    found = read_json(defences.RESULT)
    assert page.partition(defences.MARK)[2].partition(defences.END)[0] == defences.table(found)
    score = {row["name"]: np.mean([one["returns"] for one in row["searches"]]) for row in found["rows"]}
    names = ("another memory imagines", "two other memories imagine", "two other memories imagine, caution 1")
    names += ("temperature 0.5", "horizon 40", "stopped by real checks, every 5 generations")
    none, (one, two, caution, sure, short, checked) = next(iter(score.values())), (score[name] for name in names)
    for words in (
        f"one other has {one:.0f} where its own has {none:.0f}, two have {two:.0f}.",
        f"does not help here ({caution:.0f}).",
        f"({sure:.0f} with a temperature of 0.5)",
        f"({short:.0f} with a horizon of 40)",
        f"Real checks win {checked - none:.0f},",
    ):
        assert words in " ".join(page.split())


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
