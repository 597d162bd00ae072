"""Notebooks: results have pictures or tables, and the outermost function shows one bar."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from worldmodel import RMDN, VAE, Memory, WorldModel, rollouts
from worldmodel.agents import LinearController, Report


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "s"
    return rollouts.collect("CartPole-v1", "random", 3, seed=1, max_steps=6, out=out)


def image_in(page: str) -> Image.Image:
    """The image of an HTML fragment."""
    [(kind, data)] = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == kind.upper()
    return image


def test_a_store_shows_its_contact_sheet(store):
    sheet = store.contact_sheet(rows=3, columns=2)
    assert sheet.shape == (3 * 64 + 2 * 2, 2 * 64 + 2, 3)
    assert np.array_equal(sheet[:64, :64], store.episode(0).frames[0])
    assert np.array_equal(sheet[:64, 66:], store.episode(0).frames[-1])
    assert np.array_equal(sheet[132:, 66:], store.episode(2).frames[-1])
    assert np.array_equal(np.asarray(image_in(store._repr_html_())), store.contact_sheet())


def test_a_store_of_vectors_shows_a_line(tmp_path):
    store = rollouts.collect(
        "CartPole-v1", "random", 1, seed=1, max_steps=2, out=tmp_path / "s", env_options={"observation": "vector"}
    )
    assert store.contact_sheet() is None
    assert "CartPole-v1" in store._repr_html_()
    assert "<img" not in store._repr_html_()


def test_dreams_with_frames_are_a_film(store):
    world = WorldModel(VAE(4), Memory.for_store(store, RMDN, latent_dim=4, hidden_size=5), store)
    controller = LinearController.for_world_model(world)
    dreams = rollouts.dream(world, controller, torch.zeros(2, 4), horizon=5, num_rollouts=2, keep=("frames",))
    film = image_in(dreams._repr_html_())
    pictures = {dreams.frames[0, 0, step].tobytes() for step in range(int(dreams.lengths[0, 0]) + 1)}
    assert 1 < film.n_frames <= len(pictures) + 1  # equal pictures that follow each other are one
    assert film.size == (256, 256)
    assert "<img" not in rollouts.dream(world, controller, torch.zeros(2, 4), horizon=2)._repr_html_()


def test_a_report_is_a_table():
    report = Report("<b>-v0", [1.0, 3.0, 8.0], [4, 4, 4], [10, 11, 12], policy="agent & noise")
    page = report._repr_html_()
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert {"4.0 ± 3.6", "1.0", "8.0", "3"} <= set(cells)
    assert "&lt;b&gt;-v0" in cells
    assert "agent &amp; noise" in cells
    assert page.count("<th>") == page.count("<td>") == len(cells)


@pytest.mark.slow
def test_one_calm_bar_for_each_call(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [
        "import torch; from worldmodel import RMDN, VAE, Memory, WorldModel, fit, rollouts\n"
        "from worldmodel.agents import Agent, DreamFitness, LinearController, evaluate, evolve",
        "store = rollouts.collect('CartPole-v1', 'random', 3, seed=1, max_steps=9, out='s')",
        "world = WorldModel(VAE(4), Memory.for_store(store, RMDN, latent_dim=4, hidden_size=5), store)",
        "_ = fit(world.vae, store.frames(), num_updates=20)",
        "latents = store.latents(world.vae)",
        "best = evolve(LinearController.for_world_model(world), DreamFitness(world, latents, horizon=3), generations=3)",
        "evaluate(Agent(world, best), 'CartPole-v1', 2, max_steps=3)",
        "_ = rollouts.dream(world, best, torch.zeros(2, 4), horizon=3)",
        "_ = rollouts.dream(world, best, torch.zeros(2, 4), horizon=3, progress=False)",
        "_ = fit(world.vae, store.frames(), num_updates=20, progress=lambda done, total, note: None)",
        "store",
    ]
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    bars = [
        [one.data["text/html"] for one in cell.outputs if "<progress" in one.get("data", {}).get("text/html", "")]
        for cell in book.cells
    ]
    assert [len(one) for one in bars] == [0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    assert 'value="20" max="20"' in bars[3][0]  # the last state, not the first
    pages = [one.data.get("text/html", "") for one in book.cells[-1].outputs + book.cells[6].outputs if "data" in one]
    assert any("<img" in page for page in pages)
    assert any("<table" in page for page in pages)
    streams = [one.text for cell in book.cells for one in cell.outputs if one.output_type == "stream"]
    assert not [text for text in streams if "/" in text], streams
