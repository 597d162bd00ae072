"""The page from Python: in a script, in a running event loop and in a notebook."""

import asyncio
import json
import socket
import urllib.request
from pathlib import Path

import pytest
import torch
from websockets.sync.client import connect

from tests.agents.viewer.scenes import scene
from worldmodel.agents import viewer
from worldmodel.agents.agent import Agent
from worldmodel.agents.runs.run_folder import Run


def title_of(page):
    """The title in the first message to a visitor."""
    with connect(page.url.replace("http", "ws") + "dream") as visitor:
        return json.loads(visitor.recv(timeout=30))["title"]


def is_closed(page):
    """Whether the port of the page is closed."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", int(page.url.rstrip("/").rpartition(":")[2]))) != 0


def test_a_page_is_served_inside_a_running_event_loop_and_stopped():
    async def notebook():
        page = viewer.serve(scene())
        with await asyncio.to_thread(urllib.request.urlopen, page.url) as answer:
            assert b"<canvas" in answer.read()
        assert await asyncio.to_thread(title_of, page) == "Counter"
        page.stop()
        return page

    page = asyncio.run(notebook())
    assert is_closed(page)
    page.stop()  # a second stop has no effect


def test_a_page_is_a_context_manager_with_a_notebook_view():
    with viewer.serve(scene()) as page, viewer.serve(scene()) as other:
        assert page.url != other.url
        assert page.url in repr(page)
        assert f'<iframe src="{page.url}"' in page._repr_html_()
    assert is_closed(page)
    assert "iframe" not in page._repr_html_()


def test_names_and_agents_are_served(tmp_path):
    with viewer.serve("car-racing-dream") as page:
        assert title_of(page) == "FastCarRacing"
    custom_scene = scene()
    agent = Agent(custom_scene.world, custom_scene.controllers["evolved"])
    with viewer.serve(agent, start_states=torch.randn(4, custom_scene.world.latent_dim)) as page:
        assert title_of(page)
    for serve, named in (
        (lambda: viewer.serve(agent), "start_states"),
        (lambda: viewer.serve(Run(tmp_path)), str(tmp_path)),
        (lambda: viewer.serve(tmp_path / "none"), "none"),
        (lambda: viewer.serve(scene(), port=70_000), "port"),
        (lambda: viewer.serve(scene(), visitors=0), "visitors"),
    ):
        with pytest.raises(ValueError, match=named):
            serve()


def test_a_taken_port_is_named():
    with viewer.serve(scene()) as page, pytest.raises(OSError, match=page.url.rstrip("/").rpartition(":")[2]):
        viewer.serve(scene(), port=int(page.url.rstrip("/").rpartition(":")[2]))


CELL = """
from worldmodel.agents import viewer
from tests.agents.viewer.scenes import scene
page = viewer.serve(scene())
import json, urllib.request
from websockets.sync.client import connect
assert b"<canvas" in urllib.request.urlopen(page.url).read()
with connect(page.url.replace("http", "ws") + "dream") as visitor:
    print(json.loads(visitor.recv(timeout=30))["title"])
"""


@pytest.mark.slow
def test_a_page_is_served_in_a_notebook(monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    root = Path(__file__).parent.parent.parent.parent
    monkeypatch.setenv("PYTHONPATH", str(root))
    cells = [CELL, "page", "page.stop(); print(page)"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": root}}).execute()
    printed, shown, stopped = (cell.outputs for cell in book.cells)
    assert "Counter" in printed[0].text
    assert "iframe" in shown[0].data["text/html"]
    assert "stopped" in stopped[0].text
