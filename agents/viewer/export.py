"""A static folder that dreams by itself: the page, the world model as ONNX, and a runtime for browsers.

Start reading at `export`. Any file server can serve the folder; nothing of it runs Python. The randomness stays outside
the graphs, which are the deterministic part of a step (`worldmodel.WorldModel.imagine_from`).
"""

import json
import logging
import os
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from agents.controller import Controller, LinearController
from agents.viewer.session import PAGE, Scene
from worldmodel import WorldModel
from worldmodel.batches import frames_to_uint8
from worldmodel.io import write_bytes, write_json
from worldmodel.mdn_rnn import State
from worldmodel.paths import folder_path
from worldmodel.start_states import sample_start_states
from worldmodel.world_model import Noise, WorldState

RUNTIME = "onnxruntime-web@1.30.0"
"""The runtime, as npm knows it."""
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MOMENTS = 32
"""Real moments that dreams in the folder begin at."""
INPUTS = ("latent", "action", "hidden", "cell", "gumbel", "normal", "temperature")
OUTPUTS = ("next_latent", "reward", "termination", "next_hidden", "next_cell", "weights")


class StepGraph(nn.Module):
    """A step of the dream as plain tensors, in the order of `INPUTS` and `OUTPUTS`."""

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self.world = world

    def forward(
        self,
        latent: Tensor,
        action: Tensor,
        hidden: Tensor,
        cell: Tensor,
        gumbel: Tensor,
        normal: Tensor,
        temperature: Tensor,
    ) -> tuple[Tensor, ...]:
        """Of one dream: what follows, and the weights of the mixture it was drawn from."""
        before = WorldState(latent, State(hidden, cell))
        noise = Noise(gumbel, normal, latent.new_zeros(1))
        step, after = self.world.imagine_from(before, action, noise, temperature)
        weights = self.world.memory.density.distribution(after.hidden).weights[0]
        assert after.latent is not None
        return step.latent, step.reward, step.termination, *after.memory, weights


class PictureGraph(nn.Module):
    """A latent (1, latent) as a picture (64, 64, 3) of bytes."""

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self.vae = world.vae

    def forward(self, latent: Tensor) -> Tensor:
        """Draw it."""
        return frames_to_uint8(self.vae.decode(latent))[0]


def export(scene: Scene, out: str | os.PathLike[str], runtime: str | os.PathLike[str] | None = None) -> Path:
    """Write the folder.

    Args:
        scene: what is dreamed; reality stays behind.
        out: the folder; new, empty, or an earlier export.
        runtime: a folder with `RUNTIME_FILES`; None: npm fetches them once.

    Raises:
        ValueError: the folder holds something else, the memory has full precisions, or ONNX or the runtime is not to be had.
    """
    _need_onnx()
    folder = folder_path(out, "web")
    if (
        folder.exists()
        and any(folder.iterdir())
        and not any((folder / name).exists() for name in ("scene.json", "stage.json"))
    ):
        raise ValueError(f"{folder} is not empty and no earlier export: use another folder")
    density = scene.world.memory.density
    if getattr(density, "base", density).full:
        raise ValueError("a memory with full precisions cannot be exported: ONNX solves no triangular systems")
    files = runtime_files(runtime)
    world = scene.world
    state = sample_start_states(world, scene.starts, MOMENTS, np.random.default_rng(0))
    assert state.latent is not None
    parts = {"latent": state.latent, "hidden": state.memory.hidden, "cell": state.memory.cell}
    gumbel, normal = world.memory.density.noise_shapes
    facts = {
        "title": scene.title,
        "controls": scene.controls,
        "controllers": {
            name: _linear_layer(controller, scene.world.num_features) for name, controller in scene.controllers.items()
        },
        "discrete": world.discrete,
        "speed": scene.speed,
        "notes": list(scene.notes),
        "moments": MOMENTS,
        "shapes": {name: list(part.shape[1:]) for name, part in parts.items()},
        "gumbel": list(gumbel),
        "normal": list(normal),
    }
    write_json(folder / "scene.json", facts)  # first of all: it says what the folder is
    write_bytes(folder / "moments.bin", b"".join(part.float().cpu().numpy().tobytes() for part in parts.values()))
    to_onnx(StepGraph(world), step_example(world), INPUTS, OUTPUTS, folder / "step.onnx")
    to_onnx(
        PictureGraph(world), (torch.zeros(1, world.latent_dim),), ("latent",), ("picture",), folder / "picture.onnx"
    )
    for path in files:
        write_bytes(folder / "runtime" / path.name, path.read_bytes())
    for name in ("style.css", "play.js", "engine.js"):
        write_bytes(folder / name, (PAGE / name).read_bytes())
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    page = page.replace('<html lang="en">', '<html lang="en" data-engine="./engine.js">')
    write_bytes(folder / "index.html", page.encode())
    return folder


def step_example(world: WorldModel) -> tuple[Tensor, ...]:
    """Inputs of a step, for tracing."""
    gumbel, normal = world.memory.density.noise_shapes
    memory = world.initial(1).memory
    return (
        torch.zeros(1, world.latent_dim),
        torch.zeros(1, world.action_dim),
        *memory,
        torch.zeros(1, *gumbel),
        torch.zeros(1, *normal),
        torch.ones(1),
    )


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError("the export needs ONNX: pip install 'worldmodel[onnx]'") from None


def to_onnx(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[str, ...], outputs: tuple[str, ...], path: Path
) -> None:
    """Write a module as an ONNX graph in one file.

    Raises:
        ValueError: the packages for it are missing.
    """
    _need_onnx()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it complains of torchvision, which nobody needs here
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as aside:
        warnings.simplefilter("ignore")
        draft = Path(aside) / "graph.onnx"
        torch.onnx.export(
            module.eval(), example, str(draft), input_names=inputs, output_names=outputs, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
        write_bytes(path, draft.read_bytes())


def runtime_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    """The runtime's files: in a given folder, or fetched by npm into the user's cache.

    Raises:
        ValueError: a file is missing, or npm could not fetch them.
    """
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        place = cache / "worldmodel" / RUNTIME.replace("@", "-")
        if not all((place / name).exists() for name in RUNTIME_FILES):
            _fetch(place)
    else:
        place = folder_path(folder, "runtime")
    files = [place / name for name in RUNTIME_FILES]
    if missing := [path.name for path in files if not path.exists()]:
        raise ValueError(f"runtime must hold {', '.join(RUNTIME_FILES)}; {place} lacks {', '.join(missing)}")
    return files


def _fetch(place: Path) -> None:
    npm = shutil.which("npm")
    advice = f"give --runtime a folder with {', '.join(RUNTIME_FILES)} of {RUNTIME}"
    if npm is None:
        raise ValueError(f"the browser's runtime comes from npm, which is not installed: install it, or {advice}")
    with tempfile.TemporaryDirectory() as aside:
        command = [npm, "pack", "--silent", RUNTIME]
        done = subprocess.run(command, cwd=aside, capture_output=True, text=True, check=False)
        packed = next(Path(aside).glob("*.tgz"), None)
        if done.returncode or packed is None:
            reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise ValueError(f"npm could not fetch {RUNTIME} ({reason}); {advice}")
        with tarfile.open(packed) as archive:
            for name in RUNTIME_FILES:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None, f"{RUNTIME} has no {name}"
                write_bytes(place / name, member.read())


def _linear_layer(controller: Controller, features: int) -> dict[str, Any]:
    if not isinstance(controller, LinearController):
        raise ValueError(f"only linear controllers can be exported, got {controller}")
    weight = pad(controller.weight, (0, features - controller.num_inputs))  # what it does not see has no weight
    return {"weight": weight.tolist(), "bias": controller.bias.tolist()}


def about(folder: Path) -> str:
    """How large an export is, in words."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    controllers = json.loads((folder / "scene.json").read_text(encoding="utf-8"))["controllers"]
    return f"{size / 1e6:.0f} MB, {len(controllers)} controllers"
