"""docs/records.md says what its files say."""

import json
from pathlib import Path

import numpy as np

from agents.evaluation import Report
from benchmarks import missed, records
from worldmodel.checkpoints import read_json

ROOT = Path(__file__).parent.parent


def test_the_page_of_records_says_what_its_files_say():
    page = " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split())
    rows = records.rows("car-racing-cropped")
    _, begin, on = [number for number, row in enumerate(rows) if row["generation"] == 1]
    generations, second, third = rows[:begin], rows[begin:on], rows[on:]
    tested, again = ([row for row in some if "check" in row] for some in (generations, second))
    best = max(tested, key=lambda row: row["check"])
    report = Report.load(records.RECORDS / "car-racing-cropped.json")
    one, two = (
        Report.load(records.RECORDS / "tried" / f"car-racing-{name}.json") for name in ("one-search", "two-searches")
    )
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
        f"It had {two.mean:.0f} ± {two.std:.0f} on the hundred tracks",
        f"half of them above {np.median(two.returns):.0f}; what it lost",
        f"tests of the mean have {_listed(moments, 'check')} in generations 5 to 20, "
        f"those of the average {_listed(moments, 'average')}.",
    ):
        assert words in page
    assert kept["average"] > kept["check"]
    assert len(tested) == 14  # "fourteen tests"
    _the_third_search(page, third, report, two)


def test_the_page_of_records_says_of_the_whole_picture_what_its_files_say():
    page = " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split())
    every = records.rows("car-racing")
    begin = [number for number, row in enumerate(every) if row["generation"] == 1][1]
    cropped, plain = (
        records.rows("car-racing-fast"),
        _lines(records.RECORDS / "tried" / "car-racing-indicators-plain.jsonl"),
    )
    first, second = every[:begin], every[begin:]
    at, seen, crop, unseen = 35, first[34], cropped[34], plain[34]
    assert [row["generation"] for row in (seen, crop, unseen)] == [at] * 3
    tested, again = ([row for row in rows if "check" in row] for rows in (first, second))
    best, kept = (max(rows, key=lambda row: max(row["check"], row["average"])) for rows in (tested, again))
    one, report = (
        Report.load(records.RECORDS / name) for name in ("tried/car-racing-one-phase.json", "car-racing.json")
    )
    returns, full = np.array(report.returns), np.array(report.lengths) < 500
    for words in (
        f"had {crop['check']:.0f} and {crop['average']:.0f} in generation {at} "
        f"(the mean and the average, over {crop['check_n']} fresh tracks)",
        f"this one had {seen['check']:.0f} and {seen['average']:.0f}.",
        f"it had {unseen['check']:.0f} and {unseen['average']:.0f}, and was stopped in generation {len(plain)}.",
        f"the mean of its last generation, {best['generation']}, had {best['check']:.0f} on {best['check_n']} fresh tracks, "
        f"the best of its twelve tests, and {one.mean:.0f} ± {one.std:.0f} on the hundred",
        f"in the {sum(np.array(one.returns) < 850)} of them that end below 850; half are above {np.median(one.returns):.0f}.",
        f"in each generation, has {_listed(second, 'scouted')}.",
        f"the mean of generation {kept['generation']} with {kept['check']:.0f} on {kept['check_n']} tracks, "
        f"has {report.mean:.0f} ± {report.std:.0f} on the hundred, {sum(returns < 850)} of them below 850. "
        f"{sum(full)} of the hundred end before the time is up, with {returns[full].mean():.0f} on average",
    ):
        assert words in page
    quick = Report.load(records.RECORDS / "tried" / "car-racing-quick-indicators.json")
    evolving = " ".join((ROOT / "docs" / "evolution.md").read_text(encoding="utf-8").split())
    assert f"its driver had {quick.mean:.0f} ± {quick.std:.0f} (n = {quick.n})." in evolving
    assert quick.env_options == {"action_repeat": 4, "indicators": True}
    assert [len(tested), best["generation"], best["check"] > best["average"]] == [12, len(first), True]
    assert kept["check"] > kept["average"]


def test_the_page_of_records_says_of_dreams_what_their_files_say():
    page, tried = (
        " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split()),
        records.RECORDS / "tried",
    )
    said = read_json(records.RECORDS / "car-racing-dream.iterations.json")
    rows, report = said["rows"], Report.load(records.RECORDS / "car-racing-dream.json")
    early, late, best = rows[:10], rows[10:], rows[said["best"] - 1]
    before = read_json(tried / "car-racing-dream-first.iterations.json")["rows"]
    driver = Report.load(tried / "car-racing-dream-first.json")
    strong, cool, longer = (
        _lines(tried / f"car-racing-dream-{name}.jsonl") for name in ("strong-driver", "cool-80", "cool-120")
    )
    lately, best_of_all = (
        _range(late, "gap").replace(" to ", " and "),
        f"{best['episode_mean']:.0f} ± {best['episode_std']:.0f}",
    )
    for words in (
        f"In the first ten iterations whole episodes had {_range(early, 'episode_mean')}:",
        f"from there on whole episodes had {_range(late, 'episode_mean')}, "
        f"and the gap between the dream's promise and the game lies between {lately}.",
        f"iteration {best['number']}, had {best_of_all} in its {best['n']} real episodes, "
        f"and has {report.mean:.0f} ± {report.std:.0f} on 100 official tracks, "
        f"half of them above {np.median(report.returns):.0f}.",
        f"It took {rows[-1]['real_steps']:,} decisions of three frames in this run",
        f"had {driver.mean:.0f} ± {driver.std:.0f}: two worlds",
        f"the dream promised {_range(before[:3], 'dream')} in 120 steps, the game gave {_range(before[:3], 'real')}",
        f"gave {_range(before[3:], 'real')} of a promised {_range(before[3:], 'dream')}",
        f"whole episodes had {_range(strong, 'episode_mean')} in six iterations",
        f"whole episodes had {_listed(cool, 'episode_mean')} in seven iterations, "
        f"while the dream promised {cool[0]['dream']:.0f} in the first and {cool[-1]['dream']:.0f} in the last one",
        f"with dreams of 120 steps {_listed(longer, 'episode_mean')} in three",
        f"--iterations {len(rows)} ",
    ):
        assert words in page
    assert [len(before), len(strong), early[-1]["n"], late[0]["n"]] == [18, 6, 12, 40]


def test_the_page_of_records_says_of_dreams_from_random_driving_what_their_files_say():
    page = " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split())
    said = read_json(records.RECORDS / "car-racing-dream-alone.iterations.json")
    rows, report = said["rows"], Report.load(records.RECORDS / "car-racing-dream-alone.json")
    before = _lines(records.RECORDS / "tried" / "car-racing-dream-indicators.jsonl")
    best, late, returns = rows[said["best"] - 1], rows[5:], np.array(report.returns)
    for words in (
        f"What was kept, iteration {best['number']}, had {best['episode_mean']:.0f} ± {best['episode_std']:.0f} "
        f"in its {best['n']} real episodes, "
        f"and has {report.mean:.0f} ± {report.std:.0f} on 100 official tracks, half of them above {np.median(returns):.0f}, "
        f"{sum(returns > 850)} of them above 850.",
        f"It took {report.real_steps:,} decisions of three frames.",
        f"had {_listed(before, 'episode_mean')} in whole episodes of its first seven iterations",
        f"with them {_listed(rows[:7], 'episode_mean')}.",
        f"From the sixth iteration on whole episodes have {_range(late, 'episode_mean')}, "
        f"with standard deviations of {_range(late, 'episode_std')},",
        f"(iterations 10 and 11: {_listed(rows[9:11], 'episode_mean')}, "
        f"with gaps of {_listed(rows[9:11], 'gap')} in 300 steps)",
        f"--iterations {len(rows)}: ",
    ):
        assert words in page
    assert report.seeds[0] == 20_000


def _the_third_search(page, rows, report, before):
    fast, driver = (
        Report.load(records.RECORDS / "tried" / f"car-racing-fast-{name}.json") for name in ("scouted", "shipped")
    )
    tested = [row for row in rows if "check" in row]
    kept = max(tested, key=lambda row: max(row["check"], row["average"]))
    eights = [f"{np.mean([row['scouted'] for row in rows[i : i + 8]]):.0f}" for i in (0, 8)]
    more, faster = (np.subtract(one.returns, other.returns) for one, other in ((report, before), (fast, driver)))
    now, then, full = np.array(report.returns), np.array(before.returns), np.array(report.lengths) < 500
    for words in (
        f"average has {' and '.join(eights)} on fresh tracks",
        f"tests of the mean on 48 tracks {_listed(tested, 'check')}.",
        f"the mean of generation {kept['generation']}, has {report.mean:.0f} ± {report.std:.0f} on the hundred tracks, "
        f"{more.mean():.1f} ± {more.std(ddof=1) / 10:.1f} more than the one before",
        f"{sum(now < 850)} of the hundred tracks end below 850, before {sum(then < 850)}",
        f"it has {fast.mean:.0f} ± {fast.std:.0f} and the one before {driver.mean:.0f} ± {driver.std:.0f}",
        f"that is {faster.mean():.0f} ± {faster.std(ddof=1) / 10:.0f} more.",
        f"Of the hundred tracks {sum(full)} end before the time is up, with {np.mean(now[full]):.0f} on average, "
        f"and the other {sum(~full)} have {np.mean(now[~full]):.0f}:",
        f"stopped in generation {len(rows)}",
    ):
        assert words in page
    assert kept["check"] > kept["average"]
    assert [fast.seeds, report.seeds] == [driver.seeds, before.seeds]


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
    checks = [f"{row['check']:.0f}" for row in _lines(tried / "mario-1-1-sticky.jsonl") if "check" in row]
    sticky, firm = (Report.load(tried / f"mario-1-1-sticky-test{which}.json") for which in ("", "-without"))
    for words in (
        f"have {', '.join(checks[:-1])} and {checks[-1]} in generations 3 to 24",
        f"What was kept has {sticky.mean:.0f} ± {sticky.std:.0f} with sticky actions on {sticky.n} fresh ones",
        f"{firm.mean:.0f} ± {firm.std:.0f}, the flag in {firm.flag_rate:.0%}".replace("%", " %"),
    ):
        assert words in page
    assert sticky.flag_rate == 0
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


def test_the_page_of_records_tells_of_a_new_eye_what_its_files_say():
    page, tried = (
        " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split()),
        records.RECORDS / "tried",
    )
    rows = _lines(tried / "car-racing-new-eye.jsonl")
    third, new = (Report.load(tried / f"car-racing-fast-{name}.json") for name in ("scouted", "new-eye"))
    eights = [f"{np.mean([row['scouted'] for row in rows[i : i + 8]]):.0f}" for i in range(0, len(rows) - 7, 8)]
    for words in (
        f"average has {', '.join(eights[:-1])} and {eights[-1]} over five times eight generations "
        f"({sum(row['seconds'] for row in rows) / 60:.0f} minutes)",
        f"an average with {max(row.get('average', 0) for row in rows):.0f} on 48 tracks, has {new.mean:.0f} ± {new.std:.0f}",
        f"on which the third search's has {third.mean:.0f} ± {third.std:.0f}.",
        f"stopped in generation {len(rows)}",
    ):
        assert words in page
    assert new.seeds == third.seeds


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
        played = sum(row["steps"] + row.get("check_steps", 0) for row in rows) * 3 / 1e6
        assert f"| {label} | {size} | {' | '.join(cells)} | {played:.1f} million |" in page
        best.append(max(row.get("check", 0) for row in rows))
    assert f"worth {best[0] - best[1]:.0f} points over an untrained one and {best[0] - best[2]:.0f} over none" in page


def _range(rows, name):
    values = [row[name] for row in rows]
    return f"{min(values):.0f} to {max(values):.0f}"


def _lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_page_of_records_says_of_half_an_hour_what_its_files_say():
    page = " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split())
    rows, report = records.rows("car-racing-fast"), Report.load(records.RECORDS / "car-racing-fast.json")
    tested, returns = [row for row in rows if "check" in row], np.array(report.returns)
    kept = max(tested, key=lambda row: max(row["check"], row["average"]))
    good = returns >= 850
    for words in (
        f"(0.09 to {rows[-1]['sigma']:.3f} in {len(rows)} generations)",
        f"The average has {_listed(tested[6:], 'average')} on {kept['check_n']} fresh tracks in generations "
        f"{tested[6]['generation']} to {tested[-1]['generation']}.",
        f"average of generation {kept['generation']}, has {report.mean:.0f} ± {report.std:.0f} "
        f"on the {report.n} official tracks, half of them above {np.median(returns):.0f},",
        f"in the {sum(~good)} of the hundred that end below 850; "
        f"the other {sum(good)} have {returns[good].mean():.0f} on average.",
    ):
        assert words in page
    assert kept["average"] > kept["check"]
    begin = [number for number, row in enumerate(records.rows("car-racing-cropped")) if row["generation"] == 1]
    own = Report.load(records.RECORDS / "tried" / "car-racing-fast-own-test.json")
    tests = read_json(records.RECORDS / "tried" / "car-racing-fast.timings.json")["test"]
    for words in (
        f"came to 827 in {begin[1]} generations.",
        f"{own.mean:.0f} ± {own.std:.0f} on the {own.n} others of the run's own test",
        f"{tests // 60:.0f} minutes and {tests % 60:.0f} seconds.",
    ):
        assert words in page
    ranked, after = (
        _lines(records.RECORDS / "tried" / "car-racing-ranked.jsonl"),
        Report.load(records.RECORDS / "tried" / "car-racing-ranked.json"),
    )
    tested, returns = [row for row in ranked if "check" in row], np.array(after.returns)
    best, good = max(tested, key=lambda row: max(row["check"], row["average"])), returns >= 850
    for words in (
        f"tests of the mean on {best['check_n']} tracks have {_listed(tested, 'check')}, "
        f"of the average {_listed(tested, 'average')}.",
        f"mean of generation {best['generation']}, has {after.mean:.0f} ± {after.std:.0f} on {after.n} official tracks",
        f"({after.seeds[0]} on): half of them above {np.median(returns):.0f}, but {sum(~good)} end below 850, and the "
        f"other {sum(good)} have {returns[good].mean():.0f}.",
        f"stopped in generation {len(ranked)}",
    ):
        assert words in page
    assert best["check"] > best["average"]


def test_the_page_of_records_says_what_is_left_out_as_its_file_does():
    whole = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    found = read_json(missed.RESULT)
    assert missed.MARK + missed.table(found) + missed.END in whole
    page = " ".join(whole.split())
    for words in (
        f"Of {found['tracks']} tracks of FastCarRacing {found['complete']} end with every tile met, "
        f"with {found['mean_complete']:.0f} on average. Over all {found['left_out']:.1f} tiles a track are left out, "
        f"{found['in_groups_of_three']:.0%} of them three or more in a row,".replace("%", " %"),
        f"turns by {found['turn_where_left_out']:.0f} degrees within {2 * missed.AROUND + 1} tiles; "
        f"it turns by {found['turn']:.0f} where one is on average.",
    ):
        assert words in page
    rows = {row["name"]: row for row in found["rows"][1:]}
    assert all(row["more"] < 2 * row["error"] for row in rows.values())


def test_the_page_of_records_says_of_super_mario_in_dreams_what_its_files_say():
    page = " ".join((ROOT / "docs" / "records.md").read_text(encoding="utf-8").split())
    said = read_json(records.RECORDS / "mario-1-1-dream.iterations.json")
    rows, best = said["rows"], said["rows"][said["best"] - 1]
    plain, sticky, other = (
        Report.load(records.RECORDS / f"mario-1-1{name}.json")
        for name in ("-dream", "-dream-sticky-actions", "-sticky-actions")
    )
    for words in (
        f"In the first five iterations whole episodes had {_range(rows[:5], 'episode_mean')}, and the gap between the dream's "
        f"promise of 50 steps and the game was {_range(rows[:5], 'gap')}; "
        f"the sixth had {rows[5]['episode_mean']:.0f}, with a gap of {rows[5]['gap']:.0f}.",
        f"In the tenth to the sixteenth they had {_range(rows[9:16], 'episode_mean')}, "
        f"and the gap was between {_range(rows[9:16], 'gap').replace(' to ', ' and ')}:",
        f"before iteration 17, which had {rows[16]['episode_mean']:.0f}; "
        f"the three after it had {_listed(rows[17:], 'episode_mean')}.",
        f"What was kept, iteration {best['number']}, has {plain.mean:.0f} ± {plain.std:.0f} in {plain.n} episodes",
        f"which it never met, {sticky.mean:.0f} ± {sticky.std:.0f}, where the controller that was evolved in the game has "
        f"{other.mean:.0f} ± {other.std:.0f}.",
        f"The run took {rows[-1]['real_steps']:,} decisions of eight frames.",
        f"and then with --iterations {len(rows)}",
    ):
        assert words in page
    assert plain.seeds == sticky.seeds == other.seeds
