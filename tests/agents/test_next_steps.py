"""Every command that is printed runs as printed, on episodes of ten steps, by a shell that lacks `worldmodel`."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel.corpora.formats import write_mnist

ROOT = Path(__file__).parent.parent.parent
PROGRAM = Path(sys.executable).parent / "worldmodel"
SMALL = [
    *("--collect.episodes", "6", "--collect.max_steps", "10", "--vae.num_updates", "2", "--vae.latent_dim", "2"),
    *("--memory.num_updates", "2", "--memory.hidden_size", "4", "--dream.generations", "1", "--dream.population", "4"),
    *("--dream.horizon", "5", "--game.generations", "1", "--game.population", "4", "--game.episodes", "1"),
    *("--game.eval_every", "1", "--game.eval_episodes", "1", "--game.max_steps", "10"),
    *("--eval.episodes", "2", "--eval.max_steps", "10", "--workers", "1"),
]
SERVERS = ("play", "http.server")
"""Commands that run until they are stopped."""
SIZES = {
    "train vae": ["--vae.num_updates", "2", "--vae.latent_dim", "2"],
    "train memory": ["--memory.num_updates", "2", "--memory.hidden_size", "4"],
    "evolve": ["--workers", "1"],
    "evaluate": ["--eval.episodes", "2", "--eval.max_steps", "10", "--workers", "1"],
}
"""What keeps a printed command small; those of evolve follow from ``--where``."""
SEARCHES = {
    "dream": ["--dream.generations", "1", "--dream.population", "4", "--dream.horizon", "5"],
    "game": [
        "--game.generations",
        "1",
        "--game.population",
        "4",
        "--game.max_steps",
        "10",
        "--game.eval_episodes",
        "1",
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


def environment(place: Path) -> dict[str, str]:
    """Of a shell that does not find our program; environments of one's own lie in ``place``."""
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != str(PROGRAM.parent))
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": f"{place}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "BROWSER": "true",
    }


def shell(line: str, place: Path, code: int = 0) -> str:
    """What a command line prints that a shell runs."""
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=place,
        env=environment(place),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def ours(place: Path, *words: str, code: int = 0) -> str:
    return shell(shlex.join([str(PROGRAM), *words]), place, code)


def next_of(said: str) -> str:
    """The command that was printed as the next one."""
    (line,) = re.findall(r"^Next: (.+)$", said, re.MULTILINE)
    return line


def cure_of(said: str) -> str:
    """The command that an error names at its end."""
    return said.replace("\n", " ").rpartition(": ")[2].strip()


def follow(line: str, place: Path) -> str:
    """Run a printed command, with sizes behind it, or its server for a moment."""
    words = shlex.split(line)
    if any(name in words for name in SERVERS):
        serve(line + (" --port 0" if "play" in words else " 0"), place)
        return ""
    name = next(name for name in [*SIZES, "dream", "density"] if name in " ".join(words[1:3]))
    more = SIZES.get(name, []) + (SEARCHES[words[words.index("--where") + 1]] if name == "evolve" else [])
    return shell(f"{line} {shlex.join(more)}", place)


def serve(line: str, place: Path) -> None:
    """Start a server, look at its page, and stop it."""
    process = subprocess.Popen(
        shlex.split(line), cwd=place, env=environment(place) | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline, said = time.monotonic() + 120, ""
        while not (found := re.search(r"https?://[\w.:]+/?", said)) and time.monotonic() < deadline:
            said += process.stdout.readline()
        assert found, said
        with urllib.request.urlopen(found[0].replace("0.0.0.0", "127.0.0.1"), timeout=30) as answer:
            assert answer.status == 200
    finally:
        process.terminate()  # a Ctrl-C is ignored by what a shell started in the background
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


@pytest.mark.slow
def test_one_step_leads_to_the_next(place):
    said = ours(
        place, "collect", "CartPole-v1", "--out", "my run", "--collect.episodes", "4", "--collect.max_steps", "10"
    )
    for name in ("vae", "memory", "evolve", "evaluate"):
        assert name in next_of(said)
        said = follow(next_of(said), place)
    assert "play" in next_of(said)
    follow(next_of(said), place)
    follow(next_of(ours(place, "evolve", "my run", "--where", "game", "--workers", "1", *SEARCHES["game"])), place)


@pytest.mark.slow
def test_a_whole_run_ends_with_its_page_and_with_playing(place):
    said = ours(place, "run", "CartPole-v1", "--out", "whole", *SMALL)
    page = re.search(r"file://(\S+report\.html)", said)
    assert Path(page[1]) == (place / "whole" / "report.html").resolve()
    assert "play" in next_of(said)
    follow(next_of(said), place)
    again = re.search(r"<code>(.+?)</code>", (place / "whole" / "report.html").read_text())[1]
    shell(again, place)
    ours(place, "dream", "whole")  # by default wherever there are steps enough
    ours(
        place,
        "compare",
        "whole",
        "--variants",
        '["RMDN, K = 1"]',
        "--seeds",
        "1",
        "--num_updates",
        "2",
        "--workers",
        "1",
    )
    ours(place, "inspect", "whole")


@pytest.mark.slow
def test_errors_name_the_command_that_cures_them(place):
    (place / "empty").mkdir()
    said = ours(place, "evaluate", "empty", code=2)
    words = cure_of(said).replace("ENV", "CartPole-v1")
    shell(f"{words} --episodes 4 --max_steps 10", place)
    for name in ("train vae", "train memory", "evolve"):
        said = ours(place, "evaluate", "empty", code=2)
        line = cure_of(said)
        assert name in line
        follow(line, place)


@pytest.mark.slow
def test_an_environment_of_ones_own_is_named_again(place):
    (place / "my_game.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Mine-v0', entry_point=CartPoleEnv, max_episode_steps=10)\n"
    )
    said = ours(place, "collect", "my_game:Mine-v0", "--out", "own", "--collect.episodes", "4")
    for _ in range(4):
        said = follow(next_of(said), place)
    follow(next_of(said), place)


@pytest.mark.slow
def test_a_learned_density_is_sampled(place):
    rng = np.random.default_rng(0)
    write_mnist(place / "mnist", *((rng.random((count, 8, 8)) * 256).astype(np.uint8) for count in (20, 4)))
    words = ["density", "fit", "--data", "mnist:mnist", "--out", "digits", "--num_updates", "2", "--hidden_size", "4"]
    assert list((place / "digits").glob("samples/*")) == []
    follow(next_of(ours(place, *words)), place)
    assert list((place / "digits").glob("samples/*"))
