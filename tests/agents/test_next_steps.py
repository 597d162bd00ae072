"""Every printed command runs as printed, on episodes of ten steps, in a shell without `worldmodel` on its path."""

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
"""Options that keep a printed command small; those of evolve follow from ``--where``."""
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
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


def environment(workdir: Path) -> dict[str, str]:
    """Variables of a shell that does not find the program; modules with environments lie in ``workdir``."""
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != str(PROGRAM.parent))
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": f"{workdir}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "BROWSER": "true",
    }


def shell(line: str, workdir: Path, code: int = 0) -> str:
    """The output of a command line in a shell."""
    result = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=workdir,
        env=environment(workdir),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == code, f"{line}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def run_program(workdir: Path, *words: str, code: int = 0) -> str:
    return shell(shlex.join([str(PROGRAM), *words]), workdir, code)


def next_command(output: str) -> str:
    """The command after ``Next:``."""
    (line,) = re.findall(r"^Next: (.+)$", output, re.MULTILINE)
    return line


def suggested_command(output: str) -> str:
    """The command at the end of an error."""
    return output.replace("\n", " ").rpartition(": ")[2].strip()


def follow(line: str, workdir: Path) -> str:
    """Run a printed command with small sizes, or start and stop its server."""
    words = shlex.split(line)
    if any(name in words for name in SERVERS):
        serve(line + (" --port 0" if "play" in words else " 0"), workdir)
        return ""
    name = next(name for name in [*SIZES, "dream", "density"] if name in " ".join(words[1:3]))
    more = SIZES.get(name, []) + (SEARCHES[words[words.index("--where") + 1]] if name == "evolve" else [])
    return shell(f"{line} {shlex.join(more)}", workdir)


def serve(line: str, workdir: Path) -> None:
    """Start a server, request its page and stop it."""
    process = subprocess.Popen(
        shlex.split(line), cwd=workdir, env=environment(workdir) | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline, output = time.monotonic() + 120, ""
        while not (found := re.search(r"https?://[\w.:]+/?", output)) and time.monotonic() < deadline:
            output += process.stdout.readline()
        assert found, output
        with urllib.request.urlopen(found[0].replace("0.0.0.0", "127.0.0.1"), timeout=30) as answer:
            assert answer.status == 200
    finally:
        process.terminate()  # background processes of a shell ignore Ctrl-C
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()


@pytest.mark.slow
def test_each_step_prints_the_next_command(workdir):
    output = run_program(
        workdir, "collect", "CartPole-v1", "--out", "my run", "--collect.episodes", "4", "--collect.max_steps", "10"
    )
    for name in ("vae", "memory", "evolve", "evaluate"):
        assert name in next_command(output)
        output = follow(next_command(output), workdir)
    assert "play" in next_command(output)
    follow(next_command(output), workdir)
    follow(
        next_command(run_program(workdir, "evolve", "my run", "--where", "game", "--workers", "1", *SEARCHES["game"])),
        workdir,
    )


@pytest.mark.slow
def test_a_pipeline_ends_with_its_report_and_a_play_command(workdir):
    output = run_program(workdir, "run", "CartPole-v1", "--out", "whole", *SMALL)
    page = re.search(r"file://(\S+report\.html)", output)
    assert Path(page[1]) == (workdir / "whole" / "report.html").resolve()
    assert "play" in next_command(output)
    follow(next_command(output), workdir)
    again = re.search(r"<code>(.+?)</code>", (workdir / "whole" / "report.html").read_text())[1]
    shell(again, workdir)
    run_program(workdir, "dream", "whole")  # the default start step needs a long enough episode
    run_program(
        workdir,
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
    run_program(workdir, "inspect", "whole")


@pytest.mark.slow
def test_errors_name_the_missing_step(workdir):
    (workdir / "empty").mkdir()
    output = run_program(workdir, "evaluate", "empty", code=2)
    words = suggested_command(output).replace("ENV", "CartPole-v1")
    shell(f"{words} --collect.episodes 4 --collect.max_steps 10", workdir)
    for name in ("train vae", "train memory", "evolve"):
        output = run_program(workdir, "evaluate", "empty", code=2)
        line = suggested_command(output)
        assert name in line
        follow(line, workdir)


@pytest.mark.slow
def test_next_commands_keep_a_custom_environment(workdir):
    (workdir / "my_game.py").write_text(
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('Mine-v0', entry_point=CartPoleEnv, max_episode_steps=10)\n"
    )
    output = run_program(workdir, "collect", "my_game:Mine-v0", "--out", "own", "--collect.episodes", "4")
    for _ in range(4):
        output = follow(next_command(output), workdir)
    follow(next_command(output), workdir)


@pytest.mark.slow
def test_a_fitted_density_is_sampled(workdir):
    rng = np.random.default_rng(0)
    write_mnist(workdir / "mnist", *((rng.random((count, 8, 8)) * 256).astype(np.uint8) for count in (20, 4)))
    words = ["density", "fit", "--data", "mnist:mnist", "--out", "digits", "--num_updates", "2", "--hidden_size", "4"]
    assert list((workdir / "digits").glob("samples/*")) == []
    follow(next_command(run_program(workdir, *words)), workdir)
    assert list((workdir / "digits").glob("samples/*"))
