"""Phases of a run: each goes on from the one before, and an interruption between or within them changes nothing."""

import json
from pathlib import Path

import pytest
import yaml

from tests.agents.test_pipeline import SMALL
from tests.command_line import refused
from worldmodel.agents.agent import Agent
from worldmodel.agents.cli.commands.common import PRESETS, settings_of
from worldmodel.agents.cli.main import build_parser, main
from worldmodel.agents.config.sections import build
from worldmodel.agents.pipeline import phases, stages
from worldmodel.agents.pipeline.phases import plan
from worldmodel.agents.runs.run_folder import Run
from worldmodel.io.files import fingerprint
from worldmodel.rollouts.policy.policies import policy_name

RECORDS = Path(__file__).parents[2] / "docs" / "results" / "records"
CHANGES = [
    {"dream": {"generations": 0}, "game": {"generations": 1}},
    {"seed": 2, "collect": {"policy": "smooth,previous:0.3"}, "game": {"generations": 2}},
    {"search": {"sigma": 0.05}, "game": {"init_from": "previous", "generations": 1}},
]


def run_phases(out: Path) -> int:
    return main(["run", "CartPole-v1", *SMALL, "--phases", json.dumps(CHANGES), "--out", str(out)])


def results(out: Path) -> dict[str, object]:
    values: dict[str, object] = {name: report.returns for name, report in Run(out).reports().items()}
    values |= {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.safetensors")}
    return values


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_report):
    out = tmp_path_factory.mktemp("phases") / "run"
    assert run_phases(out) == 0
    return out


@pytest.mark.slow
def test_each_phase_goes_on_from_the_one_before(finished):
    run, [first] = Run(finished), Run(finished).earlier
    agent = Agent.load(first.folder / "phases" / "01" / "agent")
    assert fingerprint(agent.world) == fingerprint(first.world()) != fingerprint(run.world())
    noisy = Agent(agent.world, agent.controller, 0.3)
    assert policy_name(noisy) in run.store().metadata["policy"]
    before = Run(finished / "phases" / "02").controller("game")
    assert before.parameters.equal(Agent.load(finished / "phases" / "02" / "agent").controller.parameters)
    report = run.reports()["game"]
    rows = [json.loads(line) for path in finished.rglob("evolve-game/metrics.jsonl") for line in path.open()]
    played = sum(row["steps"] + row.get("eval_steps", 0) for row in rows)
    assert report.real_steps == run.store().steps + first.store().steps + played
    assert len(rows) == 1 + 2 + 1


@pytest.mark.slow
def test_interrupted_phases_equal_uninterrupted_ones(finished, tmp_path, monkeypatch, no_report):
    out = tmp_path / "run"

    def interrupt(*_):
        raise KeyboardInterrupt

    for module, name in (
        (stages, "evolve_game"),  # within the first phase
        (phases, "write_json"),  # at its end
        (stages, "train_vae"),  # within the second phase
        (phases, "write_json"),  # at its end
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupt)
            assert run_phases(out) == 130
    assert run_phases(out) == 0
    assert results(out) == results(finished)
    assert run_phases(out) == 0  # nothing is left to do
    assert results(out) == results(finished)


@pytest.mark.slow
def test_phases_of_iterations_equal_commands_with_these_settings(tmp_path, no_report):
    words = [*SMALL, "--game.generations", "0", "--iterate.episodes", "2"]
    changes: list[dict[str, object]] = [{"iterations": 1}, {"iterations": 2, "dream": {"horizon": 5}}]
    for more in (["--iterations", "1"], ["--iterations", "2", "--dream.horizon", "5"]):
        assert main(["run", "CartPole-v1", *words, *more, "--out", str(tmp_path / "hand")]) == 0
    assert main(["run", "CartPole-v1", *words, "--phases", json.dumps(changes), "--out", str(tmp_path / "one")]) == 0
    for path in ("world/memory.safetensors", "evolve-dream/controller.safetensors", "iterations/02/iteration.json"):
        assert (tmp_path / "hand" / path).read_bytes() == (tmp_path / "one" / path).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "searches"),
    [
        ([{}, {"dream": {"horizon": 4}}], {"phases/01/evolve-dream", "evolve-dream", "evolve-game"}),
        ([{}, {"iterations": 1}], {"phases/01/evolve-dream", "phases/01/evolve-game", "evolve-dream", "evolve-game"}),
        (
            [{"iterations": 1, "game": {"generations": 0}}, {"iterations": 0}],
            {"phases/01/evolve-dream", "evolve-dream"},
        ),
        (
            [{"iterations": 1}, {"iterations": 2, "dream": {"horizon": 5}}],
            {"phases/01/evolve-dream", "phases/01/evolve-game", "evolve-dream", "evolve-game"},
        ),
    ],
)
def test_each_search_has_a_folder_and_an_unchanged_one_is_shared(changes, searches, tmp_path, no_report):
    words = ["run", "CartPole-v1", *SMALL, "--iterate.episodes", "2", "--phases", json.dumps(changes)]
    for _ in range(2):  # the second time, nothing is left to do
        assert main([*words, "--out", str(tmp_path)]) == 0
    found = {path.parent.relative_to(tmp_path) for path in tmp_path.rglob("evolve-*/controller.safetensors")}
    assert {str(path) for path in found if path.parts[0] != "iterations"} == searches
    assert (tmp_path / "phases" / "01" / "agent").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_more_phases(finished, tmp_path, capsys, monkeypatch, no_report):
    out, words = tmp_path / "run", ["run", "CartPole-v1", *SMALL, "--out", str(tmp_path / "run")]
    shorter = ["--dream.generations", "0", "--game.generations", "1"]
    assert main([*words, *shorter]) == 0
    for count, renames in ((2, 5), (3, 1)):
        kept = {path.read_bytes() for path in out.rglob("evolve-game/state.npz")}
        before = {path: path.stat().st_ino for path in (out / "rollouts").rglob("*.h5")}
        with monkeypatch.context() as patch:  # a kill within the moves
            patch.setattr(phases, "_rename", interrupting(phases._rename, renames))
            assert main([*words, "--phases", json.dumps(CHANGES[:count])]) == 130
        assert main([*words, "--phases", json.dumps(CHANGES[:count])]) == 0
        assert kept <= {path.read_bytes() for path in out.rglob("evolve-game/state.npz")}
        assert {*before.values()} <= {path.stat().st_ino for path in out.rglob("rollouts/**/*.h5")}
    assert results(out) == results(finished)
    assert "phase" in refused(capsys, *words, "--phases", json.dumps(CHANGES[:2]))
    assert "seed" in refused(capsys, *words, "--phases", json.dumps([{"seed": 3}, *CHANGES[1:]]))
    longer = [*CHANGES[:2], {**CHANGES[2], "game": {"init_from": "previous", "generations": 3}}]
    assert main([*words, "--phases", json.dumps(longer)]) == 0
    assert len((out / "evolve-game" / "metrics.jsonl").read_text().splitlines()) == 3


def interrupting(function, calls):
    """Return a function that interrupts after a number of calls."""
    left = iter(range(calls))

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        function(*arguments)

    return interrupted


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.record*.yaml")))
def test_records_are_valid(preset, tmp_path):
    game, _, name = preset.partition(".")
    content = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    words = ["run", game, "--preset", name]
    parsed = build_parser(words).parse_args(words).run
    assert parsed.phases == content["phases"]
    planned = plan(settings_of(parsed, "FastCarRacing"), Run(tmp_path))
    assert planned[-1].run.folder == tmp_path
    assert len({phase.run.folder for phase in planned[:-1]} - {tmp_path}) <= 1


@pytest.mark.parametrize(
    "preset", ["car-racing.record", "car-racing.record-cropped", "car-racing.record-fast", "mario.record"]
)
def test_searches_of_records_have_their_generations(preset, tmp_path):
    content = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text(encoding="utf-8"))
    planned = plan(build({"env": "FastCarRacing", **content}), Run(tmp_path))
    name = preset.replace(".record", "").replace("mario", "mario-1-1")
    rows = (RECORDS / f"{name}.metrics.jsonl").read_text(encoding="utf-8").splitlines()
    generations = [json.loads(row)["generation"] for row in rows]
    counts = [last for last, following in zip(generations, [*generations[1:], 1], strict=True) if following == 1]
    assert [phase.settings.game.generations for phase in planned if phase.run.folder == tmp_path] == counts
    assert planned[-1].settings.eval.seed == 20_000


def test_a_setting_on_the_command_line_is_that_of_all_phases():
    words = ["run", "car-racing", "--preset", "record", "--game.generations", "1", "--seed=5"]
    parsed = build_parser(words).parse_args(words).run
    assert not any("generations" in change.get("game", {}) or "seed" in change for change in parsed.phases)
    assert (parsed.game.generations, parsed.seed) == (1, 5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ('[{}, {"game": {"generatons": 3}}]', "phase 2"),
        ('[{}, {"game": {"population": 2}}]', "game.population"),
        ('[{"game": {"init_from": "previous"}}]', "previous"),
        ('[{"collect": {"policy": "smooth,previous"}}]', "previous"),
        ('[{"game": null}]', "game"),
        (
            '[{"dream": {"generations": 0}, "game": {"generations": 0}}, {"collect": {"policy": "previous"}}]',
            "previous",
        ),
        ('[{}, {"collect": {"policy": "unknown"}}]', "unknown"),
        ('[{}, {"env_options": {"unknown": 1}}]', "unknown"),
        ('[{}, {"phases": [{}]}]', "phase 2"),
        ("3", "phases"),
    ],
)
def test_a_wrong_phase_is_named(changes, named, tmp_path, capsys):
    words = ["run", "CartPole-v1", "--preset", "quick", "--iterations", "0", "--phases", changes]
    words += ["--out", str(tmp_path / "run")]
    assert named in refused(capsys, *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        *("run CartPole-v1 --preset record", "run mario --preset record-fast"),
        *("collect CarRacing --preset record", "evolve lost --preset record", "train vae lost --preset record"),
    ],
)
def test_a_preset_of_another_game_or_with_phases_is_refused(words, capsys):
    assert "standard" in refused(capsys, *words.split())
