"""Pictures of the page for the docs, taken in Chromium.

python -m benchmarks.screenshots [RUN]     # car-racing-dream, or a run, an agent's folder, another name
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from agents.viewer import serve

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


def main(place: str = "car-racing-dream") -> None:
    """Serve the dream, and photograph it on a desk and on a phone."""
    with serve(place) as served, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, width, height, scale in (("play", 1100, 760, 1), ("play-phone", 390, 844, 1)):
            page = chromium.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
            page.goto(served.url)
            page.wait_for_function("globalThis.dreamPage?.facts()")
            page.get_by_label("Temperature").fill("0.6")
            page.locator("body").press("c")
            if name == "play":
                page.locator("body").press("b")
            page.wait_for_timeout(500)
            page.wait_for_function("dreamPage.facts().step === 30", timeout=120_000)
            page.locator("body").press("p")
            page.wait_for_function("dreamPage.facts().paused")
            page.wait_for_timeout(200)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=PICTURES / f"{name}.png")
            page.close()
        chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:2])
