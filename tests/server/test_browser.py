"""The status page in a real Chromium: nothing blocked, nothing fetched, nothing run, and it fits every screen."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.server import boards
from tests.server.boards import NAMES, NOW, board, calm, hostile, policy, token, trouble
from tests.server.calling import Daemon, served

SIZES = {"desktop": 1280, "tablet": 768, "phone": 360, "narrow": 320}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path, reason = shutil.which("chromium"), "there is no chromium, or no playwright; `apt-get install chromium`"
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if not path:
        if os.environ.get("ROTATOR_REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # its sandbox does not run as root
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Tab:
    """One page with all that it complained about, fetched or tried to run."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))

    def open(self, url: str) -> "Tab":
        self.page.goto(url, wait_until="load")
        return self

    def text(self) -> str:
        return str(self.page.inner_text("body"))


@pytest.fixture
def tabs(chromium: Any) -> Iterator[Any]:
    contexts = []

    def make(**options: object) -> Tab:
        contexts.append(chromium.new_context(**options))
        return Tab(contexts[-1].new_page())

    yield make
    for context in contexts:
        context.close()


@pytest.mark.parametrize("make", [calm, trouble, boards.beginning, hostile])
def test_nothing_is_blocked_and_nothing_fetched(make: Any, tabs: Any) -> None:
    """The page needs nothing but itself: no console message, no violation of its policy, no other request."""
    with served(Daemon(make)) as serving:
        tab = tabs().open(serving.url)
        tab.page.wait_for_timeout(200)
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [serving.url]


def test_the_policy_is_in_force(tabs: Any) -> None:
    """A script or a style that got in would not run: the browser refuses it, and says so."""
    with served() as serving:
        tab = tabs().open(serving.url)
        tab.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>')")
        tab.page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title=1'}))"
        )
        assert tab.page.title() != "1"
    assert len([said for said in tab.complaints if "Content Security Policy" in said]) == 2


@pytest.mark.parametrize("make", [calm, trouble, boards.beginning, hostile])
@pytest.mark.parametrize("width", SIZES.values(), ids=SIZES)
def test_no_screen_scrolls_sideways(width: int, make: Any, tabs: Any) -> None:
    """Down to 320 px nothing is wider than the screen, whatever the names."""
    with served(Daemon(make)) as serving:
        tab = tabs(viewport={"width": width, "height": 800}).open(serving.url)
        found = tab.page.evaluate("document.documentElement.scrollWidth")
        beyond = tab.page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
            ".filter(e => !e.closest('thead, caption')).map(e => e.outerHTML.slice(0, 90))"
        )
    assert found <= width
    assert beyond == []


def test_dark_and_light_differ(tabs: Any) -> None:
    """The page follows the scheme that the reader prefers."""
    seen = {}
    with served() as serving:
        for scheme in ("light", "dark"):
            tab = tabs(color_scheme=scheme).open(serving.url)
            seen[scheme] = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert seen == {"light": "rgb(251, 250, 247)", "dark": "rgb(18, 20, 23)"}


def test_hostile_names_are_read_as_text(tabs: Any) -> None:
    """Markup, templates and overrides in names are letters on the screen; nothing runs."""
    with served(Daemon(hostile)) as serving:
        tab = tabs().open(serving.url)
        text = tab.text()
        assert tab.page.locator("script, img").count() == 0
        assert "owned" not in tab.page.title()
    for shown in ("<script>document.title='owned'</script>", "{{7*7}}", "onerror=alert(1)", "\\u202e", "\\x1b[31m"):
        assert shown in text
    assert tab.complaints == []


def test_it_works_without_javascript(tabs: Any) -> None:
    """All of it is there with JavaScript switched off."""
    with served(Daemon(trouble)) as serving:
        text = tabs(java_script_enabled=False).open(serving.url).text()
    assert "9 tokens need a person" in text
    assert "rotator release cltoken0000" in text
    assert all(name in text for name in NAMES)


def test_a_screen_reader_finds_its_way(tabs: Any) -> None:
    """One main, header and footer, one h1, named sections, and tables that keep their roles on a phone as well."""
    with served(Daemon(trouble)) as serving:
        for width in (1280, 360):
            tab = tabs(viewport={"width": width, "height": 800}).open(serving.url)
            page = tab.page
            for role in ("main", "banner", "contentinfo"):
                assert page.get_by_role(role).count() == 1
            assert [head.inner_text() for head in page.get_by_role("heading", level=1).all()] == [
                "9 tokens need a person"
            ]
            headings = [head.inner_text() for head in page.get_by_role("heading", level=2).all()]
            assert headings == ["Needs attention", "Policies", "Tokens", "Recent rotations", "Providers and sinks"]
            assert all(page.get_by_role("region", name=name).count() == 1 for name in headings)
            table = page.get_by_role("table", name="Tokens, the most pressing first")
            assert table.get_by_role("rowheader").count() == 30
            assert table.get_by_role("columnheader").count() == 4
            assert page.locator("svg:not([aria-hidden=true])").count() == 0  # each bar has its words beside it


def test_the_bar_is_as_long_as_the_life_that_passed(tabs: Any) -> None:
    """In the browser a secret in the middle of its life fills half of its bar."""
    half = token(1, born_at=NOW - 50 * boards.DAY, due_at=NOW + 30 * boards.DAY, expires_at=NOW + 50 * boards.DAY)
    with served(Daemon(lambda: board([half], policies=(policy("services"),)))) as serving:
        tab = tabs(viewport={"width": 1280, "height": 800}).open(serving.url)
        passed, whole = (tab.page.locator(at).bounding_box()["width"] for at in (".life .passed", ".life svg"))
    assert passed / whole == pytest.approx(0.5, abs=0.01)
