"""Pictures of the page for the docs, taken in Chromium.

python -m benchmarks.screenshots [RUN]     # the pretrained driver, or that of a run or an agent's folder
"""

import shutil
import sys
import threading
from pathlib import Path

import uvicorn
from playwright.sync_api import sync_playwright

from agents.pretrained import found
from agents.viewer import stage_of
from agents.viewer.server import build_app, socket_at

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def main(place: str = "car-racing", pretrained: bool = True) -> None:
    """Serve the dream, and photograph it on a desk and on a phone."""
    app = build_app(stage_of(found(place, pretrained)), ["127.0.0.1"])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio", lifespan="off"))
    listening = socket_at("127.0.0.1", 0)
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, width, height, scale in (("play", 1100, 760, 1), ("play-phone", 390, 844, 1)):
            page = chromium.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
            page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/")
            page.wait_for_function("globalThis.dreamPage?.facts()?.step > 2")
            page.get_by_label("Temperature").fill("0.6")
            page.locator("body").press("c")
            if name == "play":
                page.locator("body").press("b")
            page.wait_for_timeout(500)
            page.wait_for_function("dreamPage.facts().step === 60", timeout=120_000)
            page.locator("body").press("p")
            page.wait_for_function("dreamPage.facts().paused")
            page.wait_for_timeout(200)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=PICTURES / f"{name}.png")
            page.close()
        chromium.close()
    server.should_exit = True


if __name__ == "__main__":
    main(*sys.argv[1:2], pretrained=len(sys.argv) < 2)
