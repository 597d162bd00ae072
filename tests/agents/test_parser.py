"""Errors of the command line: one plain line and exit code 2."""

import re
from dataclasses import asdict

import pytest
import yaml

from tests.command_line import refused
from worldmodel.agents.cli.commands.common import PRESETS, slug
from worldmodel.agents.cli.main import main
from worldmodel.agents.config.fields import rare_settings
from worldmodel.agents.config.io import flat, read_yaml
from worldmodel.agents.config.parser import Parser
from worldmodel.agents.config.schema import RunConfig
from worldmodel.io import migration


@pytest.mark.parametrize(
    ("words", "named"),
    [
        # a value of another kind
        ("collect CarRacing --collect.episodes abc", ["collect", "--collect.episodes", "abc"]),
        ("collect CarRacing --collect.max_steps x", ["--collect.max_steps", "null", "x"]),
        ("evolve x --search.whiten maybe", ["--search.whiten", "true", "false", "maybe"]),
        ("train memory x --memory.flow rnn", ["train memory", "--memory.flow", "'none', 'affine'", "rnn"]),
        # unknown options, commands and files
        ("collect CarRacing --nonsense 3", ["--nonsense"]),
        ("sing", ["sing", "'run', 'benchmark'"]),
        ("evolve x --dream none.yaml", ["--dream", "none.yaml"]),
        # missing arguments, with the choices
        ("", ["run,benchmark,collect,import,train"]),
        ("train", ["vae,memory"]),
        ("collect", ["collect", "ENV", "CarRacing", "SuperMarioBros-1-1"]),
        ("run --preset quick", ["ENV", "car-racing"]),
        ("train memory", ["train memory", "RUN"]),
        ("density fit", ["density fit", "--data", "mnist"]),
        # typing errors
        ("colect CarRacing", [" collect"]),
        ("train vea", [" vae"]),
        ("collect CarRacing --episdes=3", ["--collect.episodes"]),
        ("collect CarRacing -episodes 3", ["--collect.episodes"]),
        ("run x --generaton 3", ["--dream.generations", "--game.generations"]),
        ("run x --game {generatons:3}", ["game.generations"]),
        ("run x --preset quik", ["quick"]),
        ("evaluate x --where gmae", [" game"]),
    ],
)
def test_mistakes_give_one_plain_line(words, named, capsys):
    message = refused(capsys, *(word.replace(":", ": ") for word in words.split()))
    assert [part for part in named if part not in message] == []
    assert not any(jargon in message for jargon in ("[options]", "<class", "typing", "Union", "Got value"))


@pytest.mark.parametrize(
    ("command", "text", "named"),
    [
        (("run", "CartPole-v1"), "game: {generatons: 3}", "game.generations"),
        (("train", "vae", "RUN"), "num_updates: 3", "vae.num_updates"),
        (("train", "memory", "RUN"), "memory: {num_update: 3}", "memory.num_updates"),
    ],
)
def test_typing_errors_in_settings_files_are_corrected(command, text, named, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    words = [word.replace("RUN", str(tmp_path)) for word in command]
    assert named in refused(capsys, *words, "--config", str(path))


def test_typing_errors_in_agent_names_are_corrected(capsys):
    assert "car-racing" in refused(capsys, "evaluate", "car-racng", "--pretrained")


@pytest.mark.parametrize("option", ["--config", "--dream"])
@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\nb: [*a, *a]",  # an alias
        "generations: 2\ngenerations: 5",  # twice
        "generations: " + "7" * 6_000,
        "\xff\xfe",
        "- 1",  # no mapping
    ],
    ids=["alias", "twice", "digits", "bytes", "list"],
)
def test_settings_files_are_plain_yaml(option, text, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="latin-1")
    assert str(path) in refused(capsys, "evolve", str(tmp_path), option, str(path))


def test_values_have_no_aliases(capsys):
    bomb = "{" + ", ".join(f"k{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else 'x'}]" for n in range(30)) + "}"
    with pytest.raises(SystemExit):
        main(["collect", "CartPole-v1", "--env_options", bomb])
    assert len(capsys.readouterr().err) < 800


@pytest.fixture
def parser():
    parser = Parser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(RunConfig)
    return parser


def test_values_on_the_command_line_keep_their_names(parser):
    options = parser.parse_args(["--env", "CarRacing", "--env_options", '{"env": "a", "test": 1}'])
    assert options.env_options == {"env": "a", "test": 1}
    options = parser.parse_args(["--env", "CarRacing", "--env_options", '{"data": "a", "model": 1, "sa": 2}'])
    assert options.env_options == {"data": "a", "model": 1, "sa": 2}


def test_settings_files_of_older_versions_are_converted_once(parser, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        migration,
        "config_file",
        lambda content, convert=migration.config_file: calls.append(content) or convert(content),
    )
    config = {
        "env": "FastCarRacing",
        "env_options": {"indicators": True},
        "dream": {"dreams": 3},
        "test": {"episodes": 5},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    options = parser.parse_args(["--config", str(tmp_path / "config.yaml")])
    assert (options.env_options, options.dream.num_rollouts, options.eval.episodes) == ({"show_hud": True}, 3, 5)
    assert calls == [config]


def test_sections_of_older_versions_are_converted(parser, tmp_path):
    (tmp_path / "dream.yaml").write_text("dreams: 3", encoding="utf-8")
    (tmp_path / "controller.yaml").write_text("sees: both", encoding="utf-8")
    words = ["--dream", str(tmp_path / "dream.yaml"), "--controller", str(tmp_path / "controller.yaml")]
    options = parser.parse_args(["--env", "CarRacing", *words])
    assert (options.dream.num_rollouts, options.controller.inputs) == (3, "z+h")


def test_a_setting_that_left_its_section_is_named(tmp_path, capsys):
    (tmp_path / "dream.yaml").write_text("{dreams: 3, decay: 0.5}", encoding="utf-8")
    assert "search.sigma_decay" in refused(capsys, "run", "CartPole-v1", "--dream", str(tmp_path / "dream.yaml"))


def test_settings_of_the_other_search_are_refused(tmp_path, capsys):
    assert "--game.generations" in refused(
        capsys, "evolve", str(tmp_path), "--where", "dream", "--game.generations", "3"
    )


def test_slugs_have_no_folders_or_drives():
    assert slug("ALE/Pong-v5") == "ALE-Pong-v5"
    assert slug("worldmodel.envs:worldmodel/FastCarRacing-v3") == "worldmodel.envs-worldmodel-FastCarRacing-v3"


def shown_settings(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["run", *words])
    assert ended.value.code == 0
    return set(re.findall(r"^  --([\w.]+)", capsys.readouterr().out, re.MULTILINE))


def test_help_of_run_shows_common_settings_and_all_on_request(capsys):
    rare = rare_settings(RunConfig)
    common, everything = shown_settings(capsys, "--help"), shown_settings(capsys, "car-racing", "--help", "all")
    assert {"seed", "collect.episodes", "memory.flow", "game.generations", "preset"} <= common
    assert not common & rare
    assert everything - common == rare


def test_a_file_may_choose_the_preset(tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("preset: quick\nvae: {num_updates: 4}\n", encoding="utf-8")
    printed = {}
    for words in (["--config", str(path)], ["--preset", "quick", "--vae.num_updates", "4"]):
        with pytest.raises(SystemExit) as ended:
            main(["run", "CartPole-v1", *words, "--print_config"])
        assert ended.value.code == 0
        printed[words[0]] = yaml.safe_load(capsys.readouterr().out)
    assert printed["--config"] == printed["--preset"]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_flag_is_not_followed_by_a_value(place, capsys):
    words = ["car-racing", "--preset", "quick"]
    words.insert(place, "--print_config")
    with pytest.raises(SystemExit):
        main(["run", *words])
    printed = yaml.safe_load(capsys.readouterr().out)
    preset = read_yaml(PRESETS / "car-racing.quick.yaml")
    assert (printed["preset"], printed["iterations"]) == ("quick", preset["iterations"])


def test_there_are_at_most_sixty_settings_and_about_twenty_common_ones():
    settings = flat(asdict(RunConfig("")))
    common = settings.keys() - rare_settings(RunConfig)
    assert len(settings) <= 60
    assert 18 <= len(common) <= 25


def test_a_number_of_episodes_in_a_file_replaces_the_minimum_of_steps_like_the_flag(tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("collect: {episodes: 8}\n", encoding="utf-8")
    for words in (["--config", str(path)], ["--collect.episodes", "8"]):
        with pytest.raises(SystemExit):
            main(["run", "CartPole-v1", "--preset", "quick", *words, "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["collect"]["episodes"] == 8


@pytest.mark.parametrize("text", ["1: 2\n", "null: 2\n", "vae: {1: 2}\n"])
def test_keys_that_are_no_text_are_refused_with_the_file(tmp_path, capsys, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    assert path.name in refused(capsys, "run", "CartPole-v1", "--config", str(path))
