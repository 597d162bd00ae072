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


def test_files_have_names_without_folders_or_drives():
    assert slug("ALE/Pong-v5") == "ALE-Pong-v5"
    assert slug("envs:FastCarRacing-v3") == "envs-FastCarRacing-v3"
