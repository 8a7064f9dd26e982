"""What a scrape of many tokens costs, against gauges of `prometheus_client`, and how long it keeps events waiting."""

import statistics
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from rotator.board import Board
from rotator.engine.standing import Standing
from rotator.events import Event, EventName
from rotator.metrics import Metrics
from rotator.model import Generation, Scope, Token

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERIES_A_TOKEN = 4
RUNS = 9


def run() -> None:
    """Scrapes of 10,000 series (2,500 tokens) and of 40,000 (10,000 tokens)."""
    for tokens in (2_500, 10_000):
        scraped(tokens)


def scraped(tokens: int) -> None:
    """Print what one size costs."""
    board = Board(NOW)
    metrics = Metrics(board, lambda: NOW, lambda _: None)
    board.configure((), {"astro": "astro"}, {}, NOW, max_series=tokens)
    board.take("astro", [standing(number) for number in range(tokens)], NOW)
    registry = CollectorRegistry()
    gauges = [Gauge(f"token_{n}", "A gauge.", ("policy", "token_id", "name"), registry=registry) for n in range(4)]
    for number in range(tokens):
        for gauge in gauges:
            gauge.labels("services", f"cl{number:023}", f"svc-{number:06}").set(NOW.timestamp())
    pairs = [(spent_ms(lambda: metrics.render("")), spent_ms(lambda: generate_latest(registry))) for _ in range(RUNS)]
    ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    size = len(metrics.render("")[0])
    waits_ms = waiting_ms(metrics, board)
    print(
        f"scrape: {tokens * SERIES_A_TOKEN:,} series of {tokens:,} tokens in {ours:.0f} ms = {ours / theirs:.2f} x"
        f" gauges of prometheus_client ({theirs:.0f} ms); {size / 1e6:.1f} MB; an event meanwhile:"
        f" median {waits_ms[0]:.2f} ms, worst {waits_ms[1]:.0f} ms"
    )


def spent_ms(act: Callable[[], object]) -> float:
    """Return how long something takes, milliseconds."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def waiting_ms(metrics: Metrics, board: Board) -> tuple[float, float]:
    """Return how long an event takes to be counted and noted while another thread scrapes without a pause."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.is_set():
            metrics.render("")

    thread = threading.Thread(target=scrape)
    thread.start()
    event = Event(name=EventName.REQUEST_FINISHED, at=NOW, provider="astro", message="get", error="200", duration_s=0.1)
    times = []
    for _ in range(200):
        time.sleep(0.005)  # so that they come at any moment of a scrape
        times.append(spent_ms(lambda: (board(event), metrics(event))))
    ended.set()
    thread.join()
    return statistics.median(times), max(times)


def standing(number: int) -> Standing:
    """Return where one token stands."""
    rotated = NOW - timedelta(days=number % 90)
    token = Token(
        id=f"cl{number:023}",
        name=f"svc-{number:06}",
        scope=Scope.ORGANIZATION,
        organization_id="org",
        generation=Generation(rotated, rotated),
        created_at=NOW - timedelta(days=400),
        end_at=NOW + timedelta(days=100),
    )
    return Standing(token.id, token.name, "", "fresh", "not_due", "", NOW + timedelta(days=9), token)


if __name__ == "__main__":
    run()
