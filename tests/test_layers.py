"""Imports point down (agents, rollouts, envs, worldmodel) without cycles; heavy modules load on demand; functions are short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["worldmodel", "envs", "rollouts", "agents"]
AGENTS = ["config", "runs", "analysis", "pipeline", "cli"]
"""Packages of `agents`, the lowest first."""
ONLY_IN = {
    "gymnasium": ("envs", "rollouts", "agents"),
    "h5py": ("envs", "rollouts", "agents"),
    "cv2": ("envs",),
    "cma": ("agents/evolution/cma_es.py",),
    "matplotlib": ("agents/analysis/plots.py",),
    "av": ("agents/analysis/video.py", "rollouts/store/sources.py", "worldmodel/corpora/audio_files.py"),
    **dict.fromkeys(
        ("pickle", "dill", "cloudpickle"), ("rollouts/executors/workers.py", "worldmodel/corpora/safe_pickle.py")
    ),
}
"""Third-party modules, with the only packages or files that may import them."""
LIGHT = [
    ("import worldmodel.agents.cli.main", ("torch", "gymnasium", "cma", "matplotlib", "h5py")),
    ("import worldmodel", ("gymnasium", "cv2", "cma", "matplotlib", "h5py")),
    ("import worldmodel.corpora", ("soundfile", "gymnasium", "rollouts", "h5py")),
    ("from tests.agents.viewer.scenes import world; world().save(sys.argv[1])", ()),
    ("worldmodel.WorldModel.load(sys.argv[1])", ("torch._dynamo",)),
    ("import worldmodel.agents.viewer.export", ("starlette", "uvicorn")),
]
"""Statements of one program, with the modules that must not be loaded after each."""


def imports(path: Path) -> set[str]:
    """The full names that a file imports anywhere, at the top or in functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def module_name(path: Path) -> str:
    """The full name of the module in a file; the folders beside ``worldmodel`` are its subpackages."""
    parts = path.with_suffix("").parts
    return ".".join(parts if parts[0] == "worldmodel" else ("worldmodel", *parts))


def test_layers():
    files = {path.relative_to(ROOT): imports(path) for layer in LAYERS for path in (ROOT / layer).rglob("*.py")}
    modules = {module_name(path): found for path, found in files.items()}
    wrong = []
    for path, found in files.items():
        packages = {name.partition(".")[0] for name in found}
        above = [f"worldmodel.{layer}" for layer in LAYERS[LAYERS.index(path.parts[0]) + 1 :]]
        if path.parts[0] == "envs" and path.name != "dream_env.py":
            found = {name for name in found if not name.startswith("worldmodel.envs")}
            above = [*above, "worldmodel"]
        if path.parts[0] == "agents":
            lowest = AGENTS.index(path.parts[1]) + 1 if path.parts[1] in AGENTS else AGENTS.index("cli")
            above = [*above, *(f"worldmodel.agents.{name}" for name in AGENTS[lowest:])]
        upward = [name for name in found for layer in above if f"{name}.".startswith(f"{layer}.")]
        misplaced = [
            name for name, allowed in ONLY_IN.items() if name in packages and not str(path).startswith(allowed)
        ]
        wrong += [f"{path} imports {name}" for name in (*upward, *misplaced)]
    assert wrong == []

    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        assert name not in chain, " imports ".join((*chain, name))
        if name not in done:
            for other in modules[name] & modules.keys():
                visit(other, (*chain, name))
            done.add(name)

    for name in modules:
        visit(name, ())


@pytest.mark.slow
def test_heavy_modules_are_imported_on_demand(tmp_path):
    lines = [f"{code}; print([name for name in {heavy} if name in sys.modules])" for code, heavy in LIGHT]
    program = [sys.executable, "-c", "\n".join(["import sys", *lines]), str(tmp_path)]
    found = subprocess.run(program, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n")[:-1]
    assert [(code, "[]") for code, _ in LIGHT] == list(zip((code for code, _ in LIGHT), found, strict=True))


def test_functions_are_short():
    """At most 60 lines without the docstring; the interpreter of the emulator is one loop."""
    long = []
    for path in (path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0] if ast.get_docstring(node) is not None else None
                documented = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
                if node.end_lineno - node.lineno + 1 - documented > 60:
                    long.append((path.name, node.name))
    assert long == [("nes_emulator.py", "_run_frame")]
