"""What each fault lets a client see, and whether the call took effect: the store is the judge."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from rotator.sandbox import Fault, Faults, Sandbox, SandboxConfig
from rotator.sandbox.faults import FaultPlan

PATH = "/v1/organizations/clorg0000000000000000000a/tokens"
BEFORE = {
    Fault.THROTTLE_SECONDS: 429,
    Fault.THROTTLE_DATE: 429,
    Fault.THROTTLE_BARE: 429,
    Fault.ERROR_500: 500,
    Fault.ERROR_503_TEXT: 503,
    Fault.ERROR_504_HTML: 504,
    Fault.HTML_200: 200,
    Fault.RESET_BEFORE: 0,
    Fault.HANG_BEFORE: 0,
    Fault.LATE: 0,
}
AFTER = {
    Fault.ERROR_502_AFTER: 502,
    Fault.RESET_AFTER: 0,
    Fault.TRUNCATED: 0,
    Fault.INVALID_JSON: 200,
    Fault.NO_TOKEN: 200,
    Fault.HANG_AFTER: 0,
    Fault.LATENCY: 200,
}
QUICK = Faults(late_by_s=0.3, hang_s=0.2, latency_s=0.2)


@pytest.fixture
def quick(start) -> Sandbox:
    return start(limits=False, faults=QUICK)


def victim(sandbox: Sandbox) -> str:
    return next(reversed(sandbox.store.tokens))


def status_of(send: Callable[[], httpx.Response]) -> int:
    """Return the status, 0 if no whole response came."""
    try:
        return send().status_code
    except httpx.TransportError:
        return 0


def test_every_fault_is_before_or_after() -> None:
    assert BEFORE.keys() | AFTER.keys() == set(Fault)


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_comes_before_or_after_the_rotation_exactly_once(fault: Fault, quick: Sandbox, connect) -> None:
    token_id, client = victim(quick), connect(quick)
    old = quick.store.secret_of(token_id)
    quick.script("rotate", fault, token_id)
    assert status_of(lambda: client.post(f"{PATH}/{token_id}/rotate")) == (BEFORE | AFTER)[fault]
    assert quick.store.posts(token_id) == 1
    assert quick.store.rotations(token_id) == (fault in AFTER)
    assert quick.store.is_alive(old) == (fault in BEFORE)
    time.sleep(0.4 if fault is Fault.LATE else 0)
    assert quick.store.rotations(token_id) == (fault in AFTER or fault is Fault.LATE)
    assert client.post(f"{PATH}/{token_id}/rotate").status_code == 200
    assert quick.requests[0][3] == {Fault.TRUNCATED: 200}.get(fault, (BEFORE | AFTER)[fault])


@pytest.mark.parametrize("fault", [Fault.RESET_AFTER, Fault.ERROR_502_AFTER, Fault.LATE])
def test_the_other_writes_take_effect_as_well(fault: Fault, quick: Sandbox, connect) -> None:
    token_id, client = victim(quick), connect(quick)
    body = {"name": "made", "role": "ORGANIZATION_MEMBER", "scope": "ORGANIZATION"}
    for operation in ("create", "update", "delete"):
        quick.script(operation, fault)
    status_of(lambda: client.post(PATH, json=body))
    status_of(lambda: client.post(f"{PATH}/{token_id}", json={"name": "renamed"}))
    time.sleep(0.4 if fault is Fault.LATE else 0)
    assert {"made", "renamed"} <= {row.name for row in quick.store.tokens.values()}
    status_of(lambda: client.delete(f"{PATH}/{token_id}"))
    time.sleep(0.4 if fault is Fault.LATE else 0)
    assert token_id not in quick.store.tokens


@pytest.mark.parametrize("fault", Fault)
def test_reads_misbehave_without_harm(fault: Fault, quick: Sandbox, connect) -> None:
    client = connect(quick)
    quick.script("list", fault)
    assert status_of(lambda: client.get(PATH)) == (BEFORE | AFTER)[fault]
    assert client.get(PATH).json()["totalCount"] == 25


def test_throttles_differ_in_retry_after(quick: Sandbox, connect) -> None:
    client = connect(quick)
    for fault in (Fault.THROTTLE_SECONDS, Fault.THROTTLE_DATE, Fault.THROTTLE_BARE):
        quick.script("list", fault)
    seconds, date, bare = [client.get(PATH).headers.get("retry-after") for _ in range(3)]
    assert (seconds, bare) == ("1", None)
    assert parsedate_to_datetime(date).tzinfo is not None


def test_bodies_are_what_they_say(quick: Sandbox, connect) -> None:
    token_id, client = victim(quick), connect(quick)

    def rotated(fault: Fault) -> httpx.Response:
        quick.script("rotate", fault)
        return client.post(f"{PATH}/{token_id}/rotate")

    assert rotated(Fault.ERROR_500).json()["statusCode"] == 500
    assert rotated(Fault.ERROR_503_TEXT).headers["content-type"] == "text/plain"
    assert "<html>" in rotated(Fault.ERROR_504_HTML).text
    assert "text/html" in rotated(Fault.HTML_200).headers["content-type"]
    assert "token" not in rotated(Fault.NO_TOKEN).json()
    broken = rotated(Fault.INVALID_JSON)
    assert broken.headers["content-type"] == "application/json"
    with pytest.raises(ValueError, match="delimiter"):
        broken.json()


def test_a_truncated_body_promises_more_than_it_brings(quick: Sandbox, connect) -> None:
    quick.script("rotate", Fault.TRUNCATED)
    with connect(quick).stream("POST", f"{PATH}/{victim(quick)}/rotate") as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


def test_a_script_waits_for_its_operation_and_token(quick: Sandbox, connect) -> None:
    token_id, client = victim(quick), connect(quick)
    quick.script("rotate", Fault.ERROR_500, token_id)
    assert client.get(f"{PATH}/{token_id}").status_code == 200
    assert client.post(f"{PATH}/{quick.store.owner_id}/rotate").status_code == 200
    assert connect(quick).post(f"{PATH}/{token_id}/rotate").status_code == 500
    assert connect(quick).post(f"{PATH}/{token_id}/rotate").status_code == 200
    with pytest.raises(ValueError, match="'rotat' is no operation"):
        quick.script("rotat", Fault.ERROR_500)


def test_a_sandbox_stops_quickly_whatever_hangs(connect) -> None:
    sandbox = Sandbox(SandboxConfig(limits=False, faults=Faults(rates={Fault.HANG_BEFORE: 1.0})))
    with sandbox:
        client = connect(sandbox)
        calls = [threading.Thread(target=status_of, args=(lambda: client.get(PATH),)) for _ in range(5)]
        for call in calls:
            call.start()
        while len(sandbox.requests) < 5:
            time.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 1.5
    for call in calls:
        call.join(2)
        assert not call.is_alive()


def test_a_slow_sandbox_stops_quickly_and_late_effects_never_come(connect, capfd) -> None:
    with Sandbox(SandboxConfig(limits=False, latency_s=0.2, faults=Faults(late_by_s=0.5))) as sandbox:
        token_id, client = victim(sandbox), connect(sandbox)
        sandbox.script("rotate", Fault.LATE)
        began = time.monotonic()
        assert status_of(lambda: client.post(f"{PATH}/{token_id}/rotate")) == 0
        assert time.monotonic() - began >= 0.2
    time.sleep(0.6)
    assert sandbox.store.rotations(token_id) == 0
    assert capfd.readouterr() == ("", "")


def test_the_seed_decides_each_tokens_fate_however_calls_interleave() -> None:
    def fates(seed: int, order: list[str]) -> dict[str, list[Fault | None]]:
        plan = FaultPlan(Faults.preset("default", seed))
        drawn: dict[str, list[Fault | None]] = {token: [] for token in order}
        for token in order:
            drawn[token].append(plan.next("rotate", token))
        return drawn

    tokens = [f"token-{n}" for n in range(300)]
    assert fates(1, tokens * 2) == fates(1, tokens[::-1] * 2)
    assert fates(1, tokens * 2) != fates(2, tokens * 2)


def test_the_default_preset_is_rare_and_rarer_on_reads() -> None:
    faults = Faults.preset("default", 3)
    assert faults.rates.keys() == set(Fault)
    assert all(0.003 <= rate <= 0.008 for rate in faults.rates.values())
    plan = FaultPlan(faults)
    count = {op: Counter(plan.next(op, str(n)) for n in range(20_000)) for op in ("rotate", "get")}
    bad = {op: 20_000 - found[None] for op, found in count.items()}
    assert set(Fault) <= count["rotate"].keys()
    assert 2.5 < bad["rotate"] / bad["get"] < 3.6
    assert not Faults.preset("none").rates


def test_faults_are_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text("seed = 4\nlate_by_s = 2\n[rates]\nreset_after = 0.5\nlate = 0.25\n")
    assert Faults.load(file) == Faults({Fault.RESET_AFTER: 0.5, Fault.LATE: 0.25}, seed=4, late_by_s=2.0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("hang = 1", "hang: no such key"),
        ("rates = 1", "rates: must be a table"),
        ('late_by_s = "1"', "late_by_s: must be a number"),
        ("seed = 1.5", "seed: must be a whole number"),
        ("[rates]\nreset = 0.1", "rates.reset: no such fault"),
        ("[rates]\nlate = 1.5", "rates.late: 1.5 is not"),
        ("[rates]\nlate = true", "rates.late: must be a number"),
        ("[rates]\nlate = 0.6\nlatency = 0.6", "rates: together"),
    ],
)
def test_a_bad_file_is_refused_by_the_name_of_its_key(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=named):
        Faults.load(file)
