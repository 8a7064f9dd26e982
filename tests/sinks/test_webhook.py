"""The webhook sink: the shared contract with a receiver that answers for its mints, and what only webhooks suffer."""

import base64
import datetime as dt
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import ValidationError

from rotator import sinks
from rotator.errors import (
    ConfigError,
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.model import Grade, Held, Place
from rotator.ports import Sink
from rotator.sinks import _post
from rotator.sinks._post import Answer
from rotator.sinks.webhook import LONGEST_PAUSE, delivery_failure, question_failure, retry_after, signature
from tests.servers.webhook import Fault, Proxy, Receiver, Seen, _handler, _running, _Server, proxying, serving
from tests.sinks.contract import CANARY, OTHER, Harness, SinkContract, facts, mint, raising_without_secret

WEBHOOK: Any = sinks.load("webhook")
KEYS = [bytes(range(32)), bytes(range(100, 132))]
NOW = datetime(2026, 3, 4, tzinfo=UTC)


def spelt(key: bytes) -> str:
    """Return a signing key as the standard writes it."""
    return f"whsec_{base64.b64encode(key).decode()}"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver that trusts the first key."""
    with serving(Receiver(tmp_path / "store.json", KEYS[:1])) as serves:
        yield serves


def build(base: Path, url: str, **options: object) -> Sink:
    """Return the sink with its first key in a file."""
    for number, key in enumerate(KEYS):
        if not (base / f"key-{number}").exists():
            (base / f"key-{number}").write_text(spelt(key) + "\n")
    settings = {"url": url, "signing_key": "file:key-0", "timeout": "5s", **options}
    return WEBHOOK.build("hooks", WEBHOOK.Options(**settings), base)


def place_of(sink: Sink, name: str = "svc-airflow", **block: object) -> Place:
    """Return where a delivery for a token of this name goes."""
    return sink.resolve(sinks.checked(WEBHOOK.DeliveryOptions, block), facts(name=name))


class AskedReceiver(Receiver):
    """A receiver whose answers to questions can be made to fail, while it takes deliveries."""

    answers_questions = True

    def answer(self, request: Seen) -> tuple[int, bytes]:
        """Fail where that is asked for."""
        if not self.answers_questions and request.event["type"] == "token.verify":
            return 500, b"no database: " + request.body
        return super().answer(request)


class WebhookHarness:
    """The receiver's side."""

    kind = "webhook"
    is_readable = False
    retry_after = timedelta(seconds=7)
    sibling: dict[str, object] = {"key": "{policy}/{name}/second"}  # noqa: RUF012 - as the protocol declares it
    lacks: Mapping[str, str] = {"edited_meanwhile": "a delivery is one request, and nothing is read before it"}

    def __init__(self, base: Path, path: str) -> None:
        self.receiver = AskedReceiver(base / "store.json", KEYS[:1])
        self.block: dict[str, object] = {"key": "{policy}/{name}"}
        self._port = 0
        self._open()
        self._base, self._url = base, f"http://127.0.0.1:{self._port}{path}"
        self.sink = self.rebuilt()

    def rebuilt(self) -> Sink:
        """Build it once more."""
        return build(self._base, self._url, verify=True)

    def read(self, place: Place) -> str | None:
        """Read what the receiver stored."""
        held = self.receiver.held().get(self._name(place))
        return held["secret"] if held else None

    def write(self, place: Place, secret: str) -> None:
        """Store it by hand."""
        self.receiver.put(self._name(place), secret, "by-hand")

    def remove(self, place: Place) -> bool:
        """Take it out of the store."""
        held = self.receiver.held()
        del held[self._name(place)]
        self.receiver.store.write_text(json.dumps(held))
        return True

    def plant_neighbour(self, place: Place) -> None:
        """Store something under another key."""
        self.receiver.put(self._name(place) + "-neighbour", "theirs", "x")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at it."""
        return self.receiver.held()[self._name(place) + "-neighbour"] == {"mint_id": "x", "secret": "theirs"}

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Let the receiver forget our key."""
        keys, self.receiver.keys = self.receiver.keys, []
        yield
        self.receiver.keys = keys

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Store each event, then reset the connection."""
        return self._faulty(Fault(how="reset", commits=True))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Reset each connection, once the request is there."""
        return self._faulty(Fault(how="reset"))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Answer that there were too many, and repeat the request."""
        return self._faulty(Fault(429, echoes=True, headers={"Retry-After": "7"}))

    def denied(self, place: Place) -> AbstractContextManager[None]:
        """Answer that it is forbidden, and repeat the request."""
        return self._faulty(Fault(403, echoes=True))

    @contextmanager
    def unreachable(self, place: Place) -> Iterator[None]:
        """Stop listening."""
        self.close()
        yield
        self._open()

    @contextmanager
    def reads_fail(self, place: Place) -> Iterator[None]:
        """Fail at token.verify only."""
        self.receiver.answers_questions = False
        yield
        self.receiver.answers_questions = True

    def calls(self) -> int:
        """Count the requests."""
        return len(self.receiver.seen)

    def close(self) -> None:
        """End the server."""
        self.receiver.released.set()
        self._serving.close()

    def _open(self) -> None:
        """Serve at the port of before, if there was one."""
        server = _Server(("127.0.0.1", self._port), _handler(self.receiver))
        self._port = server.server_port
        self._serving = ExitStack()
        self._serving.enter_context(_running(server))

    @contextmanager
    def _faulty(self, fault: Fault) -> Iterator[None]:
        self.receiver.faults = [fault] * 100
        yield
        assert len(self.receiver.faults) < 100, "nothing was asked"
        self.receiver.faults = []

    def _name(self, place: Place) -> str:
        return place.location.removeprefix(f"http://127.0.0.1:{self._port}")


class TestWebhookSink(SinkContract):
    """The shared contract, for one address and for an address a token."""

    @pytest.fixture(params=["/hooks/rotator", "/hooks/{policy}/{name}"])
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
        """Return one with a receiver of its own."""
        made = WebhookHarness(tmp_path, request.param)
        yield made
        made.close()


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://hooks.example.com/"}, "http is for loopback only"),
        ({"url": "http://127.0.0.1.example.com/"}, "http is for loopback only"),
        ({"url": "ftp://hooks.example.com/"}, "must be a URL such as"),
        ({"url": "hooks.example.com"}, "must be a URL such as"),
        ({"url": "https:///x"}, "must be a URL such as"),
        ({"url": "https://hooks.example.com:x/"}, "must be a URL such as"),
        ({"url": "https://user:canary@hooks.example.com/"}, "must not hold a user"),
        ({"url": "https://hooks.example.com/?token=canary"}, "must not hold a user, a query"),
        ({"url": "https://hooks.example.com/#canary"}, "a fragment"),
        ({"url": "https://{name}.example.com/"}, "must be a URL such as"),
        ({"url": "https://hooks.example.com/{nam}"}, r"did you mean \{name\}"),
        ({"url": "https://hooks.example.com/{secret}"}, "unknown placeholder"),
        ({"url": "https://hooks.example.com/a/../b"}, r"\. or \.\."),
        ({"url": "https://hooks.example.com/a b"}, "without spaces"),
        ({"url": "https://hooks.example.com/a\nb"}, "without spaces"),
        ({"url": "https://hooks.example.com/é"}, "ASCII only"),
        ({"url": "https://hooks.example.com/a|b"}, "characters of a URL's path"),
        ({"signing_key": []}, "at least 1"),
        ({"signing_key": ["env:A", "env:B", "env:C"]}, "at most 2"),
        ({"signing_key": "whsec_canary"}, "not a secret reference"),
        ({"headers": {"Authorization": CANARY}}, "looks like a secret"),
        ({"headers": {"webhook-id": "env:A"}}, "set by rotator"),
        ({"headers": {"Host": "env:A"}}, "set by rotator"),
        ({"headers": {"A\r\nB": "env:A"}}, "no header has"),
        ({"timeout": "soon"}, "not a duration"),
        ({"timeout": "0s"}, "longer than nothing"),
        ({"proxy": "socks5://p:1"}, "must be a URL such as http://proxy"),
        ({"proxy": "http://me:canary@p:1"}, "must not hold a user"),
        ({"client_key": "a.pem"}, "client_key needs client_certificate"),
        ({"ca_bundle": "a\nb"}, "cannot be seen"),
        ({"no_such_key": 1}, "no_such_key"),
    ],
)
def test_wrong_options_are_refused_at_load(options: dict[str, object], message: str) -> None:
    """Every mistake is a validation error with its fix, which repeats no secret."""
    with pytest.raises(ValidationError, match=message) as caught:
        WEBHOOK.Options(**{"url": "https://hooks.example.com/", "signing_key": "env:A", **options})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"key": "{nam}"}, r"did you mean \{name\}"),
        ({"key": ""}, "must be made of letters"),
        ({"key": "a#{name}"}, "must be made of letters"),
    ],
)
def test_wrong_blocks_are_refused_at_load(block: dict[str, object], message: str) -> None:
    """A key that no receiver should be asked for is a validation error."""
    with pytest.raises(ValidationError, match=message):
        sinks.checked(WEBHOOK.DeliveryOptions, block)


def test_a_bad_proxy_in_the_environment_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found at start, and its password is not repeated."""
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:canary@proxy:1080")
    with pytest.raises(ConfigError, match=r"sinks\.hooks\.proxy") as caught:
        build(tmp_path, "https://hooks.example.com/")
    assert "canary" not in str(caught.value)


def test_the_origin_is_not_journalled(tmp_path: Path) -> None:
    """Whoever can write the journal cannot choose who gets a secret."""
    place = place_of(build(tmp_path, "https://hooks.example.com:8443/{workspace_id}"))
    assert place.location == "https://hooks.example.com:8443/clws1#svc-airflow"
    assert "hooks.example.com" not in json.dumps(place.options)


# What is sent


def test_the_signature_is_that_of_the_standard() -> None:
    """The reference vector of Standard Webhooks comes out."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    said = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert said == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_delivery_carries_what_a_receiver_needs(tmp_path: Path, receiver: Receiver) -> None:
    """The secret stands in the body once and nowhere else; the id is the mint's; the rest tells whose it is."""
    sink = build(tmp_path, receiver.url + "/in")
    sink.deliver(place_of(sink, key="team/{name}"), mint())
    (seen,) = receiver.seen
    assert seen.event == {
        "type": "token.deliver",
        "timestamp": "2026-03-05T05:06:07.890Z",
        "data": {
            **facts(),
            "key": "team/svc-airflow",
            "lineage": "cltoken1",
            "mint_id": "mint-1",
            "rotation_id": "rotation-1",
            "rotated_at": "2026-03-05T05:06:07.890Z",
            "end_at": "2026-06-03T05:06:07.890Z",
            "fingerprint": "",
            "secret": CANARY,
        },
    }
    assert seen.body.count(b"canary") == 1
    assert "canary" not in json.dumps(seen.headers) + seen.path
    assert re.fullmatch("mint-1_[0-9a-f]{12}", seen.headers["webhook-id"])
    assert abs(int(seen.headers["webhook-timestamp"]) - time.time()) < 60
    assert seen.headers["content-type"] == "application/json"


def test_two_keys_of_one_mint_are_two_deliveries(tmp_path: Path, receiver: Receiver) -> None:
    """A receiver that drops what has a known id stores both, and a repetition of either is known to it."""
    sink = build(tmp_path, receiver.url)
    for key in ("a/{name}", "b/{name}", "a/{name}"):
        sink.deliver(place_of(sink, key=key), mint())
    first, second, again = [seen.headers["webhook-id"] for seen in receiver.seen]
    assert first == again != second


def test_questions_carry_no_secret_and_never_the_same_id(tmp_path: Path, receiver: Receiver) -> None:
    """Preflight and verify name the key and the lineage, and cannot be taken for a delivery."""
    sink = build(tmp_path, receiver.url, verify=True)
    place = place_of(sink)
    for _ in range(2):
        sink.preflight(place)
    with pytest.raises(NotFound):
        sink.read_back(place)
    assert [seen.event["type"] for seen in receiver.seen] == ["token.preflight", "token.preflight", "token.verify"]
    assert len({seen.headers["webhook-id"] for seen in receiver.seen}) == 3
    for seen in receiver.seen:
        assert seen.event["data"]["key"] == "svc-airflow"
        assert seen.event["data"]["lineage"] == "cltoken1"
        assert "secret" not in seen.event["data"]


def test_two_keys_sign_while_one_is_changed(tmp_path: Path, receiver: Receiver) -> None:
    """A receiver that knows the old key, the new one or both accepts what is signed with both."""
    sink = build(tmp_path, receiver.url, signing_key=["file:key-0", "file:key-1"])
    for keys in (KEYS[:1], KEYS[1:], KEYS):
        receiver.keys = keys
        sink.preflight(place_of(sink))
    assert re.fullmatch(r"v1,[\w+/]{43}= v1,[\w+/]{43}=", receiver.seen[0].headers["webhook-signature"])


def test_credentials_are_read_at_every_call(tmp_path: Path, receiver: Receiver) -> None:
    """A signing key or header that changes is followed without a restart."""
    (tmp_path / "auth").write_text("Bearer first\n")
    sink = build(tmp_path, receiver.url, headers={"Authorization": "file:auth"})
    sink.preflight(place_of(sink))
    (tmp_path / "auth").write_text("Bearer second\n")
    (tmp_path / "key-0").write_text(spelt(KEYS[1]))
    receiver.keys = KEYS[1:]
    sink.preflight(place_of(sink))
    assert [seen.headers["authorization"] for seen in receiver.seen] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "no base64", "whsec_" + "A" * 200])
def test_an_unusable_signing_key_is_said_but_not_shown(tmp_path: Path, receiver: Receiver, text: str) -> None:
    """Nothing is sent unsigned or weakly signed, and the message says how to make a key."""
    sink = build(tmp_path, receiver.url)
    (tmp_path / "key-0").write_text(text)
    with raising_without_secret(Permanent, match=r"#svc-airflow: .*file:key-0"):
        sink.deliver(place_of(sink), mint())
    assert receiver.seen == []


def test_a_header_that_would_split_the_request_is_refused(tmp_path: Path, receiver: Receiver) -> None:
    """A value with a line break is not sent."""
    (tmp_path / "auth").write_text("Bearer canary\r\nX: y")
    sink = build(tmp_path, receiver.url, headers={"Authorization": "file:auth"})
    with raising_without_secret(Permanent, match="the header Authorization holds characters"):
        sink.deliver(place_of(sink), mint())
    assert receiver.seen == []


def test_a_missing_credential_names_the_place(tmp_path: Path, receiver: Receiver) -> None:
    """The message says which place waits and which reference is empty."""
    sink = build(tmp_path, receiver.url)
    (tmp_path / "key-0").unlink()
    with raising_without_secret(Permanent, match=r"#svc-airflow: .*file:key-0 names a file that does not exist"):
        sink.preflight(place_of(sink))


def test_a_mint_whose_id_would_break_the_signature_is_refused(tmp_path: Path, receiver: Receiver) -> None:
    """The standard forbids a full stop in an id."""
    odd = mint()
    object.__setattr__(odd, "id", "a.b")
    sink = build(tmp_path, receiver.url)
    with raising_without_secret(Permanent, match="cannot stand in a header"):
        sink.deliver(place_of(sink), odd)


# What comes back

ROWS: list[tuple[int, type[RotatorError] | None, type[RotatorError] | None]] = [
    (200, None, None),
    (202, None, None),
    (204, None, None),
    (299, None, None),
    (301, Permanent, Permanent),
    (302, Permanent, Permanent),
    (303, Permanent, Permanent),
    (307, Permanent, Permanent),
    (308, Permanent, Permanent),
    (304, Permanent, Permanent),
    (400, Permanent, Permanent),
    (401, CredentialRejected, CredentialRejected),
    (403, Forbidden, Forbidden),
    (404, Permanent, Permanent),
    (405, Permanent, Permanent),
    (407, Permanent, Permanent),
    (408, Temporary, Temporary),
    (409, OutcomeUnknown, Permanent),
    (410, Permanent, Permanent),
    (413, Permanent, Permanent),
    (418, Permanent, Permanent),
    (421, Temporary, Temporary),
    (422, Permanent, Permanent),
    (425, Temporary, Temporary),
    (429, Throttled, Throttled),
    (500, OutcomeUnknown, Temporary),
    (501, Permanent, Permanent),
    (502, OutcomeUnknown, Temporary),
    (503, OutcomeUnknown, Temporary),
    (504, OutcomeUnknown, Temporary),
    (599, OutcomeUnknown, Temporary),
    (999, OutcomeUnknown, Temporary),
]


@pytest.mark.parametrize(("status", "delivering", "asking"), ROWS)
def test_every_status_means_something(
    tmp_path: Path,
    receiver: Receiver,
    status: int,
    delivering: type[RotatorError] | None,
    asking: type[RotatorError] | None,
) -> None:
    """Each answer to a delivery and to a preflight becomes its own error, or none, without a word of the answer."""
    sink = build(tmp_path, receiver.url)
    place = place_of(sink)
    echo = Fault(status, echoes=status not in (204, 304), headers={"Location": f"{receiver.url}/other"})
    for call, expected in ((lambda: sink.deliver(place, mint()), delivering), (lambda: sink.preflight(place), asking)):
        receiver.faults = [echo]
        if expected is None:
            call()
            continue
        with raising_without_secret(expected, match=rf"#svc-airflow: .*{status}") as caught:
            call()
        assert type(caught.value) is expected
    assert len(receiver.seen) == 2, "something was sent again, or a redirect was followed"


def test_every_status_has_a_meaning_that_tells_the_place() -> None:
    """Whatever number comes, somebody can act on the message."""
    for status in range(100, 1000):
        answer = Answer(status, b'{"mint_id": "mint-1"}')
        delivered = delivery_failure("https://h/#k", answer, NOW, "mint-1")
        asked = question_failure("https://h/#k", answer, NOW)
        for error in (delivered, asked):
            assert error is None or error.message.startswith("https://h/#k: ")
        assert (asked is None) == (200 <= status < 300)
        assert (delivered is None) == (200 <= status < 300 or status == 409)


@pytest.mark.parametrize("body", [b"", b"seen", b"<html>WAF</html>", b'{"mint_id": "mint-2"}', b'{"error": "locked"}'])
def test_a_conflict_that_does_not_name_the_mint_is_no_delivery(body: bytes) -> None:
    """Something on the way, or the receiver itself, may answer 409 without holding the secret: it is sent again."""
    assert isinstance(delivery_failure("https://h/#k", Answer(409, body), NOW, "mint-1"), OutcomeUnknown)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"\xef\xbb\xbf<!DOCTYPE html>"),
        Answer(200, b"Please sign in", content_type="text/html; charset=utf-8"),
    ],
)
def test_a_sign_in_page_is_no_delivery(answer: Answer) -> None:
    """A portal that answers 200 with a page stored nothing, however the page begins."""
    assert isinstance(delivery_failure("https://h/#k", answer, NOW, "mint-1"), Permanent)


def test_throttling_says_how_long(tmp_path: Path, receiver: Receiver) -> None:
    """Retry-After reaches the engine, also that of a receiver that is down for a while."""
    sink = build(tmp_path, receiver.url)
    for status, kind in ((429, Throttled), (503, Temporary)):
        receiver.faults = [Fault(status, headers={"Retry-After": "7"})]
        with raising_without_secret(kind) as caught:
            sink.deliver(place_of(sink), mint())
        assert isinstance(caught.value, Temporary)
        assert caught.value.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize(
    ("text", "date", "expected"),
    [
        ("5", "", timedelta(seconds=5)),
        ("0", "", timedelta()),
        ("999999999999", "", LONGEST_PAUSE),
        ("Wed, 04 Mar 2026 00:00:09 GMT", "", timedelta(seconds=9)),
        ("Wed, 04 Mar 2026 00:00:09 GMT", "Wed, 04 Mar 2026 00:00:05 GMT", timedelta(seconds=4)),
        ("Wed, 04 Mar 2020 00:00:00 GMT", "", timedelta()),
        ("soon", "", None),
        ("", "", None),
        ("-1", "", None),
        ("٣", "", None),
    ],
)
def test_retry_after_is_read_with_care(text: str, date: str, expected: timedelta | None) -> None:
    """Seconds and dates count, bounded; anything else says nothing."""
    assert retry_after(Answer(429, b"", text, date), NOW) == expected


def test_a_web_page_is_no_receiver(tmp_path: Path, receiver: Receiver) -> None:
    """A login page or the catch-all of a web application answers 200 and stored nothing."""
    sink = build(tmp_path, receiver.url)
    for call in (lambda: sink.deliver(place_of(sink), mint()), lambda: sink.preflight(place_of(sink))):
        receiver.faults = [Fault(200, body=b"\n <!DOCTYPE html><title>Sign in</title>")]
        with raising_without_secret(Permanent, match="a web page answered"):
            call()


@pytest.mark.parametrize("how", ["hang", "reset", "cut", "garbage", "drip", "huge"])
@pytest.mark.parametrize("commits", [False, True])
def test_an_answer_that_does_not_come_whole_leaves_a_delivery_in_doubt(
    tmp_path: Path, receiver: Receiver, how: str, commits: bool
) -> None:
    """Whether or not the receiver had stored it, the outcome is unknown, and the same id sent again settles it."""
    sink = build(tmp_path, receiver.url, timeout="0.5s", verify=True)
    place = place_of(sink)
    receiver.faults = [Fault(how=how, commits=commits)]
    started_s = time.monotonic()
    with raising_without_secret(OutcomeUnknown, match=r"#svc-airflow: .*sending it again is safe"):
        sink.deliver(place, mint())
    assert time.monotonic() - started_s < 3
    receipt = sink.deliver(place, mint())
    assert sink.read_back(place) == Held(None, "mint-1", receipt.version)
    assert len({seen.headers["webhook-id"] for seen in receiver.seen[:2]}) == 1
    assert receiver.held()["/#svc-airflow"] == {"mint_id": "mint-1", "secret": CANARY}


@pytest.mark.parametrize("how", ["hang", "reset", "cut", "garbage", "drip", "huge"])
def test_a_question_without_an_answer_is_temporary(tmp_path: Path, receiver: Receiver, how: str) -> None:
    """A preflight changes nothing, so asking again does no harm."""
    sink = build(tmp_path, receiver.url, timeout="0.5s")
    receiver.faults = [Fault(how=how)]
    with raising_without_secret(Temporary):
        sink.preflight(place_of(sink))


def test_nobody_there_certainly_had_no_effect(tmp_path: Path) -> None:
    """A refused connection is temporary, for a delivery too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        sink = build(tmp_path, f"http://127.0.0.1:{free.getsockname()[1]}")
        with raising_without_secret(Temporary, match="no connection could be made"):
            sink.deliver(place_of(sink), mint())


def test_an_unknown_host_certainly_had_no_effect(tmp_path: Path) -> None:
    """A name that does not resolve is temporary: names come back."""
    sink = build(tmp_path, "https://no-such-host.invalid/")
    with raising_without_secret(Temporary, match="name of its host is not known|no connection"):
        sink.deliver(place_of(sink), mint())


@pytest.mark.parametrize(
    ("kind", "in_time"),
    [(kind, table) for table in (_post.CONNECTING, _post.SENDING) for kind in table],
)
def test_every_exception_of_the_client_has_a_row(kind: type[Exception], in_time: object) -> None:
    """Whatever the standard library raises is found along its ancestors."""
    assert kind.__mro__[-2] is BaseException
    for error in (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, socket.gaierror, PermissionError):
        for table in (_post.CONNECTING, _post.SENDING):
            assert any(ancestor in table for ancestor in error.__mro__)


# Reading back


def test_without_verify_a_receipt_is_all_there_is(tmp_path: Path, receiver: Receiver) -> None:
    """The receiver is not asked what it holds, and nothing is claimed about it."""
    sink = build(tmp_path, receiver.url)
    receipt = sink.deliver(place_of(sink), mint())
    assert sink.read_back(place_of(sink)) == Held(None)
    assert receipt.version == "mint-1"
    assert [seen.event["type"] for seen in receiver.seen] == ["token.deliver"]


@pytest.mark.parametrize(
    "body", [b"", b"ok", b"[]", b"{}", b'{"mint_id": 1}', b'{"mint_id": "a b"}', b'"mint-1"', b"[" * 60000]
)
def test_a_verify_that_is_not_understood_is_no_loss(tmp_path: Path, receiver: Receiver, body: bytes) -> None:
    """An answer that says nothing of a mint never counts as "nothing there"."""
    sink = build(tmp_path, receiver.url, verify=True)
    receiver.faults = [Fault(200, body=body)]
    with raising_without_secret(Permanent, match="set verify = false") as caught:
        sink.read_back(place_of(sink))
    assert not isinstance(caught.value, NotFound)


def test_a_404_is_not_nothing(tmp_path: Path, receiver: Receiver) -> None:
    """A wrong address does not say that a key is missing."""
    sink = build(tmp_path, receiver.url, verify=True)
    receiver.faults = [Fault(404)]
    with raising_without_secret(Permanent) as caught:
        sink.read_back(place_of(sink))
    assert not isinstance(caught.value, NotFound)


def test_a_receiver_that_lost_its_store_is_found_out(tmp_path: Path, receiver: Receiver) -> None:
    """After the loss the place reads as empty, and delivering the same mint again fills it."""
    sink = build(tmp_path, receiver.url, verify=True)
    sink.deliver(place_of(sink), mint())
    receiver.store.unlink()
    with pytest.raises(NotFound):
        sink.read_back(place_of(sink))
    sink.deliver(place_of(sink), mint())
    assert sink.read_back(place_of(sink)).mint_id == "mint-1"


def test_the_grade_is_attested() -> None:
    """A policy that requires an attested preflight may use a webhook."""
    assert WEBHOOK.PREFLIGHT_GRADE is Grade.ATTESTED


# TLS and proxies


class Pki:
    """Certificates for one test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.ca = folder / "ca.pem"
        authority = self._signed(self._name, self._key, authority=True)
        self.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return certificate and key for a host on the loopback, or for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate, file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(self._signed(subject, key).public_bytes(serialization.Encoding.PEM))
        plain = serialization.NoEncryption()
        form = serialization.PrivateFormat.PKCS8
        file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
        return certificate, file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        names = [x509.DNSName("receiver.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if authority:
            made = made.add_extension(_SIGNING, critical=True)  # Python 3.13 asks authorities for it
        else:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
            made = made.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return made.sign(self._key, hashes.SHA256())


_SIGNING = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """One authority for all."""
    return Pki(tmp_path_factory.mktemp("pki"))


def server_side(pki: Pki, *, wants_certificate: bool = False) -> ssl.SSLContext:
    """Return the TLS of a receiver."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pki.issue("receiver"))
    if wants_certificate:
        context.load_verify_locations(pki.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_tls_is_verified_with_the_bundle(tmp_path: Path, pki: Pki) -> None:
    """With ca_bundle the receiver is trusted, without it nothing is sent."""
    with serving(Receiver(tmp_path / "store.json", KEYS), server_side(pki)) as receiver:
        trusting = build(tmp_path, receiver.url, ca_bundle=str(pki.ca))
        trusting.deliver(place_of(trusting), mint())
        assert receiver.held()["/#svc-airflow"]["secret"] == CANARY
        doubting = build(tmp_path, receiver.url)
        with raising_without_secret(Permanent, match="certificate is not trusted; check ca_bundle"):
            doubting.deliver(place_of(doubting), mint(OTHER, 2))
        other_name = build(tmp_path, receiver.url.replace("127.0.0.1", "localhost"), ca_bundle=str(pki.ca))
        with raising_without_secret(Permanent, match="certificate is not trusted"):
            other_name.deliver(place_of(other_name), mint(OTHER, 2))
        assert len(receiver.seen) == 1


def test_a_client_certificate_is_shown(tmp_path: Path, pki: Pki) -> None:
    """A receiver that wants one gets it; without it the delivery fails, and nothing is stored."""
    certificate, key = pki.issue("rotator")
    with serving(Receiver(tmp_path / "store.json", KEYS), server_side(pki, wants_certificate=True)) as receiver:
        files = {"ca_bundle": str(pki.ca), "client_certificate": str(certificate), "client_key": str(key)}
        sink = build(tmp_path, receiver.url, **files)
        sink.deliver(place_of(sink), mint())
        without = build(tmp_path, receiver.url, ca_bundle=str(pki.ca))
        with raising_without_secret(Permanent, OutcomeUnknown):
            without.deliver(place_of(without), mint(OTHER, 2))
        assert receiver.held()["/#svc-airflow"]["secret"] == CANARY


def test_a_renewed_certificate_is_followed(tmp_path: Path, pki: Pki) -> None:
    """The files are read again when they change, without a restart."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(Pki(tmp_path).ca.read_bytes())
    with serving(Receiver(tmp_path / "store.json", KEYS), server_side(pki)) as receiver:
        sink = build(tmp_path, receiver.url, ca_bundle="bundle.pem")
        with raising_without_secret(Permanent, match="not trusted"):
            sink.preflight(place_of(sink))
        bundle.write_bytes(pki.ca.read_bytes() + b"\n")
        sink.preflight(place_of(sink))


def test_pem_files_that_cannot_be_read_are_named(tmp_path: Path, pki: Pki) -> None:
    """A missing bundle, a certificate without its key and an encrypted key are said before anything is sent."""
    certificate, key = pki.issue("rotator")
    (tmp_path / "encrypted.key").write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"canary"),
        )
    )
    for files, message in (
        ({"ca_bundle": "missing.pem"}, "missing.pem cannot be read as PEM"),
        ({"client_certificate": str(certificate)}, "rotator.pem cannot be read"),
        ({"client_certificate": str(certificate), "client_key": "encrypted.key"}, "its unencrypted key"),
    ):
        sink = build(tmp_path, "https://127.0.0.1:9/", **files)
        with raising_without_secret(Permanent, match=message):
            sink.deliver(place_of(sink), mint())


def test_a_proxy_tunnels_and_never_sees_the_secret(tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configured proxy or HTTPS_PROXY is asked for a tunnel, with its password, and NO_PROXY goes around it."""
    with serving(Receiver(tmp_path / "store.json", KEYS), server_side(pki)) as receiver:
        port = urlsplit(receiver.url).port
        assert port is not None
        with proxying(Proxy(port)) as proxy:
            url = f"https://receiver.test:{port}/"
            sink = build(tmp_path, url, ca_bundle=str(pki.ca), proxy=proxy.url)
            sink.deliver(place_of(sink), mint())
            monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://me:pass%40word@"))
            by_environment = build(tmp_path, url, ca_bundle=str(pki.ca))
            by_environment.deliver(place_of(by_environment), mint(OTHER, 2))
            monkeypatch.setenv("NO_PROXY", "receiver.test")
            around = build(tmp_path, url, ca_bundle=str(pki.ca))
            with raising_without_secret(Temporary):
                around.preflight(place_of(around))
        assert receiver.held()["/#svc-airflow"]["secret"] == OTHER
        assert len(proxy.seen) == 2
        assert all(head.startswith(f"CONNECT receiver.test:{port} HTTP/1.".encode()) for head in proxy.seen)
        login = base64.b64encode(b"me:pass@word")
        assert [login in head for head in proxy.seen] == [False, True]
        assert not any(b"canary" in head or b"webhook" in head for head in proxy.seen)


def test_the_loopback_needs_no_proxy(tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy reaches our own machine, so none is asked to."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with serving(Receiver(tmp_path / "store.json", KEYS), server_side(pki)) as receiver:
        sink = build(tmp_path, receiver.url, ca_bundle=str(pki.ca))
        sink.preflight(place_of(sink))
        assert len(receiver.seen) == 1


def test_a_proxy_that_refuses_certainly_had_no_effect(tmp_path: Path) -> None:
    """Nothing went through, and nothing the proxy says is repeated."""
    with proxying(Proxy(9, refuses=True)) as proxy:
        sink = build(tmp_path, "https://receiver.test/", proxy=proxy.url)
        with raising_without_secret(Temporary, match="the proxy refused"):
            sink.deliver(place_of(sink), mint())


# Many at once


def test_no_descriptor_and_no_thread_is_left(tmp_path: Path, receiver: Receiver) -> None:
    """Neither successes nor failures keep a connection."""
    sink = build(tmp_path, receiver.url, timeout="0.2s")
    place = place_of(sink)
    sink.deliver(place, mint())
    time.sleep(0.2)
    before = len(os.listdir("/proc/self/fd"))
    for fault in (Fault(), Fault(500), Fault(how="reset"), Fault(how="cut"), Fault(how="garbage")):
        receiver.faults = [fault]
        try:
            sink.deliver(place, mint())
        except RotatorError:
            continue
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/fd")) <= before
    sink.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("webhook")]
