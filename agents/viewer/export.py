"""Export of the page as a static folder: the page, the world model as ONNX graphs, and an ONNX runtime for browsers.

Start reading at `export`. Any file server can serve the folder; no part of it needs Python. The graphs compute the
deterministic part of a step (`worldmodel.WorldModel.imagine_from`); the page draws the noise.
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

from worldmodel import WorldModel
from worldmodel.agents.viewer.session import PAGE, Scene
from worldmodel.io.files import write_bytes, write_json
from worldmodel.io.paths import folder_path
from worldmodel.mdn_rnn import State
from worldmodel.rollouts.policy.controllers import Controller, LinearController
from worldmodel.start_states import sample_start_states
from worldmodel.world_model import Noise, WorldState

RUNTIME = "onnxruntime-web@1.30.0"
"""npm package and version of the runtime."""
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
NUM_START_STATES = 32
"""Number of start states in the folder."""
INPUTS = ("latent", "action", "hidden", "cell", "gumbel", "normal", "temperature")
OUTPUTS = ("next_latent", "reward", "termination", "next_hidden", "next_cell", "weights")


class StepGraph(nn.Module):
    """One step of the dream as a function of tensors, in the order of `INPUTS` and `OUTPUTS`."""

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
        """Return the next state, the reward, the termination probability and the mixture weights of one dream."""
        before = WorldState(latent, State(hidden, cell))
        noise = Noise(gumbel, normal, latent.new_zeros(1))
        step, after = self.world.imagine_from(before, action, noise, temperature)
        density = self.world.memory.density
        weights = density.distribution(density.features(after.memory)).weights[0]
        return step.latent, step.reward, step.termination, *after.memory, weights


class PictureGraph(nn.Module):
    """The decoder: a latent (1, latent) to a uint8 picture (64, 64, 3)."""

    def __init__(self, world: WorldModel) -> None:
        super().__init__()
        self.vae = world.vae

    def forward(self, latent: Tensor) -> Tensor:
        """Decode a latent."""
        return self.vae.draw(latent)[0]


def export(scene: Scene, out: str | os.PathLike[str], runtime: str | os.PathLike[str] | None = None) -> Path:
    """Write the static folder; returns its path.

    Args:
        scene: Scene. Its real environment is not exported.
        out: Path of the folder, which must be new, empty, or an earlier export.
        runtime: Path of a folder with `RUNTIME_FILES`. None: npm downloads them the first time.

    Raises:
        ValueError: The folder has other files, the memory has full precision matrices, a controller is not linear, or ONNX or
            the runtime is missing.
    """
    _need_onnx()
    folder = folder_path(out, "web")
    if (
        folder.exists()
        and any(folder.iterdir())
        and not any((folder / name).exists() for name in ("scene.json", "stage.json"))
    ):
        raise ValueError(f"{folder} is not empty and is not an earlier export: choose another folder")
    if scene.world.nvec:
        raise ValueError(
            f"a world model with several choices {list(scene.world.nvec)} cannot be exported: play it here"
        )
    density = scene.world.memory.density
    if getattr(density, "base", density).full:
        raise ValueError(
            "a memory with full precision matrices cannot be exported: ONNX cannot solve triangular systems"
        )
    files = runtime_files(runtime)
    world = scene.world
    state = sample_start_states(world, scene.start_states, NUM_START_STATES, np.random.default_rng(0))
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
        "num_start_states": NUM_START_STATES,
        "shapes": {name: list(part.shape[1:]) for name, part in parts.items()},
        "gumbel": list(gumbel),
        "normal": list(normal),
    }
    write_json(folder / "scene.json", facts)  # the first file, which marks the folder as an export
    write_bytes(folder / "start_states.bin", b"".join(part.float().cpu().numpy().tobytes() for part in parts.values()))
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
    for name in ("stage.json", "moments.bin"):  # names of `scene.json` and `start_states.bin` in older versions
        (folder / name).unlink(missing_ok=True)
    return folder


def step_example(world: WorldModel) -> tuple[Tensor, ...]:
    """Return example inputs of `StepGraph` for tracing."""
    gumbel, normal = world.memory.density.noise_shapes
    return (
        torch.zeros(1, world.latent_dim),
        torch.zeros(1, world.action_dim),
        *world.initial(1),
        torch.zeros(1, *gumbel),
        torch.zeros(1, *normal),
        torch.ones(1),
    )


def _need_onnx() -> None:
    """Raise ValueError if the ONNX packages are missing."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError("the export needs ONNX: pip install 'worldmodel[onnx]'") from None


def to_onnx(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[str, ...], outputs: tuple[str, ...], path: Path
) -> None:
    """Write a module as an ONNX graph in one file.

    Args:
        module: Module; it is put into evaluation mode.
        example: Example inputs for tracing.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        path: Path of the file.

    Raises:
        ValueError: The ONNX packages are missing.
    """
    _need_onnx()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about a missing torchvision, which is not needed
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as temporary:
        warnings.simplefilter("ignore")
        draft = Path(temporary) / "graph.onnx"
        torch.onnx.export(
            module.eval(), example, str(draft), input_names=inputs, output_names=outputs, dynamo=True,
            external_data=False, verbose=False,
        )  # fmt: skip
        write_bytes(path, draft.read_bytes())


def runtime_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    """Return the paths of `RUNTIME_FILES`.

    Args:
        folder: Path of a folder with the files. None: the user's cache, into which npm downloads them the first time.

    Raises:
        ValueError: A file is missing, or npm cannot download them.
    """
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        source = cache / "worldmodel" / RUNTIME.replace("@", "-")
        if not all((source / name).exists() for name in RUNTIME_FILES):
            _download(source)
    else:
        source = folder_path(folder, "runtime")
    files = [source / name for name in RUNTIME_FILES]
    if missing := [path.name for path in files if not path.exists()]:
        raise ValueError(f"runtime must contain {', '.join(RUNTIME_FILES)}; {source} lacks {', '.join(missing)}")
    return files


def _download(target: Path) -> None:
    """Download `RUNTIME_FILES` with npm into a folder."""
    npm = shutil.which("npm")
    advice = f"set --runtime to a folder with {', '.join(RUNTIME_FILES)} of {RUNTIME}"
    if npm is None:
        raise ValueError(f"npm, which downloads the ONNX runtime, is not installed: install it, or {advice}")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", "--silent", RUNTIME]
        completed = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)
        packed = next(Path(temporary).glob("*.tgz"), None)
        if completed.returncode or packed is None:
            reason = (completed.stderr.strip() or "no error message").splitlines()[-1]
            raise ValueError(f"npm cannot download {RUNTIME} ({reason}); {advice}")
        with tarfile.open(packed) as archive:
            for name in RUNTIME_FILES:
                member = archive.extractfile(f"package/dist/{name}")
                assert member is not None, f"{RUNTIME} has no {name}"
                write_bytes(target / name, member.read())


def _linear_layer(controller: Controller, num_features: int) -> dict[str, Any]:
    """Return the weight and the bias of a linear controller, for the input of the latent and the hidden output."""
    if not isinstance(controller, LinearController):
        raise ValueError(f"only linear controllers can be exported, got {controller}")
    weight = pad(controller.weight, (0, num_features - controller.num_inputs))  # zero weights for unused inputs
    return {"weight": weight.tolist(), "bias": controller.bias.tolist()}


def about(folder: Path) -> str:
    """Return the size of an export and its number of controllers, in words."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    controllers = json.loads((folder / "scene.json").read_text(encoding="utf-8"))["controllers"]
    return f"{size / 1e6:.0f} MB, {len(controllers)} controllers"
