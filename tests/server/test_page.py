"""The status page as HTML: what it shows, how much, and that text stays text."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from rotator.board import Snapshot
from rotator.server.page import Page
from rotator.text import visible
from tests.server.boards import HOSTILE, NOW, beginning, board, calm, hostile, policy, token, trouble

PAGE = Page()
ALLOWED = {
    "a", "b", "bdi", "body", "caption", "circle", "code", "div", "footer", "h1", "h2", "head", "header", "html", "i",
    "li", "link", "main", "meta", "p", "path", "rect", "section", "span", "style", "svg", "table", "tbody", "td", "th",
    "thead", "time", "title", "tr", "ul",
}  # fmt: skip
VOID = {"meta", "link", "rect", "circle", "path"}


class Read(HTMLParser):
    """What a browser would see: elements, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "an element stays open"

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.texts.append(data)


def read(snapshot: Snapshot, problem: str = "") -> Read:
    return Read(PAGE.render(snapshot, problem))


@pytest.mark.parametrize("make", [calm, trouble, beginning, hostile])
def test_nothing_but_what_the_template_holds(make: object) -> None:
    """No text makes an element, an attribute, a script or a request; every element is closed."""
    seen = read(make())  # type: ignore[operator]
    assert seen.tags <= ALLOWED
    assert not [name for _, name, _ in seen.attributes if name.startswith("on") or name in ("style", "src")]
    links = {value for _, name, value in seen.attributes if name == "href"}
    assert {link for link in links if not link.startswith("data:image/svg+xml,")} == {"/healthz", "/metrics"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_as_text(name: str) -> None:
    """What a name holds is read as it is, with everything that is not seen escaped."""
    html = PAGE.render(board([token(1, "quarantined", name=name, message=name)]), "")
    assert " ".join(visible(name).split()) in Read(html).text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202e\u2066\ufeff]", html)


def test_a_template_in_a_name_is_not_run() -> None:
    """`{{7*7}}` stays what it is."""
    assert "{{7*7}}" in read(hostile()).text
    assert "{{7*7}}" in read(board([], config_problem="{{7*7}}")).text


def test_long_text_is_cut() -> None:
    """No text is longer than a few lines."""
    longest = max(
        len(text.strip()) for text in read(board([token(1, "quarantined", name="n" * 9999, message="m" * 9999)])).texts
    )
    assert longest <= 600


def test_trouble_says_what_to_do() -> None:
    """What needs attention stands there once for tokens that share it, with the command to run."""
    text = read(trouble()).text
    assert "9 tokens need a person" in text
    assert "rotator release cltoken0000" in text
    assert "policies.services.when.max_age: '90 days' is not a duration" in text
    assert "list: 503" in text
    assert "3 missed" in text
    assert "rotator check --online" in text
    assert "rotator check --online" not in read(calm()).text
    assert "paused, it ends in 5 d" in text
    attention = text.partition("Needs attention")[2].partition("Policies")[0]
    assert attention.count("permission denied at secret/data/astro") == 2  # one a policy, for seven tokens


def test_tokens_that_share_a_trouble_are_named_up_to_a_few() -> None:
    """Of fifty tokens with one message a few are named, and the hint is for any of them."""
    text = read(board([token(number, "quarantined", policy="services") for number in range(50)])).text
    attention = text.partition("Needs attention")[2].partition("Policies")[0]
    assert "and 46 more" in attention
    assert "rotator release TOKEN" in attention


def test_many_tokens_are_bounded() -> None:
    """Of 5,000 tokens the page shows 200, says so, and stays small; so do as many different troubles."""
    many = board([token(number, "drifted", message=f"m{number}") for number in range(5000)])
    html = PAGE.render(many, "")
    text = Read(html).text
    assert "200 of 5,000 tokens are shown, the most pressing first; rotator status shows all." in text
    assert "There are 4980 more; rotator status shows all." in text
    assert len(html) < 400_000
    assert html.count("<tr") < 250


def test_nothing_yet_is_friendly() -> None:
    """Before the first sweep, and without any token, each section says what comes or what to run."""
    text = read(beginning()).text
    assert "No sweep yet: the first is in 12 min" in text
    assert "No token was looked at yet: the first sweep does." in text
    assert "None since this process started, just now." in text
    assert "No policy selects a token." in read(board([])).text
    assert "not scheduled" in read(board([], policies=(policy("a", next_at=None),))).text


def test_moments_are_relative_and_exact() -> None:
    """Each moment is a `<time>` with the absolute one."""
    html = PAGE.render(board([token(1, due_at=NOW, born_at=None, expires_at=None)]), "")
    assert '<time datetime="2026-03-14T09:26:53Z" title="2026-03-14 09:26:53 UTC">just now</time>' in html
    assert "not listed by the provider" in Read(html).text


def test_the_bar_shows_the_share_of_life() -> None:
    """A token in the middle of its life has half a bar, and a mark where it becomes due."""
    from datetime import timedelta

    days = timedelta(days=1)
    row = token(1, born_at=NOW - 50 * days, due_at=NOW + 30 * days, expires_at=NOW + 50 * days)
    html = PAGE.render(board([row]), "")
    assert '<rect class="passed" width="50.0" height="6"/><rect class="mark" x="80.0"' in html


def test_the_policy_allows_its_own_style_only() -> None:
    """The hash in the Content-Security-Policy is that of the style on the page."""
    style = re.search("<style>(.*?)</style>", PAGE.render(calm(), ""), re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in PAGE.policy
    assert "unsafe" not in PAGE.policy
    assert "script-src" not in PAGE.policy  # nothing: default-src 'none'


def test_it_renews_itself() -> None:
    """Without a script the page comes again by itself, and says how often."""
    seen = read(calm())
    assert ("meta", "content", "30") in seen.attributes
    assert ("meta", "http-equiv", "refresh") in seen.attributes
    assert "renewed every 30 s" in seen.text


def test_a_problem_is_the_headline() -> None:
    """A daemon that is not ready says so first."""
    assert "Not ready: the journal is full" in read(calm(), "the journal is full").text


def test_colours_can_be_read() -> None:
    """Every colour of text has a contrast of 4.5 with every ground, in both schemes (WCAG 2.2 AA)."""
    css = re.search("<style>(.*?)</style>", PAGE.render(calm(), ""), re.DOTALL)
    assert css is not None
    schemes = re.findall(r":root \{([^}]*)\}", css[1])
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for text in ("ink", "soft", "ok", "warn", "bad", "info", "calm"):
            for ground in ("paper", "card", "tint"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours. Source: WCAG 2.2, relative luminance."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
