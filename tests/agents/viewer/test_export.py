"""The exported dream: its graphs compute what torch computes, and it runs from a plain file server."""

import re
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from tests.agents.viewer.scenes import scene, world
from tests.agents.viewer.test_page import browser, open_page, pixels  # noqa: F401
from tests.command_line import refused
from worldmodel import RMDN, VAE, Memory, WorldModel, seeded
from worldmodel.agents.viewer.export import RUNTIME_FILES, PictureGraph, StepGraph, export, runtime_files, step_example
from worldmodel.world_model import Noise, WorldState

ROOT = Path(__file__).parent.parent.parent.parent
SCRIPT = """
import sys
import numpy as np
import onnxruntime
import torch
from pathlib import Path
from worldmodel.agents.viewer.export import INPUTS, OUTPUTS, PictureGraph, StepGraph, step_example, to_onnx
from tests.agents.viewer.scenes import world
from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel, seeded
from worldmodel.baselines import PerDimensionRMDN
from worldmodel.world_model import WorldState
from worldmodel.mdn_rnn import State

KINDS = {"plain": {}, "rank": {"rank": 2}, "conditional": {"conditional": True}, "spline": {"spline": True},
         "layers": {"num_layers": 2}}
folder = Path(sys.argv[1])
rng = np.random.default_rng(0)
for kind in sys.argv[2:]:
    with seeded(0):
        density = PerDimensionRMDN(7, 4, 8) if kind == "per dimension" else FRMDN(7, 4, hidden_size=8, **KINDS[kind])
        built = WorldModel(VAE(latent_dim=4), Memory(density)).eval()
        for parameter in built.memory.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    graph, example = StepGraph(built), step_example(built)
    to_onnx(graph, example, INPUTS, OUTPUTS, folder / "step.onnx")
    session = onnxruntime.InferenceSession(folder / "step.onnx")
    names = [value.name for value in session.get_inputs()]
    for temperature in (0.3, 1.0, 1.7):
        values = [torch.from_numpy(rng.normal(size=part.shape).astype(np.float32)) for part in example]
        values[-1] = torch.tensor([temperature])
        with torch.no_grad():
            wanted = graph(*values)
        feeds = {name: value.numpy() for name, value in zip(INPUTS, values) if name in names}
        found = dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds)))
        for name, value in zip(OUTPUTS, wanted):
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=f"{kind}: {name}")
    # drawn as the page draws them, samples have the moments of torch's own
    if kind == "plain":
        uniform = rng.random((4000, *example[4].shape))
        drawn = []
        for u, n in zip(uniform, rng.normal(size=(4000, *example[5].shape))):
            feeds |= {"gumbel": -np.log(-np.log(u)).astype(np.float32), "normal": n.astype(np.float32)}
            drawn.append(session.run(["next_latent"], feeds)[0][0])
        with torch.no_grad():
            state = WorldState(values[0].expand(4000, -1), State(*(v.expand(4000, -1, -1) for v in values[2:4])))
            step, _ = built.imagine(state, values[1].expand(4000, -1), 1.7, torch.Generator().manual_seed(0))
        drawn, own = np.array(drawn), step.latent.numpy()
        error = np.sqrt(drawn.var(0) / 4000 + own.var(0) / 4000)
        assert (np.abs(drawn.mean(0) - own.mean(0)) < 4 * error).all()
        np.testing.assert_allclose(drawn.std(0), own.std(0), rtol=0.08)
        picture = PictureGraph(built)
        to_onnx(picture, (torch.zeros(1, 4),), ("latent",), ("picture",), folder / "picture.onnx")
        session = onnxruntime.InferenceSession(folder / "picture.onnx")
        latent = torch.randn(1, 4)
        with torch.no_grad():
            wanted = picture(latent).numpy().astype(int)
        found = session.run(None, {"latent": latent.numpy()})[0]
        assert found.dtype == np.uint8 and np.abs(found - wanted).max() <= 1
"""


def compare_graphs(folder, *kinds):
    """Run in a separate process: the shape checks of the tests cannot be traced."""
    subprocess.run([sys.executable, "-c", SCRIPT, str(folder), *kinds], cwd=ROOT, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", ["plain", "rank,conditional,spline,layers,per dimension"])
def test_graphs_compute_the_same_as_torch(tmp_path, kinds):
    compare_graphs(tmp_path, *kinds.split(","))


def test_a_step_of_the_graph_equals_one_of_the_world_model():
    world_model = world()
    memory = world_model.observe(world_model.initial(1), torch.zeros(1, 3), torch.ones(1, 2))
    state = WorldState(torch.ones(1, 3), memory)
    with seeded(1):
        noise = Noise(*(torch.randn(part.shape) for part in step_example(world_model)[4:6]), torch.zeros(1))
    with torch.no_grad():
        expected, after = world_model.imagine_from(state, torch.ones(1, 2), noise, torch.tensor([0.7]))
        outputs = StepGraph(world_model)(state.latent, torch.ones(1, 2), *state.memory, *noise[:2], torch.tensor([0.7]))
        picture = PictureGraph(world_model)(expected.latent)
    assert outputs[0].equal(expected.latent) and outputs[1].equal(expected.reward)
    assert all(one.equal(other) for one, other in zip(outputs[3:5], after.memory, strict=True))
    assert float(outputs[5].sum()) == pytest.approx(1)
    assert (picture.numpy() == world_model.decode(expected.latent)[0]).all()


EXPORT = """
import sys
from worldmodel.agents.viewer.export import export
from tests.agents.viewer.scenes import scene
export(scene(latent=32, actions=3, hidden=256), sys.argv[1])
"""


@pytest.mark.slow
def test_an_exported_page_runs_from_a_file_server(browser, tmp_path):  # noqa: F811
    try:
        runtime_files(None)
    except ValueError as error:
        pytest.skip(f"without a network there is no runtime to export: {error}")
    subprocess.run([sys.executable, "-c", EXPORT, str(tmp_path)], cwd=ROOT, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with open_page(browser, f"http://127.0.0.1:{server.server_port}/") as page:
        first = pixels(page)
        page.keyboard.down("ArrowRight")
        page.wait_for_function("dreamPage.facts().action[0] === 1")
        page.keyboard.up("ArrowRight")
        assert pixels(page) != first
        page.locator("body").press("c")
        page.wait_for_function("dreamPage.facts().controller === 'evolved'")
        page.wait_for_function("dreamPage.facts().action.every((value) => value !== 0)")
        page.locator("body").press("v")
        page.wait_for_function("dreamPage.facts().film > 20")
        page.locator("body").press("v")
        page.locator("#film").wait_for(state="visible")
        with page.expect_download() as download:
            page.locator("#film").click()
        assert Path(download.value.path()).stat().st_size > 1000
        page.locator("body").press("p")
        page.wait_for_function("dreamPage.facts().paused")
        step = page.evaluate("dreamPage.facts().step")
        page.get_by_role("button", name="Rewind").click()
        page.wait_for_function(f"dreamPage.facts().step < {step}")
        assert sum(page.evaluate("dreamPage.facts().weights")) == pytest.approx(1, abs=1e-4)
        noise = page.evaluate(NOISE)
    server.shutdown()
    for (mean, std), (wanted_mean, wanted_std) in zip(noise, ((0.5772, 1.2825), (0.0, 1.0)), strict=True):
        assert (mean, std) == (pytest.approx(wanted_mean, abs=0.03), pytest.approx(wanted_std, abs=0.03))


NOISE = """async () => {
  const { gumbel, normal } = await import("./engine.js");
  return [gumbel, normal].map((draw) => {
    const values = Array.from({ length: 40000 }, draw);
    const mean = values.reduce((a, b) => a + b) / values.length;
    return [mean, Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length)];
  });
}"""


class Quiet(SimpleHTTPRequestHandler):
    """A file server without a log."""

    def log_message(self, *_):
        pass


def test_an_export_replaces_one_of_an_older_version(tmp_path, monkeypatch):
    (tmp_path / "runtime").mkdir()
    for name in RUNTIME_FILES:
        (tmp_path / "runtime" / name).write_bytes(b"")
    monkeypatch.setattr("worldmodel.agents.viewer.export._need_onnx", lambda: None)
    monkeypatch.setattr("worldmodel.agents.viewer.export.to_onnx", lambda *arguments: arguments[-1].write_bytes(b""))
    folder = tmp_path / "web"
    folder.mkdir()
    for name in ("stage.json", "moments.bin", "notes.txt"):
        (folder / name).write_bytes(b"")
    export(scene(), folder, tmp_path / "runtime")
    names = {path.name for path in folder.iterdir()}
    assert {"scene.json", "start_states.bin", "notes.txt"} <= names
    assert not names & {"stage.json", "moments.bin"}


def test_bad_runtimes_and_folders_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match=r"lacks ort\.wasm\.min\.mjs"):
        runtime_files(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="npm"):
        runtime_files(None)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        export(scene(), tmp_path)
    full = WorldModel(VAE(3), Memory(RMDN(5, 3, full=True)))
    with pytest.raises(ValueError, match="full"):
        export(replace(scene(), world=full), tmp_path / "full")
    assert str(tmp_path) in refused(capsys, "export", str(tmp_path), "--web", str(tmp_path / "web"))
    for name in RUNTIME_FILES:
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in runtime_files(tmp_path)] == list(RUNTIME_FILES)
