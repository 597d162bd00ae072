"""What is said of a mistake on the command line: one line that a person understands, and exit code 2."""

import pytest

from agents.cli import main
from agents.commands.common import slug


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("collect CarRacing --episodes abc", ["collect:", "--episodes", "abc"]),
        ("collect CarRacing --max_steps x", ["--max_steps", "null", "x"]),
        ("collect CarRacing --env_options 3", ["--env_options", '{"action_repeat": 4}']),
        ("collect CarRacing --nonsense 3", ["--nonsense"]),
        ("evolve x --game.sigma a", ["evolve:", "--game.sigma", "got a"]),
        ("evolve x --game.whiten maybe", ["--game.whiten", "true or false", "maybe"]),
        ("evaluate x --where moon", ["--where", "'game', 'dream'", "moon"]),
        ("train memory x --cell rnn", ["train memory:", "--cell", "'lstm', 'gru'", "rnn"]),
        ("", ["command", "run,collect,train,evolve"]),
        ("evolve x --dream none.yaml", ["--dream", "none.yaml"]),
        ("train", ["vae,memory"]),
        ("sing", ["sing", "'run', 'collect'"]),
        # what is missing says what it may be
        ("collect", ["collect: ENV is missing", "CarRacing", "SuperMarioBros-1-1"]),
        ("run", ["run: WORLD is missing", "car-racing", "mario"]),
        ("run --preset quick", ["WORLD is missing"]),
        ("evolve", ["evolve: RUN is missing"]),
        ("train memory", ["train memory: RUN is missing"]),
        ("export x", ["--web is missing"]),
        ("density fit", ["density fit: --data is missing", "mnist"]),
        # slips
        ("colect CarRacing", ["did you mean collect?"]),
        ("train vea", ["did you mean vae?"]),
        ("evaluate x --episode 3", ["did you mean --episodes?"]),
        ("collect CarRacing --episdes 3", ["did you mean --episodes?"]),
        ("collect CarRacing --episdes=3", ["did you mean --episodes?"]),
        ("collect CarRacing -episodes 3", ["did you mean --episodes?"]),
        ("run x --game.generatons 3", ["did you mean --game.generations?"]),
        ("run x --generations 3", ["did you mean --dream.generations or --game.generations?"]),
        ("run x --generaton 3", ["did you mean --dream.generations or --game.generations?"]),
        ("run x --game {generatons:3}", ["did you mean game.generations?"]),
        ("run x --preset quik", ["did you mean quick?"]),
        ("train memory x --cell gur", ["did you mean gru?"]),
        ("evaluate x --where gmae", ["did you mean game?"]),
        ("evolve x --game.covariance diag", ["did you mean diagonal?"]),
    ],
)
def test_mistakes_are_told_in_one_plain_line(words, named, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([word.replace(":", ": ") for word in words.split()])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert [part for part in named if part not in told] == []
    assert told.count("\n") == 1
    assert not any(jargon in told for jargon in ("[options]", "<class", "typing", "Union", "Got value"))


def test_a_slip_in_a_file_of_settings_is_corrected(tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("game: {generatons: 3}\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["run", "CartPole-v1", "--config", str(path)])
    assert stopped.value.code == 2
    assert "did you mean game.generations?" in capsys.readouterr().err


def test_a_slip_in_an_agents_name_is_corrected(capsys):
    assert main(["evaluate", "car-racng", "--pretrained"]) == 2
    assert "did you mean car-racing" in capsys.readouterr().err


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
