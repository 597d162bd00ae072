"""What is said of a mistake on the command line: one line that a person understands, and exit code 2."""

import pytest

from agents.cli import main
from agents.commands.common import slug


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["collect", "CarRacing", "--episodes", "abc"],
            "worldmodel collect: --episodes: expected a whole number, got abc",
        ),
        (["collect", "CarRacing", "--max_steps", "x"], "--max_steps: expected a whole number or null, got x"),
        (
            ["collect", "CarRacing", "--env_options", "3"],
            "--env_options: expected JSON such as '{\"action_repeat\": 4}', got 3",
        ),
        (["collect", "CarRacing", "--nonsense", "3"], "worldmodel collect: unrecognized arguments: --nonsense 3"),
        (["collect"], "worldmodel: env is missing"),
        (["evolve", "x", "--game.sigma", "a"], "worldmodel evolve: --game.sigma: expected a number, got a"),
        (["evolve", "x", "--game.whiten", "maybe"], "--game.whiten: expected true or false, got maybe"),
        (["evaluate", "x", "--where", "moon"], "--where: expected one of 'game', 'dream' or null, got moon"),
        (
            ["train", "memory", "x", "--cell", "rnn"],
            "worldmodel train memory: --cell: expected one of 'lstm', 'gru', got rnn",
        ),
        ([], "worldmodel: a command is missing, one of run,collect,train,evolve,"),
        (["evaluate", "x", "--episode", "3"], "unrecognized arguments: --episode 3"),
        (["evolve", "x", "--dream", "none.yaml"], "--dream: there is no file 'none.yaml'"),
        (["train"], "a command is missing, one of vae,memory"),
        (["colect", "CarRacing"], "there is no command 'colect' ('run', 'collect', "),
        (["colect", "CarRacing"], "did you mean 'collect'?"),
        (["train", "vea"], "worldmodel train: there is no command 'vea' ('vae', 'memory'), did you mean 'vae'?"),
    ],
)
def test_mistakes_are_told_in_one_plain_line(words, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert told.endswith("(--help lists what there is)\n")
    assert not any(jargon in told for jargon in ("[options]", "<class", "typing", "Union", "Got value"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &a [1, 1]\nb: [*a, *a]", "aliases have no place here"),
        ("generations: 2\ngenerations: 5", "'generations' stands there twice"),
        ("generations: " + "7" * 6_000, "4300 digits"),
        ("\xff\xfe", "can't decode byte 0xff"),
        ("- 1", "it is no mapping"),
    ],
)
@pytest.mark.parametrize("option", ["--config", "--dream"])
def test_files_of_settings_are_plain(option, text, said, tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SystemExit) as stopped:
        main(["evolve", str(tmp_path), option, str(path)])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert f"{path} cannot be read: " in told
    assert said in told
    assert told.count("\n") == 1


def test_values_have_no_aliases(capsys):
    bomb = "{" + ", ".join(f"k{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else 'x'}]" for n in range(30)) + "}"
    with pytest.raises(SystemExit):
        main(["collect", "CartPole-v1", "--env_options", bomb])
    assert len(capsys.readouterr().err) < 800


def test_settings_of_the_other_place_are_refused(tmp_path, capsys):
    assert main(["evolve", str(tmp_path), "--where", "dream", "--game.generations", "3"]) == 2
    assert "--game.generations does nothing with --where dream" in capsys.readouterr().err


def test_files_have_names_without_folders_or_drives():
    assert slug("ALE/Pong-v5") == "ALE-Pong-v5"
    assert slug("envs:FastCarRacing-v3") == "envs-FastCarRacing-v3"
