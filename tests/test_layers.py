"""Imports point down: agents, rollouts, envs, worldmodel."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["worldmodel", "envs", "rollouts", "agents"]


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", [p for layer in LAYERS for p in sorted((ROOT / layer).rglob("*.py"))], ids=str)
def test_imports_point_down(path):
    layer = path.relative_to(ROOT).parts[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    found = imports(path)
    assert not found & set(above)
    if layer == "envs" and path.name != "dream.py":
        assert "worldmodel" not in found
    if layer != "envs":
        assert "cv2" not in found
    if (layer, path.name) not in (("agents", "search.py"), ("agents", "cma_state.py")):
        assert "cma" not in found
    if layer == "worldmodel":
        assert not found & {"gymnasium", "cv2", "h5py"}
    if path.name not in (
        "workers.py",
        "pickled.py",
    ):  # our own between processes; CIFAR-10's, read without executing it
        assert not found & {"pickle", "dill", "cloudpickle"}
    if (layer, path.name) != ("agents", "pictures.py"):
        assert not found & {"matplotlib", "av"}


def edges() -> dict[str, set[str]]:
    """Which of our modules each one imports, also in its functions, or for type checkers alone."""
    modules = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path
        for layer in LAYERS
        for path in (ROOT / layer).rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= {target for target in names | {node.module} if target in modules}
            elif isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names if alias.name in modules}
        found[name] = targets
    return found


def test_modules_do_not_import_each_other_in_circles():
    graph = edges()
    assert graph["rollouts.store"] >= {"rollouts.views", "rollouts.shards"}
    seen: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join((*path, name))}"
        if name not in seen:
            for target in graph[name]:
                visit(target, (*path, name))
            seen.add(name)

    for name in graph:
        visit(name, ())


def test_the_command_line_is_the_last_reader():
    graph = edges()
    for name, targets in graph.items():
        if name != "agents.cli" and not name.startswith("agents.commands"):
            assert not [target for target in targets if target.startswith(("agents.cli", "agents.commands"))], name
    assert not [target for target in graph["agents.story"] if target.startswith("agents.density")]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("worldmodel", ("gymnasium", "cv2", "cma", "matplotlib", "h5py")),
        ("agents.cli", ("torch", "gymnasium", "cma", "matplotlib", "h5py")),
    ],
)
def test_imports_are_light(module, heavy):
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize("layer", LAYERS)
def test_public_names_exist(layer):
    module = __import__(layer)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)
