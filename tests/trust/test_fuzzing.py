"""Readers of files under Atheris' coverage-guided fuzzing; ``FUZZ_SECONDS`` is the time of each."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.skips import IMPOSSIBLE
from tests.worldmodel.corpora.formats import cifar_bytes, cifar_pickle, idx_bytes, sphere_bytes, wav_bytes
from worldmodel.agents.config.provenance import save_config
from worldmodel.agents.config.schema import RunConfig
from worldmodel.agents.evaluation import Report
from worldmodel.rollouts.policy.controllers import HiddenController, LinearController

pytest.importorskip("atheris", reason=f"{IMPOSSIBLE}Atheris has no wheel for this platform or this Python")

ROOT = Path(__file__).parent.parent.parent
SECONDS = os.environ.get("FUZZ_SECONDS", "8")
BOUNDS = ("-rss_limit_mb=2500", "-malloc_limit_mb=256", "-timeout=10", "-max_len=4096")
"""Limits for a file of 4 kB: total memory, memory of one allocation, and seconds."""


def run_fuzzer(name, folder, valid_files, *options):
    """Fuzz a reader from valid files and return the exit code and the output."""
    (folder / "corpus").mkdir()
    for number, content in enumerate(valid_files):
        (folder / "corpus" / f"good-{number}").write_bytes(content)
    args = ["-m", "tests.trust.fuzz", name, str(folder), "-seed=1", *BOUNDS, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env=environment, timeout=600 + float(SECONDS), **pipes)
    return done.returncode, done.stdout


def valid_files(folder):
    """Valid files for each reader."""
    rng = np.random.default_rng(0)
    sound, pixels = rng.uniform(-1, 1, 20), rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    images = idx_bytes(rng.integers(0, 256, (2, 4, 4)).astype(np.uint8))
    for name, controller in (("linear", LinearController(3, 2)), ("hidden", HiddenController(3, 2, hidden_units=2))):
        controller.save(folder / name)
    Report("CartPole-v1", [1.0, 2.0], [1, 2], [3, 4]).save(folder / "report")
    save_config(RunConfig("CartPole-v1"), folder / "settings")
    controllers, report, settings = (
        [(folder / name).read_bytes() for name in names] for names in (("linear", "hidden"), ("report",), ("settings",))
    )
    return {
        "audio": [wav_bytes(sound, kind=kind) for kind in ("i2", "f4")],
        "cifar": [cifar_bytes(pixels)],
        "cifar_pickle": [cifar_pickle(pixels)],
        "controller": controllers,
        "idx": [images, gzip.compress(images)],
        "json": report,
        "report": report,
        "rows": [b'{"update": 1, "loss": 0.5}\n{"update": 2, "loss": 1e-3}\n'],
        "sphere": [sphere_bytes(sound)],
        "tensors": controllers,
        "yaml": [*settings, b"a: {b: [1, 2.5, yes]}\n"],
    }


NAMES = ("audio", "cifar", "cifar_pickle", "controller", "idx", "json", "report", "rows", "sphere", "tensors", "yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_file_breaks_a_reader(tmp_path, name):
    code, output = run_fuzzer(name, tmp_path, valid_files(tmp_path)[name], f"-max_total_time={SECONDS}")
    broken = {path.name: path.read_bytes() for path in tmp_path.glob("broken-*")}
    assert (code, broken) == (0, {}), output[-3_000:]
    assert "Done " in output  # the final line of libFuzzer


@pytest.mark.slow
def test_all_readers_that_can_be_fuzzed_are():
    result = subprocess.run(
        [sys.executable, "-m", "tests.trust.fuzz", "--list"], cwd=ROOT, capture_output=True, check=True
    )
    assert sorted(result.stdout.decode().split()) == sorted([*NAMES, "planted"])


@pytest.mark.slow
def test_the_fuzzer_finds_the_one_file_that_breaks_a_reader(tmp_path):
    # A timer that never expires: its alarm would end the process without writing a file, because Atheris removes the handlers.
    code, output = run_fuzzer("planted", tmp_path, [b"some"], "-max_len=4", "-max_total_time=400", "-timeout=1000")
    assert code != 0
    assert "KeyError: 'planted'" in output
    assert [path.read_bytes() for path in tmp_path.glob("broken-*")] == [b"WA"], output[-3_000:]
