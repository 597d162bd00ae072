"""The distributions: declared dependencies, constraints, the wheel, the source distribution and its files."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PACKAGES = ("worldmodel", "agents", "envs", "rollouts")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "gym-super-mario-bros": "gym_super_mario_bros",
    "nes-py": "nes_py",
}
"""Distributions whose module has another name."""
USED_AS = {
    "tensorboard": "torch.utils.tensorboard",
    "gym-super-mario-bros": 'package_dir("gym_super_mario_bros")',
    "nes-py": 'package_dir("nes_py")',
    "websockets": "websockets",
}
"""Distributions that are used without an import, with the code that uses them."""
INSTALLED_BY = {"pygame": "gymnasium[box2d]"}
"""Modules that another dependency installs, with the requirement that does so."""


def requirements(*extras: str) -> list[Requirement]:
    listed = list(PROJECT["dependencies"]) if not extras else []
    return [Requirement(line) for line in listed + [r for e in extras for r in PROJECT["optional-dependencies"][e]]]


def imported(*folders: str) -> set[str]:
    """The modules that code imports anywhere, at the top or in functions."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def module_of(requirement: Requirement) -> str:
    return MODULES.get(requirement.name, requirement.name.replace("-", "_"))


def test_imports_are_declared():
    extras = set(PROJECT["optional-dependencies"]) - {"dev", "docs"}
    declared = {module_of(requirement) for requirement in requirements() + requirements(*extras)}
    assert imported(*PACKAGES) <= declared | set(INSTALLED_BY)
    assert set(INSTALLED_BY.values()) <= set(re.split("[><=;]", line)[0] for line in PROJECT["dependencies"])


def test_declared_dependencies_are_used():
    extras = set(PROJECT["optional-dependencies"]) - {"dev", "docs", "games"}  # games are created by their ids
    code = "\n".join(path.read_text(encoding="utf-8") for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))
    used = imported(*PACKAGES)
    for requirement in requirements() + requirements(*extras):
        is_used = module_of(requirement) in used or USED_AS.get(requirement.name, "\0") in code
        assert is_used, f"{requirement} is declared and never imported"


def test_constraints_are_within_the_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned: dict[str, list[Requirement]] = {}
    for pin in (Requirement(line) for line in lines if not line.startswith("#")):
        pinned.setdefault(pin.name.lower().replace("_", "-"), []).append(pin)
    for requirement in requirements() + requirements(*set(PROJECT["optional-dependencies"]) - {"docs"}):
        name = requirement.name.lower().replace("_", "-")
        for python in ("3.11", "3.13"):
            python_env = {"python_version": python}
            if requirement.marker is None or requirement.marker.evaluate(python_env):
                pins = [p for p in pinned[name] if p.marker is None or p.marker.evaluate(python_env)]
                [version] = [spec.version for pin in pins for spec in pin.specifier]
                assert requirement.specifier.contains(version), (requirement, version)


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata.version("worldmodel") == PROJECT["version"] == citation["version"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source distribution."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel], [source] = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, source


@pytest.mark.slow
def test_distributions_contain_the_expected_files(built):
    wheel, source = built
    members = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected = {name if name.startswith("worldmodel/") else f"worldmodel/{name}" for name in sources}
    assert expected <= members
    for kind in ("pretrained/car-racing/vae.safetensors", "presets/mario.quick.yaml", "viewer/page/index.html"):
        assert f"agents/{kind}" in sources
    assert {name.partition("/")[0] for name in members - expected} == {f"worldmodel-{PROJECT['version']}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in members)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()} - {""}  # the folder itself
    for name in ("LICENSE", "README.md", "constraints.txt", "Makefile", "CITATION.cff", "tests/test_packaging.py"):
        assert name in names
    assert sources <= names
    assert {name.partition("/")[0] for name in names} <= {
        *PACKAGES, "tests", "benchmarks", "examples", "docs", ".ci", "Makefile", "LICENSE", "README.md", "PKG-INFO",
        "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "constraints.txt", "pyproject.toml", ".gitignore",
        ".pre-commit-config.yaml", "MANIFEST.in", "setup.cfg", "worldmodel.egg-info",
    }  # fmt: skip


def test_every_package_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    names = {
        ".".join(folder.parts if folder.parts[0] == "worldmodel" else ("worldmodel", *folder.parts))
        for folder in folders
    }
    assert names == set(project["tool"]["setuptools"]["packages"])


FOREIGN = """
import agents, envs, rollouts, worldmodel.agents, worldmodel.envs, worldmodel.rollouts
assert all(module.MINE for module in (agents, envs, rollouts))
store = worldmodel.rollouts.collect("envs:Mine-v0", "uniform", 2, workers=2, out="store", max_steps=4)
assert store.env == "envs:Mine-v0" and len(store) == 2
"""
"""A program beside folders with the names of this package's folders."""
MINE = """
import gymnasium, gymnasium.envs.classic_control
MINE = True
gymnasium.register("Mine-v0", entry_point=gymnasium.envs.classic_control.CartPoleEnv, max_episode_steps=9)
"""


@pytest.mark.slow
def test_a_project_may_have_its_own_envs_and_agents(tmp_path):
    for name in ("agents", "envs", "rollouts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(MINE if name == "envs" else "MINE = True\n", encoding="utf-8")
    (tmp_path / "program.py").write_text(
        "if __name__ == '__main__':" + FOREIGN.replace("\n", "\n    ").rstrip(" "), encoding="utf-8"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(built, tmp_path):
    """In a new virtual environment with our dependencies but without the package that the tests use."""
    fresh, home = tmp_path / "fresh", tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(fresh)], check=True)
    python = fresh / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(built[0])]
    subprocess.run([sys.executable, *install], check=True, cwd=home)
    package_folders = {
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
        *(p for p in sys.path if "-packages" in p),
    }
    lib = fresh / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # .pth files in these folders are not read
    (lib / "dependencies.pth").write_text("\n".join(sorted(package_folders)), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def call(*words: str) -> str:
        found = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr[-2000:]
        return found.stdout

    where = "import worldmodel as w; print(*(m.__file__ for m in (w, w.agents, w.envs, w.rollouts)))"
    assert all(path.startswith(str(lib)) for path in call(str(python), "-c", where).split())
    command = str(fresh / "bin" / "worldmodel")
    assert call(command, "--version") == f"worldmodel {PROJECT['version']}\n"
    call(command, "doctor")
    call(command, "dream", "car-racing", "--pretrained", "--horizon", "8")
    call(command, "evaluate", "car-racing", "--pretrained", "--eval.episodes", "1", "--workers", "1")
    call(command, "collect", "mario", "--collect.episodes", "1", "--collect.max_steps", "20", "--workers", "1")
    [video] = (home / "runs" / "car-racing-pretrained" / "media").glob("dream-*.mp4")
    assert video.stat().st_size > 1000
