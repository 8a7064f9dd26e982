"""Pictures of the status page, for eyes: `python -m tests.server.shots FOLDER`."""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from rotator.server.page import Page
from tests.server import boards

SHOTS = (
    ("calm-desktop", boards.calm, 1280, "light"),
    ("calm-dark", boards.calm, 1280, "dark"),
    ("calm-phone", boards.calm, 390, "light"),
    ("trouble-desktop", boards.trouble, 1280, "light"),
    ("trouble-dark", boards.trouble, 1280, "dark"),
    ("trouble-phone", boards.trouble, 390, "dark"),
    ("trouble-tablet", boards.trouble, 768, "light"),
    ("beginning-desktop", boards.beginning, 1280, "light"),
    ("beginning-phone", boards.beginning, 390, "light"),
    ("hostile-phone", boards.hostile, 360, "light"),
    ("hostile-desktop", boards.hostile, 1280, "light"),
)


def main(folder: Path) -> None:
    """Write one PNG a state and size."""
    folder.mkdir(parents=True, exist_ok=True)
    page = Page()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for name, board, width, scheme in SHOTS:
            tab = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
            tab.set_content(page.render(board(), ""))
            tab.screenshot(path=folder / f"{name}-top.png")
            tab.screenshot(path=folder / f"{name}.png", full_page=True)
            tab.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
