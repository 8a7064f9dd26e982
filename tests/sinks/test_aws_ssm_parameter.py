"""The Parameter Store sink: the shared contract for both formats, and what only parameters can suffer."""

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rotator import sinks
from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.model import Mint, Place
from rotator.secret import Secret
from tests.servers.aws import ENVIRONMENT, REGION, AwsServer, Fault, serving
from tests.sinks.contract import CANARY, OTHER, Harness, SinkContract, facts, mint, raising_without_secret

KIND = "aws_ssm_parameter"
MODULE: Any = sinks.load(KIND)
CALLS = ("GetParameter", "GetParameterHistory", "ListTagsForResource", "PutParameter", "AddTagsToResource")
READS = CALLS[:3]


@pytest.fixture(scope="module")
def running() -> Iterator[AwsServer]:
    """Run one server for all."""
    with serving() as server:
        yield server


@pytest.fixture
def aws(running: AwsServer, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """Return an empty AWS."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    running.clear()
    return running


def built(aws: AwsServer) -> Any:
    """Return the sink."""
    return MODULE.build("ssm", MODULE.Options(region=REGION, endpoint_url=aws.url, timeout="2s"), Path("/"))


@pytest.fixture
def sink(aws: AwsServer) -> Iterator[Any]:
    """Return one that is closed afterwards."""
    made = built(aws)
    yield made
    made.close()


@pytest.fixture
def client(aws: AwsServer) -> Iterator[Any]:
    """Return what a consumer or an operator has."""
    made = boto3.client("ssm", region_name=REGION, endpoint_url=aws.url)
    yield made
    made.close()


def place_of(sink: Any, name: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(MODULE.DeliveryOptions, block), facts(name=name))


def a_mint(secret: str = CANARY) -> Mint:
    """Return one with everything a mint can have."""
    return replace(mint(secret), id="0123456789abcdef0123456789abcdef", lineage="clroot1", fingerprint="k1:0badcafe")


def text_of(client: Any, name: str) -> str | None:
    """Return the value, decrypted."""
    try:
        return client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except client.exceptions.ParameterNotFound:
        return None


def put(client: Any, name: str, text: str, **more: object) -> None:
    """Put it as an operator does."""
    client.put_parameter(Name=name, Value=text, Overwrite=True, **{"Type": "SecureString", **more})


class ParameterHarness:
    """Parameter Store as consumer and operator have it."""

    kind = KIND
    largest_secret = 3600  # with fields, of the Standard tier

    def __init__(self, sink: Any, client: Any, aws: AwsServer, block: dict[str, object]) -> None:
        self.sink = sink
        self.block = block
        is_json = block.get("format") == "json"
        self.sibling = {**block, **({"fields": {"other": "{secret}"}} if is_json else {"name": "/{policy}/{name}-too"})}
        self._client = client
        self._aws = aws
        self._number = "1.50"

    def read(self, place: Place) -> str | None:
        """Get it decrypted."""
        name, _, key = place.location.partition("#")
        text = text_of(self._client, name)
        return text if text is None or not key else json.loads(text).get(key)

    def write(self, place: Place, secret: str) -> None:
        """Put it."""
        name, _, key = place.location.partition("#")
        put(self._client, name, json.dumps({key: secret}) if key else secret)

    def plant_neighbour(self, place: Place) -> None:
        """Put another key into the object, spelt so that parsing would change it, or another parameter."""
        name, _, key = place.location.partition("#")
        if key:
            text = text_of(self._client, name) or "{}"
            put(self._client, name, text.rstrip().rstrip("}") + (", " if text != "{}" else "") + '"neighbour":  1.50}')
        else:
            put(self._client, "/neighbour", "theirs")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at its bytes."""
        name, _, key = place.location.partition("#")
        text = text_of(self._client, name if key else "/neighbour") or ""
        return f'"neighbour":  {self._number}' in text if key else text == "theirs"

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take a permission away."""
        self._aws.denied.add("PutParameter")
        yield
        self._aws.denied.clear()

    def rebuilt(self) -> Any:
        """Build another."""
        return built(self._aws)

    def remove(self, place: Place) -> bool:
        """Delete the parameter."""
        self._client.delete_parameter(Name=place.location.partition("#")[0])
        return True

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Cut the connection after each write."""
        return self._failing(("PutParameter",), Fault(cut=True, after=True))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Cut the connection before each write."""
        return self._failing(("PutParameter",), Fault(cut=True))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Refuse every call."""
        return self._failing(CALLS, Fault("ThrottlingException"))

    def unreachable(self, place: Place) -> AbstractContextManager[None]:
        """Cut every connection: the port is kept, for the consumer reads from it afterwards."""
        return self._failing(CALLS, Fault(cut=True))

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """Fail what reads."""
        return self._failing(READS, Fault("InternalServerError", 500))

    @contextmanager
    def denied(self, place: Place) -> Iterator[None]:
        """Take every permission away."""
        self._aws.denied.update(CALLS)
        yield
        self._aws.denied.clear()

    @contextmanager
    def edited_meanwhile(self, place: Place) -> Iterator[None]:
        """Change the neighbour's number just before the put; beside a raw parameter there is nothing to edit."""
        name, _, key = place.location.partition("#")

        def edit() -> None:
            text = text_of(self._client, name) or ""
            self._number = "2.75"
            put(self._client, name, text.replace('"neighbour":  1.50', '"neighbour":  2.75'))

        if key:
            self._aws.before["PutParameter"].append(edit)
        yield
        assert not self._aws.before["PutParameter"]

    def calls(self) -> int:
        """Count them."""
        return len(self._aws.seen)

    @contextmanager
    def _failing(self, operations: tuple[str, ...], fault: Fault) -> Iterator[None]:
        for operation in operations:
            self._aws.fail(operation, *[fault] * 100)
        yield
        self._aws.faults.clear()


BLOCKS: dict[str, dict[str, object]] = {
    "json": {"name": "/{policy}/{name}", "format": "json", "fields": {"token": "{secret}", "until": "{end_at}"}},
    "raw": {"name": "/{policy}/{name}"},
}


class TestParameterSink(SinkContract):
    """The shared contract, for both formats."""

    @pytest.fixture(params=list(BLOCKS))
    def harness(self, request: pytest.FixtureRequest, aws: AwsServer, sink: Any, client: Any) -> Harness:
        """Return one over an empty account."""
        return ParameterHarness(sink, client, aws, BLOCKS[request.param])


# Options and names


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "a b"}, "must be letters, digits"),
        ({"name": "a/{name}"}, "must begin with a slash"),
        ({"name": "/a//{name}"}, "no empty level"),
        ({"name": "/a/{name}/"}, "no empty level"),
        ({"name": "/l" * 16}, "more than 15 levels"),
        ({"name": "aws-{name}"}, "aws or ssm"),
        ({"name": "/SSM/{name}"}, "aws or ssm"),
        ({"name": ""}, "must be letters, digits"),
        ({"tier": "Huge"}, "'Standard', 'Advanced' or 'Intelligent-Tiering'"),
        ({"fields": {"a": "{secret}"}}, 'need format = "json"'),
        ({"format": "json", "fields": {"a": "x{secret}"}}, r'exactly "\{secret\}"'),
    ],
)
def test_wrong_blocks_are_refused_at_load(block: dict[str, object], message: str) -> None:
    """Every mistake in a deliver block is a validation error with its fix."""
    with pytest.raises(ValidationError, match=message):
        sinks.checked(MODULE.DeliveryOptions, block)


def test_checked_options_can_be_checked_again() -> None:
    """What validation returns is valid; the default is a raw Standard parameter."""
    for block in ({}, *BLOCKS.values()):
        once = sinks.checked(MODULE.DeliveryOptions, block)
        assert sinks.checked(MODULE.DeliveryOptions, once) == once
    assert (once := sinks.checked(MODULE.DeliveryOptions, {}))["format"] == "raw"
    assert once["tier"] == "Standard"


@given(st.text(st.characters(codec=None, exclude_categories=()), min_size=1))
def test_every_name_is_one_that_aws_takes(name: str) -> None:
    """Whatever a token is called, its parameter has a legal name of two levels."""
    rendered = MODULE.NAMING.rendered(MODULE.NAMING.parse("/team/{name}"), facts(name=name))
    assert re.fullmatch(r"/team/[A-Za-z0-9_.-]{1,894}", rendered)


def test_a_name_that_aws_keeps_is_refused(sink: Any) -> None:
    """A token called aws-something has no parameter of that name, and is told what to write instead."""
    with pytest.raises(Permanent, match="/folder/"):
        place_of(sink, "AWS-prod")
    options = sinks.checked(MODULE.DeliveryOptions, {"name": "/astro/{name}"})
    assert sink.resolve(options, facts(name="AWS-prod")).location == "/astro/AWS-prod"


def test_fields_that_cannot_fit_have_no_place(sink: Any) -> None:
    """What would exceed the tier by itself is refused before anything is contacted."""
    block = {"format": "json", "fields": {"token": "{secret}", "note": "x" * 3000}}
    with pytest.raises(Permanent, match="tier = Advanced"):
        place_of(sink, **block)
    place_of(sink, **block, tier="Advanced")


def test_a_place_of_another_version_is_named(sink: Any) -> None:
    """A journalled place that cannot be understood is an error, not a guess."""
    with pytest.raises(Permanent, match="not compatible"):
        sink.deliver(Place("ssm", "svc", {"name": 5}), a_mint())


# Versions, neighbours and other writers


def test_the_version_is_that_of_the_parameter(sink: Any, client: Any) -> None:
    """Receipt and read back name the number that an operator sees in the console."""
    put(client, "svc", OTHER)
    place = place_of(sink, name="svc")
    assert sink.deliver(place, a_mint()).version == "2" == sink.read_back(place).version
    said = client.get_parameter(Name="svc")["Parameter"]
    assert (said["Version"], said["Type"]) == (2, "SecureString")


def test_a_change_that_was_replaced_is_merged_in(sink: Any, client: Any, aws: AwsServer) -> None:
    """Somebody wrote between our read and our put: the number shows it, and their key comes back."""
    put(client, "svc", '{"a": 1}')
    aws.before["PutParameter"].append(lambda: put(client, "svc", '{"a": 1, "theirs": 1.50}'))
    sink.deliver(place_of(sink, name="svc", format="json"), a_mint())
    text = text_of(client, "svc") or ""
    assert json.loads(text) == {"a": 1, "theirs": 1.5, "token": CANARY}
    assert '"theirs": 1.50' in text


def test_who_never_stops_is_said(sink: Any, client: Any, aws: AwsServer) -> None:
    """A writer that comes between every time leaves the outcome open, in so many words."""
    put(client, "svc", "{}")
    other = boto3.client("ssm", region_name=REGION, endpoint_url=aws.url)
    for number in range(8):  # every second put is that of the other, which comes through here too
        text = json.dumps({"n": number})
        aws.before["PutParameter"].append(lambda text=text: put(other, "svc", text))
        aws.before["PutParameter"].append(lambda: None)
    with raising_without_secret(OutcomeUnknown, match="kept changing"):
        sink.deliver(place_of(sink, name="svc", format="json"), a_mint())
    other.close()


def test_one_that_appears_meanwhile_is_not_overwritten_blindly(sink: Any, client: Any, aws: AwsServer) -> None:
    """A parameter that did not exist is made without overwriting: whoever was faster keeps their keys."""
    aws.before["PutParameter"].append(lambda: put(client, "svc", '{"theirs": 1.50}'))
    sink.deliver(place_of(sink, name="svc", format="json"), a_mint())
    assert json.loads(text_of(client, "svc") or "") == {"theirs": 1.5, "token": CANARY}


def test_what_is_equal_is_not_put(sink: Any, client: Any, aws: AwsServer) -> None:
    """Content that stands there is only read."""
    put(client, "svc", CANARY)
    sink.deliver(place_of(sink, name="svc", metadata=False), a_mint())
    assert len(aws.calls("PutParameter")) == 1


@pytest.mark.parametrize(
    ("text", "block", "message"),
    [
        ("not json", {"format": "json"}, "does not hold one JSON object"),
        ('{"a": 1}', {}, "would replace whole"),
        ('{"a": "' + "x" * 3000 + '"}', {"format": "json"}, "tier = Advanced"),
    ],
)
def test_what_would_be_lost_or_not_fit_is_refused(
    sink: Any, client: Any, text: str, block: dict[str, object], message: str
) -> None:
    """Content that cannot be merged, or leaves no room, is said before anything irreversible."""
    put(client, "svc", text)
    with raising_without_secret(Permanent, match=message):
        sink.preflight(place_of(sink, name="svc", **block))
    assert text_of(client, "svc") == text


def test_a_secret_too_long_for_its_tier_is_not_sent(sink: Any, client: Any, aws: AwsServer) -> None:
    """AWS would refuse it; we say which tier holds it, and that one does."""
    with raising_without_secret(Permanent, match="4096 bytes of its tier"):
        sink.deliver(place_of(sink, name="svc"), a_mint(CANARY * 100))
    assert not aws.calls("PutParameter")
    sink.deliver(place_of(sink, name="svc", tier="Advanced"), a_mint(CANARY * 100))
    assert text_of(client, "svc") == CANARY * 100


def test_a_plain_string_is_refused(sink: Any, client: Any) -> None:
    """A secret never goes into a parameter that is not encrypted."""
    put(client, "svc", OTHER, Type="String")
    for call in (sink.preflight, lambda place: sink.deliver(place, a_mint())):
        with raising_without_secret(Permanent, match="no SecureString"):
            call(place_of(sink, name="svc"))


# Preflight


@pytest.mark.parametrize("there", [False, True])
def test_preflight_changes_nothing(sink: Any, client: Any, aws: AwsServer, *, there: bool) -> None:
    """A put that cannot have an effect is tried, whether or not the parameter exists."""
    if there:
        put(client, "svc", OTHER)
    sink.preflight(place_of(sink, name="svc"))
    assert text_of(client, "svc") == (OTHER if there else None)
    assert len(aws.parameters["svc"] if there else []) == int(there)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("operation", ["GetParameter", "PutParameter"])
def test_each_missing_permission_is_found_before(
    sink: Any, client: Any, aws: AwsServer, operation: str, *, there: bool
) -> None:
    """Whatever permission a delivery would miss, preflight names the place and the fix."""
    if there:
        put(client, "svc", OTHER)
    aws.denied.add(operation)
    with raising_without_secret(Forbidden, match=r"svc: .*may not do this; allow it"):
        sink.preflight(place_of(sink, name="svc"))


def test_what_takes_a_forbidden_value_is_no_parameter_store(sink: Any, aws: AwsServer) -> None:
    """A service that accepts the put that must fail is not the one we think it is."""
    aws.fail("PutParameter", Fault(body=b'{"Version": 1}', status=200))
    with raising_without_secret(Permanent, match="no Parameter Store"):
        sink.preflight(place_of(sink, name="svc"))


def test_a_key_or_tier_that_would_change_is_refused(sink: Any, client: Any, aws: AwsServer) -> None:
    """A put without a key would go back to the default key, and Advanced cannot go back to Standard."""
    put(client, "keyed", OTHER, KeyId="alias/ours")
    with raising_without_secret(Permanent, match="name it in kms_key_id"):
        sink.preflight(place_of(sink, name="keyed"))
    sink.preflight(place_of(sink, name="keyed", kms_key_id="alias/ours"))
    put(client, "large", OTHER, Tier="Advanced")
    with raising_without_secret(Permanent, match="set tier = Advanced"):
        sink.preflight(place_of(sink, name="large"))
    sink.preflight(place_of(sink, name="large", tier="Advanced"))
    aws.denied.add("GetParameterHistory")
    sink.preflight(place_of(sink, name="large"))


def test_the_latest_of_a_long_history_counts(sink: Any, client: Any) -> None:
    """The history comes in pages, oldest first."""
    for _ in range(60):
        put(client, "svc", OTHER)
    put(client, "svc", OTHER, KeyId="alias/ours")
    with raising_without_secret(Permanent, match="name it in kms_key_id"):
        sink.preflight(place_of(sink, name="svc"))


def test_key_and_tier_are_sent(sink: Any, client: Any, aws: AwsServer) -> None:
    """What the block says of key and tier reaches every put."""
    sink.deliver(place_of(sink, name="svc", kms_key_id="alias/ours", tier="Intelligent-Tiering"), a_mint())
    sent = [seen.parameters for seen in aws.seen if seen.operation == "PutParameter"]
    assert (sent[0]["KeyId"], sent[0]["Tier"], sent[0]["Type"]) == ("alias/ours", "Intelligent-Tiering", "SecureString")


# Tags


def test_tags_say_which_mint_without_the_secret(sink: Any, client: Any, aws: AwsServer) -> None:
    """Ids, time and keyed fingerprint stand in one tag, beside the operator's own; denied, they are left out."""
    sink.deliver(place_of(sink, name="svc", tags={"team": "data"}), a_mint())
    listed = client.list_tags_for_resource(ResourceType="Parameter", ResourceId="svc")["TagList"]
    tags = {tag["Key"]: tag["Value"] for tag in listed}
    assert set(tags) == {"team", "rotator"}
    assert "token=cltoken1 lineage=clroot1" in tags["rotator"]
    aws.denied |= {"AddTagsToResource", "ListTagsForResource"}
    assert sink.deliver(place_of(sink, name="svc"), a_mint(OTHER)).version == "2"


# Failures


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("ThrottlingException", 400), Throttled),
        (Fault("AccessDeniedException", 400), Forbidden),
        (Fault("ExpiredTokenException", 400), CredentialRejected),
        (Fault("InvalidKeyId", 400), Permanent),
        (Fault("ParameterMaxVersionLimitExceeded", 400), Permanent),
        (Fault("TooManyUpdates", 400), Temporary),
        (Fault("InternalServerError", 500), OutcomeUnknown),
        (Fault(body=b"<html>canary</html>", status=502), OutcomeUnknown),
        (Fault(hang_s=3.0), OutcomeUnknown),
        (Fault(hang_s=3.0, after=True), OutcomeUnknown),
        (Fault(cut=True), OutcomeUnknown),
        (Fault(cut=True, after=True), OutcomeUnknown),
    ],
)
def test_a_put_that_fails_can_be_repeated(aws: AwsServer, client: Any, fault: Fault, kind: type[RotatorError]) -> None:
    """Each failure says whether it may have happened, no put is resent by reflex, and the next delivery arrives."""
    sink = MODULE.build("ssm", MODULE.Options(region=REGION, endpoint_url=aws.url, timeout="0.5s"), Path("/"))
    put(client, "svc", '{"theirs": 1.50}')
    place = place_of(sink, name="svc", format="json")
    aws.fail("PutParameter", fault)
    with raising_without_secret(kind, match="svc#token: ") as caught:
        sink.deliver(place, a_mint())
    assert type(caught.value) is kind
    assert len(aws.calls("PutParameter")) == 2  # the operator's and ours
    assert sink.deliver(place, a_mint()).version == "2"
    assert (text_of(client, "svc") or "").startswith('{"theirs": 1.50')
    sink.close()


@pytest.mark.parametrize("theirs", ["edited", "old"])
def test_a_neighbour_that_changed_beside_our_own_late_put_stays(
    sink: Any, client: Any, aws: AwsServer, theirs: str
) -> None:
    """Our unanswered put arrives late and a person edits, or reverts, a key: ours would replace it, and puts it back.

    What came between holds our value already, so only the neighbour says that it must be written once more.
    """
    place = place_of(sink, name="svc", format="json")
    put(client, "svc", json.dumps({"token": OTHER, "theirs": "now"}))

    def between() -> None:
        put(client, "svc", json.dumps({"token": CANARY, "theirs": "now"}))
        put(client, "svc", json.dumps({"token": CANARY, "theirs": theirs}))

    aws.before["PutParameter"].append(between)
    receipt = sink.deliver(place, a_mint())
    assert json.loads(text_of(client, "svc") or "") == {"token": CANARY, "theirs": theirs}
    held = sink.read_back(place)
    assert (held.secret, held.version) == (Secret(CANARY), receipt.version)


@pytest.mark.parametrize("body", [b"<html>theirs</html>", b"{}"])
def test_a_success_that_is_none_of_awss_is_no_delivery(sink: Any, client: Any, aws: AwsServer, body: bytes) -> None:
    """A page that a proxy answers with 200 proves no put: it is open, and the next delivery arrives."""
    put(client, "svc", OTHER)
    place = place_of(sink, name="svc")
    aws.fail("PutParameter", Fault(body=body, status=200))
    with raising_without_secret(OutcomeUnknown, match="is a proxy"):
        sink.deliver(place, a_mint())
    assert text_of(client, "svc") == OTHER
    sink.deliver(place, a_mint())
    assert text_of(client, "svc") == CANARY


def test_a_read_whose_connection_breaks_is_repeated(sink: Any, client: Any, aws: AwsServer) -> None:
    """Reads change nothing, so one broken connection is not even seen."""
    put(client, "svc", OTHER)
    aws.fail("GetParameter", Fault(cut=True))
    assert sink.read_back(place_of(sink, name="svc")).secret == Secret(OTHER)


def test_a_failed_read_is_never_nothing(sink: Any, client: Any, aws: AwsServer) -> None:
    """A proxy's 404 or an error page with 200 is not AWS saying that there is no parameter."""
    for fault in (Fault(body=b"canary: no such page", status=404), Fault(body=b"<html>canary</html>", status=200)):
        aws.fail("GetParameter", fault)
        with raising_without_secret(Temporary, Permanent) as caught:
            sink.read_back(place_of(sink, name="svc"))
        assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("body", [b"{}", b'{"Parameter": null}', b'{"Parameter": {"Value": 5, "Version": 1}}', b"[]"])
def test_an_answer_that_makes_no_sense_is_temporary(sink: Any, client: Any, aws: AwsServer, body: bytes) -> None:
    """Something answers 200 in the place of AWS: nothing is concluded, nothing written, nothing shown."""
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, a_mint())):
        aws.fail("GetParameter", Fault(body=body, status=200))
        with raising_without_secret(Temporary, match="svc: "):
            call(place_of(sink, name="svc"))
    assert not aws.calls("PutParameter")
