"""The page in a real browser: frames, keys, sliders, controllers, recordings and speed."""

import contextlib
import os
import shutil
import time
from dataclasses import replace

import av
import pytest
from playwright.sync_api import sync_playwright

from tests.agents.viewer.scenes import scene
from tests.agents.viewer.test_server import served, until
from worldmodel.agents.viewer.recorder import Recorder
from worldmodel.rollouts import Store

pytestmark = pytest.mark.slow
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "the page is tested in Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def open_page(browser, url, started=True, **options):
    """A page without errors or warnings in the console."""
    page = browser.new_page(**options)
    messages = []
    page.on("console", lambda message: messages.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(url)
    page.wait_for_function("globalThis.dreamPage?.facts()")
    if started:
        page.get_by_role("button", name="Start").click()
        page.wait_for_function("globalThis.dreamPage?.facts()?.step > 2")
    yield page
    page.close()
    assert not messages


@pytest.fixture
def page(browser):
    with served(scene()) as (port, sessions), open_page(browser, f"http://127.0.0.1:{port}/") as page:
        yield page, sessions


def session_of(sessions):
    (session,) = sessions.values()
    return session


PIXELS = """(id) => {
  const context = new OffscreenCanvas(64, 64).getContext("2d", { willReadFrequently: true });
  context.drawImage(document.getElementById(id), 0, 0);
  return Array.from(context.getImageData(0, 0, 64, 64).data);
}"""
NAMELESS = """[...document.querySelectorAll("button, input, canvas")].filter((element) =>
  !(element.ariaLabel || element.innerText || element.labels?.length)).length"""


def pixels(page, canvas="dream"):
    return page.evaluate(PIXELS, canvas)


@pytest.mark.parametrize("how", ["key", "shortcut", "pad", "button"])
def test_the_page_is_paused_until_the_first_key_or_button(browser, how):
    custom_scene = replace(scene(), speed=20.0, notes=("It is <b>measured</b>.",))
    with (
        served(custom_scene) as (port, sessions),
        open_page(browser, f"http://127.0.0.1:{port}/", started=False) as page,
    ):
        page.wait_for_timeout(300)
        assert page.evaluate("dreamPage.facts().step") == 0
        assert session_of(sessions).paused
        assert page.locator("#start").is_visible()
        assert page.inner_text("#notes") == "It is <b>measured</b>."
        assert "20" in page.inner_text("#speed-value")
        assert "action 0 +1" in page.inner_text("#help")
        page.keyboard.press("Tab")
        assert session_of(sessions).paused  # a change of focus does not start the dream
        if how == "key":
            page.keyboard.down("ArrowUp")
        elif how == "shortcut":
            page.keyboard.press("c")
        else:
            page.get_by_role("button", name="action 0 +1" if how == "pad" else "Start").click()
        page.wait_for_function("dreamPage.facts().step > 2")
        assert page.locator("#start").is_hidden()
        page.keyboard.press("p")
        page.wait_for_function("dreamPage.facts().paused")
        step = page.evaluate("dreamPage.facts().step")
        page.keyboard.press("ArrowUp")
        page.wait_for_timeout(300)
        assert page.evaluate("dreamPage.facts().step") == step  # only the pause button ends a pause


TAP = """() => {
  globalThis.seen = [];
  setInterval(() => seen.push(dreamPage.facts().action[0]), 20);
  const press = (type) => document.body.dispatchEvent(new KeyboardEvent(type, { key: "ArrowRight", bubbles: true }));
  press("keydown");
  press("keyup");
}"""


def test_a_short_press_between_two_steps_counts(browser):
    with served(replace(scene(), speed=2.0)) as (port, _), open_page(browser, f"http://127.0.0.1:{port}/") as page:
        page.evaluate(TAP)
        page.wait_for_function("seen.includes(1)")
        page.wait_for_function("dreamPage.facts().action[0] === 0")


def test_keys_steer_and_change_the_frames(page):
    page, sessions = page
    session = session_of(sessions)
    assert session.action.tolist() == [[0, 0]]
    before = pixels(page)
    page.keyboard.down("ArrowRight")
    page.keyboard.down("ArrowUp")
    until(lambda: session.action.tolist() == [[1, 1]])
    page.wait_for_function("dreamPage.facts().action.every((value) => value === 1)")
    assert pixels(page) != before
    page.keyboard.up("ArrowRight")
    page.keyboard.up("ArrowUp")
    page.keyboard.down("ArrowLeft")
    until(lambda: session.action.tolist() == [[-1, 0]])
    page.keyboard.up("ArrowLeft")
    until(lambda: session.action.tolist() == [[0, 0]])


def test_the_pad_works_with_pointer_and_keyboard(page):
    page, sessions = page
    session = session_of(sessions)
    pad = page.get_by_role("button", name="action 0 +1")
    box = pad.bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()
    until(lambda: session.action.tolist() == [[1, 0]])
    page.mouse.up()
    until(lambda: session.action.tolist() == [[0, 0]])
    pad.focus()
    page.keyboard.down("Enter")
    until(lambda: session.action.tolist() == [[1, 0]])
    page.keyboard.up("Enter")
    until(lambda: session.action.tolist() == [[0, 0]])


def test_sliders_pause_rewind_and_restart(page):
    page, sessions = page
    session = session_of(sessions)
    slider = page.get_by_label("Temperature")
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    until(lambda: session.temperature == pytest.approx(1.2))
    assert session.action.tolist() == [[0, 0]]  # the arrow key moves only the slider
    page.wait_for_function("document.getElementById('temperature-value').textContent === '1.20'")
    page.get_by_label("Steps per second").fill("50")
    until(lambda: session.speed == 50)
    page.locator("body").press("p")
    page.wait_for_function("dreamPage.facts().paused")
    assert page.get_by_role("button", name="Pause").get_attribute("aria-pressed") == "true"
    step = session.facts["step"]
    page.get_by_role("button", name="One step").click()
    page.wait_for_function(f"dreamPage.facts().step === {step + 1}")
    page.get_by_role("button", name="Rewind").click()
    page.wait_for_function(f"dreamPage.facts().step < {step}")
    page.get_by_role("button", name="New dream").click()
    page.wait_for_function("dreamPage.facts().step === 0")


def test_the_controller_drives_and_the_real_game_appears(page):
    page, sessions = page
    assert page.locator("#reality-figure").is_hidden()
    page.get_by_role("button", name="Let the controller play").click()
    page.wait_for_function("dreamPage.facts().controller === 'evolved'")
    assert "evolved" in page.inner_text("#status")
    assert session_of(sessions).controller == "evolved"
    page.wait_for_function("dreamPage.facts().action.some((value) => value !== 0)")
    page.locator("body").press("b")
    page.wait_for_function("dreamPage.facts().real !== null")
    page.locator("#reality-figure").wait_for(state="visible")
    real = pixels(page, "reality")
    assert real[0] == real[4] == real[8] > 0  # the counter's frame has one colour
    page.locator("body").press("c")
    page.wait_for_function("dreamPage.facts().controller === 'you'")


def test_a_recording_is_saved_and_can_be_played(page, tmp_path):
    page, _ = page
    assert page.locator("#film").is_hidden()
    page.locator("body").press("v")
    page.wait_for_function("dreamPage.facts().film > 10")
    page.locator("body").press("v")
    page.locator("#film").wait_for(state="visible")
    with page.expect_download() as download:
        page.locator("#film").click()
    download.value.save_as(tmp_path / "dream.mp4")
    with av.open(str(tmp_path / "dream.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) > 10


def test_the_page_says_that_play_is_recorded(browser, tmp_path):
    shown = scene()
    recorder = Recorder(tmp_path, shown.world, "Counter", {})
    with served(replace(shown, recorder=recorder)) as (port, sessions):
        with open_page(browser, f"http://127.0.0.1:{port}/", started=False) as page:
            page.locator("#rollouts").wait_for(state="visible")
            assert "0" in page.inner_text("#rollouts")
            page.keyboard.down("ArrowRight")
            page.locator("body").press("b")
            page.wait_for_function("dreamPage.facts().real?.over")
            page.wait_for_function("/[1-9]/.test(document.getElementById('rollouts').textContent)")
        until(lambda: not sessions)  # the page is closed: its dream is cut
    game, dream = (Store(tmp_path / name / "rollouts") for name in ("game", "dream"))
    assert game.lengths == [20] and len(dream) >= 1
    assert (game.episode(0).actions[:, 0] == 1).any()


def test_a_closed_page_frees_its_dream(browser):
    with served(scene()) as (port, sessions):
        with open_page(browser, f"http://127.0.0.1:{port}/"):
            assert len(sessions) == 1
        until(lambda: not sessions)


def test_the_page_fits_on_a_phone(browser):
    with (
        served(scene()) as (port, _),
        open_page(browser, f"http://127.0.0.1:{port}/", viewport={"width": 360, "height": 740}) as page,
    ):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for button in page.get_by_role("button").all():
            if button.is_visible():
                assert button.bounding_box()["height"] >= 40
        assert page.evaluate(NAMELESS) == 0  # everything has a name


def test_a_dream_never_runs_faster_than_its_speed(browser):
    """The world model has the published size; a slow machine may be slower."""
    with (
        served(scene(latent=32, actions=3, hidden=256)) as (port, _),
        open_page(browser, f"http://127.0.0.1:{port}/") as page,
    ):
        first, began = page.evaluate("dreamPage.facts().step"), time.monotonic()
        page.wait_for_function(f"dreamPage.facts().step >= {first + 60}", timeout=120_000)
        steps = page.evaluate("dreamPage.facts().step") - first
        assert steps / (time.monotonic() - began) < 40
        assert page.evaluate("dreamPage.shown()") > 0
