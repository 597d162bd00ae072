"""Full and read-only disks, unusual names of folders, unusual locales, and two processes at once."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.command_line import refused
from tests.skips import IMPOSSIBLE
from tests.trust import runs
from worldmodel.agents.cli.main import main
from worldmodel.agents.pipeline import stages
from worldmodel.rollouts.store.store import Store
from worldmodel.training import fit as training

ROOT = Path(__file__).parent.parent.parent
COLLECT = (
    "collect",
    "CartPole-v1",
    "--collect.episodes",
    "30",
    "--collect.max_steps",
    "4",
    "--workers",
    "1",
    "--seed",
    "3",
)
ODD = ("ünïcödé ✓ with space", "-dash", "[bold]a:b[red]quo'te\"s")


def mounted(folder, options):
    """Mount a small file system, or skip the test: only root may mount."""
    folder.mkdir()
    args = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(args, capture_output=True).returncode:
        pytest.skip(f"{IMPOSSIBLE}only root may mount file systems")
    return folder


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 60 kB."""
    folder = mounted(tmp_path / "disk", "size=60k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_gives_one_error_line_and_keeps_files(small_disk, tmp_path, capsys):
    assert main([*COLLECT, "--out", str(small_disk)]) == 2
    error_lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("worldmodel")]
    assert len(error_lines) == 1
    assert str(small_disk) in error_lines[0]
    kept = {path.name: path.read_bytes() for path in small_disk.glob("rollouts/shards/*.h5")}
    assert Store(small_disk / "rollouts").damaged == {}
    remount(small_disk, "size=50m")
    assert main([*COLLECT, "--out", str(small_disk)]) == 0
    assert main([*COLLECT, "--out", str(tmp_path / "elsewhere")]) == 0
    shards = {path.name: path.read_bytes() for path in small_disk.glob("rollouts/shards/*.h5")}
    assert shards.items() >= kept.items()
    assert shards == {path.name: path.read_bytes() for path in tmp_path.glob("elsewhere/rollouts/shards/*.h5")}


@pytest.mark.slow
def test_a_read_only_disk_gives_one_error_line_and_can_be_inspected(small_disk, capsys, tmp_path):
    remount(small_disk, "size=50m")
    assert main([*COLLECT, "--out", str(small_disk)]) == 0
    remount(small_disk, "ro")
    capsys.readouterr()
    assert main([*COLLECT, "--out", str(small_disk), "--collect.episodes", "31"]) == 2
    error_lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("worldmodel")]
    assert len(error_lines) == 1
    assert str(small_disk) in error_lines[0]
    assert ".part" not in error_lines[0]  # names the final file
    assert main(["inspect", str(small_disk)]) == 0
    assert main(["inspect", str(small_disk), "--picture", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").exists()
    assert main(["inspect", str(small_disk), "--picture", str(small_disk / "sheet.png")]) == 2


def test_a_file_size_limit_gives_one_error_line(tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        code = main([*COLLECT, "--out", str(tmp_path / "run")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    error_lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("worldmodel")]
    assert len(error_lines) == 1
    assert str(tmp_path) in error_lines[0]


@pytest.mark.slow
def test_a_pipeline_continues_after_a_full_disk(undisturbed_run, tmp_path):
    folder = mounted(tmp_path / "disk", "size=1m")
    try:
        for size in (1, 20, 45, 80, 110, 150, 180):
            remount(folder, f"size={size}m")
            assert runs.run_in_process(runs.run_pipeline_on_a_small_disk, folder) == errno.ENOSPC, (
                folder / "output.txt"
            ).read_text()[-2000:]
        remount(folder, "size=500m")
        assert runs.run_in_process(runs.run_pipeline_on_a_small_disk, folder) == 0
        expected, found = runs.results(undisturbed_run[0] / "run"), runs.results(folder / "run")
        assert [name for name in expected if found.get(name) != expected[name]] == []
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_works(undisturbed_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stages, "fit", partial(training.fit, **runs.FIT))
    operations = undisturbed_run[1]
    order = {path: number for number, path in reversed(list(enumerate(operations)))}
    target = ("run/evolve-game/state.npz", 1)
    first = runs.context().Process(target=runs.run_pipeline, args=(tmp_path, None, target, order, signal.SIGSTOP))
    first.start()
    status = Path(f"/proc/{first.pid}/stat")
    deadline = time.monotonic() + runs.TIMEOUT
    while status.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.chdir(tmp_path)
    try:
        for args in (("run", "CartPole-v1", "--config", "run/config.yaml"), (*COLLECT,), ("train", "vae", "run")):
            assert "run" in refused(capsys, *args, *(() if args[0] == "train" else ("--out", "run")))
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.join(runs.TIMEOUT)
    assert first.exitcode == 0
    expected, found = runs.results(undisturbed_run[0] / "run"), runs.results(tmp_path / "run")
    assert [name for name in expected if found.get(name) != expected[name]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_folders_may_have_any_name(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    few = ("--collect.episodes", "1", "--collect.max_steps", "2", "--workers", "1")
    assert main(["collect", "CartPole-v1", *few, f"--out={name}"]) == 0
    assert main(["inspect", f"./{name}"]) == 0
    assert sorted(os.listdir(tmp_path)) == [name]
    assert len(Store(Path(name) / "rollouts")) == 1
    assert name in refused(capsys, "train", "memory", f"./{name}")


RUN_COMMANDS = """
import sys
from worldmodel.agents.cli.main import main
few = ["--collect.episodes", "1", "--collect.max_steps", "2", "--workers", "1"]
for name in sys.argv[1:]:
    if code := main(["collect", "CartPole-v1", *few, "--out", name]) or main(["inspect", name]):
        sys.exit(code)
"""


def locales():
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
    turkish = next((name for name in known if name.startswith("tr_TR")), None)
    return [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}] + (
        [{"LC_ALL": turkish}] if turkish else []
    )


@pytest.mark.slow
@pytest.mark.parametrize("locale_variables", locales(), ids=json.dumps)
def test_unusual_locales(tmp_path, locale_variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    found = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, "Ünïcödé İı", b"no utf-8 \xff"], cwd=tmp_path, capture_output=True, check=False,
        env=environment | locale_variables | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr.decode("utf-8", "replace")
    assert b"Traceback" not in found.stderr
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"no utf-8 \xff", "Ünïcödé İı".encode()]
