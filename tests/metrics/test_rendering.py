"""How metrics are rendered: formats by negotiation, clean for promtool, without a secret, from many threads."""

import json
import os
import shutil
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families

from rotator.events import Event, EventName
from rotator.metrics.rendering import OPENMETRICS, TEXT, prefers_openmetrics
from rotator.sandbox import Fault, SandboxConfig
from tests.metrics.measuring import families, measured, samples

PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4,*/*;q=0.1"
)
HOSTILE = 'a"b\\c\nrotator_lost_total{policy="x"} 9\x00\x1b[2J\ud800\u202e</td>{{7*7}}'


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        (PROMETHEUS_2_42, True), (PROMETHEUS_3, True), ("application/openmetrics-text", True),
        ("", False), ("*/*", False), ("text/html", False), ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.7", False), ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False), (";;,,q=", False), ("text/plain\r\nX: y", False),
    ],
)  # fmt: skip
def test_the_scraper_chooses_the_format(accept: str, is_open: bool) -> None:
    """OpenMetrics where it is preferred, text for everybody else, and no header breaks it."""
    assert prefers_openmetrics(accept) is is_open


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    """Every sample of the one is in the other, none is there twice, and no `_created` is in either."""
    with measured(tmp_path) as one:
        one.sweep()
        text, kind = one.metrics.render("")
        opened, open_kind = one.metrics.render(PROMETHEUS_2_42)
    assert (kind, open_kind) == (TEXT, OPENMETRICS)
    assert opened.endswith(b"# EOF\n")
    assert opened.count(b"# EOF") == 1

    def flat(found: object) -> dict[tuple[str, ...], float]:
        rows = [(s.name, *sorted(s.labels.items())) for family in found for s in family.samples]
        assert len(rows) == len(set(rows))
        return {
            (s.name, *sorted(s.labels.items())): s.value
            for family in found
            for s in family.samples
            if not s.name.endswith("throttled_seconds_total")
        }

    left, right = flat(list(families(text.decode()).values())), flat(list(open_families(opened.decode())))
    assert left == right
    assert not [key for key in left if key[0].endswith("_created")]


def checked(text: bytes) -> subprocess.CompletedProcess[bytes]:
    """Let promtool check a rendering in the text format."""
    if shutil.which("promtool") is None:
        if os.environ.get("ROTATOR_REQUIRE_SERVERS") == "1":
            pytest.fail("there is no promtool; apt-get install prometheus")
        pytest.skip("there is no promtool; apt-get install prometheus")
    return subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)


def test_promtool_finds_nothing(tmp_path: Path) -> None:
    """Also where names are hostile and things went wrong; and it does find what is wrong."""
    chosen = SandboxConfig(tokens=24, limits=False, hostile_names=True)
    with measured(tmp_path, sandbox=chosen) as one:
        for token, end in zip(one.bench.sandbox.store.tokens.values(), range(10, 40), strict=False):
            assert one.bench.clock is not None
            token.end_at = one.bench.clock.now() + timedelta(days=end)
        next(iter(one.bench.sandbox.store.tokens.values())).name = f"svc-{HOSTILE}".replace("\ud800", "")
        one.bench.sandbox.script("rotate", Fault.RESET_AFTER)
        one.sweep()
        text, _ = one.metrics.render("")
    run = checked(text)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
    assert checked(text.replace(b"# HELP rotator_lost_total", b"# HELQ rotator_lost_total")).returncode != 0


def test_no_name_forges_a_series(tmp_path: Path) -> None:
    """A name with quotes, newlines, NUL and half a surrogate stays one label of one series."""
    from dataclasses import replace

    from rotator.metrics.state import token_series

    with measured(tmp_path) as one:
        one.look()
        assert one.bench.clock is not None
        shown = one.board.snapshot(one.bench.clock.now())
        tokens = tuple(replace(row, name=HOSTILE, token_id=f"{HOSTILE}{n}") for n, row in enumerate(shown.tokens))
        text = token_series(replace(shown, tokens=tokens)).decode()
    assert len(samples(text, "rotator_token_ready")) == len(tokens)
    assert samples(text, "rotator_lost_total") == {}
    assert checked(text.encode()).returncode == 0
    assert text.replace("\n", "").isprintable()


def test_no_secret_is_in_any_rendering(tmp_path: Path) -> None:
    """Secrets of tokens and sinks, our credential and short tokens are in neither format, whatever went wrong."""
    with measured(tmp_path, timeout="1s") as one:
        store = one.bench.sandbox.store
        secrets = {store.secret_of(token_id) for token_id in store.tokens} | {one.bench.sandbox.credential}
        for fault in (Fault.TRUNCATED, Fault.RESET_AFTER, Fault.ERROR_500):
            one.bench.sandbox.script("rotate", fault)
        one.sweep()
        assert one.bench.clock is not None
        one.bench.clock.jump(timedelta(minutes=3))
        one.sweep()
        secrets |= {store.secret_of(token_id) for token_id in store.tokens}
        both = one.metrics.render("")[0] + one.metrics.render(PROMETHEUS_2_42)[0]
    assert len(secrets) > 8
    for secret in secrets:
        assert secret.encode() not in both
        assert secret.encode()[:40] not in both
    assert b"eyJ" not in both
    assert b"://" not in both


def test_too_many_tokens_are_left_out_and_said_once(tmp_path: Path) -> None:
    """There is one line however often it is scraped, and another one only after they were back."""
    with measured(tmp_path, max_tokens=5) as one:
        one.look()
        for _ in range(3):
            assert "rotator_token_ready" not in one.text()
        assert [event.name for event in one.told] == [EventName.SERIES_OMITTED]
        gone = next(token for token in one.bench.sandbox.store.tokens.values() if token.name.startswith("svc-"))
        one.bench.sandbox.store.delete(gone.id)
        one.look()
        assert len(samples(one.text(), "rotator_token_ready")) == 5
        assert len(one.told) == 1


def test_single_tokens_can_be_turned_off(tmp_path: Path) -> None:
    """With max_tokens = 0 nobody is told."""
    with measured(tmp_path, max_tokens=0) as one:
        one.look()
        assert "rotator_token_ready" not in one.text()
        assert samples(one.text(), "rotator_tokens")["services", "due"] == 3
        assert one.told == []


def test_scraping_while_sweeping(tmp_path: Path) -> None:
    """Scrapes from several threads and events from others neither fail nor lose a count."""
    with measured(tmp_path) as one:
        one.sweep()
        assert one.bench.clock is not None
        event = Event(name=EventName.ROTATION_LOST, at=one.bench.clock.now(), policy="services")
        failures: list[BaseException] = []

        def work(act: object) -> None:
            try:
                for _ in range(50):
                    act()
            except BaseException as error:  # noqa: BLE001 - shown by the test
                failures.append(error)

        acts = [
            lambda: one.metrics(event),
            lambda: one.metrics.render(""),
            lambda: one.metrics.render(PROMETHEUS_3),
        ] * 2
        threads = [threading.Thread(target=work, args=(act,)) for act in acts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert one.values("rotator_lost_total") == {("services",): 100}


def test_a_step_tells_how_long_it_took(tmp_path: Path) -> None:
    """Every step of a rotation is told once with its duration, to listeners alone: neither history nor audit has it."""
    with measured(tmp_path) as one:
        one.bench.sweep()
        steps = [event for event in one.bench.events if event.name is EventName.STEP_FINISHED]
        with one.bench.app() as app:
            remembered = {event.name for event in app.reader.history()}
        lines = (one.bench.config.audit_path or tmp_path).read_text().splitlines()
    assert len(steps) == 8 * 3
    assert all(event.duration_s is not None and event.failure is None for event in steps)
    assert EventName.STEP_FINISHED not in remembered
    assert EventName.CREDENTIAL_READ not in remembered
    known = {
        "time", "seq", "event", "actor", "instance", "policy", "provider", "token", "rotation_id", "sink", "location",
        "version", "outcome", "reason", "step", "error", "message", "deadline", "expires_at", "tokens", "prev_hash",
            "hash",
    }  # fmt: skip
    assert {key for line in lines for key in json.loads(line)} <= known
