"""The Secrets Manager sink: the shared contract for both formats, and what only Secrets Manager can suffer."""

import json
import logging
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
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

KIND = "aws_secrets_manager"
MODULE: Any = sinks.load(KIND)
ID = "0123456789abcdef0123456789abcdef"
WRITES = ("PutSecretValue", "CreateSecret", "UpdateSecretVersionStage")
READS = ("GetSecretValue", "DescribeSecret")


@pytest.fixture(scope="module")
def running() -> Iterator[AwsServer]:
    """Run one server for all."""
    with serving() as server:
        yield server


@pytest.fixture
def aws(running: AwsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsServer]:
    """Return an empty AWS; afterwards every secret in it has exactly one current version."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    running.clear()
    yield running
    assert set(running.currents().values()) <= {1}


def build(aws: AwsServer, **options: object) -> Any:
    """Return the sink."""
    given = {"region": REGION, "endpoint_url": aws.url, "timeout": "2s", **options}
    return MODULE.build("sm", MODULE.Options(**given), Path("/"))


@pytest.fixture
def sink(aws: AwsServer) -> Iterator[Any]:
    """Return one that is closed afterwards."""
    made = build(aws)
    yield made
    made.close()


@pytest.fixture
def client(aws: AwsServer) -> Iterator[Any]:
    """Return what a consumer or an operator has."""
    made = boto3.client("secretsmanager", region_name=REGION, endpoint_url=aws.url)
    yield made
    made.close()


def place_of(sink: Any, name: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(MODULE.DeliveryOptions, block), facts(name=name))


def a_mint(secret: str = CANARY, id: str = ID) -> Mint:  # noqa: A002
    """Return one with an id as the engine makes them."""
    return replace(mint(secret), id=id, lineage="clroot1", fingerprint="k1:0badcafe")


class SecretsHarness:
    """Secrets Manager as consumer and operator have it."""

    kind = KIND

    def __init__(self, sink: Any, client: Any, aws: AwsServer, block: dict[str, object]) -> None:
        self.sink = sink
        self.block = block
        is_raw = block.get("format") == "raw"
        self.sibling = {**block, **({"name": "{policy}/{name}-too"} if is_raw else {"fields": {"other": "{secret}"}})}
        self._client = client
        self._aws = aws
        self._number = "1.50"

    def read(self, place: Place) -> str | None:
        """Get the current version."""
        name, _, key = place.location.partition("#")
        text = self._text(name)
        return text if text is None or not key else json.loads(text).get(key)

    def write(self, place: Place, secret: str) -> None:
        """Put a version."""
        name, _, key = place.location.partition("#")
        self._put(name, json.dumps({key: secret}) if key else secret)

    def plant_neighbour(self, place: Place) -> None:
        """Put another key into the object, spelt so that parsing would change it, or another secret."""
        name, _, key = place.location.partition("#")
        if key:
            text = self._text(name) or "{}"
            self._put(name, text.rstrip().rstrip("}") + (", " if text != "{}" else "") + '"neighbour":  1.50}')
        else:
            self._put("neighbour", "theirs")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at its bytes."""
        name, _, key = place.location.partition("#")
        text = self._text(name if key else "neighbour") or ""
        return f'"neighbour":  {self._number}' in text if key else text == "theirs"

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take a permission away."""
        self._aws.denied.add("PutSecretValue")
        yield
        self._aws.denied.clear()

    def rebuilt(self) -> Any:
        """Build another."""
        return build(self._aws)

    def remove(self, place: Place) -> bool:
        """Delete the whole secret for good."""
        self._client.delete_secret(SecretId=place.location.partition("#")[0], ForceDeleteWithoutRecovery=True)
        return True

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Cut the connection after each write."""
        return self._failing(WRITES, Fault(cut=True, after=True))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Cut the connection before each write."""
        return self._failing(WRITES, Fault(cut=True))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Refuse every call."""
        return self._failing((*READS, *WRITES), Fault("ThrottlingException"))

    def unreachable(self, place: Place) -> AbstractContextManager[None]:
        """Cut every connection: the port is kept, for the consumer reads from it afterwards."""
        return self._failing((*READS, *WRITES), Fault(cut=True))

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """Fail what reads."""
        return self._failing(READS, Fault("InternalServiceError", 500))

    @contextmanager
    def denied(self, place: Place) -> Iterator[None]:
        """Take every permission away."""
        self._aws.denied.update((*READS, *WRITES))
        yield
        self._aws.denied.clear()

    @contextmanager
    def edited_meanwhile(self, place: Place) -> Iterator[None]:
        """Change the neighbour's number just before the label moves; beside a raw secret there is nothing to edit."""
        name, _, key = place.location.partition("#")

        def edit() -> None:
            text = self._text(name) or ""
            self._number = "2.75"
            self._put(name, text.replace('"neighbour":  1.50', '"neighbour":  2.75'))

        if key:
            self._aws.before["UpdateSecretVersionStage"].append(edit)
        yield
        assert not self._aws.before["UpdateSecretVersionStage"]

    def calls(self) -> int:
        """Count them."""
        return len(self._aws.seen)

    @contextmanager
    def _failing(self, operations: tuple[str, ...], fault: Fault) -> Iterator[None]:
        for operation in operations:
            self._aws.fail(operation, *[fault] * 100)
        yield
        self._aws.faults.clear()

    def _text(self, name: str) -> str | None:
        try:
            return self._client.get_secret_value(SecretId=name)["SecretString"]
        except self._client.exceptions.ResourceNotFoundException:
            return None

    def _put(self, name: str, text: str) -> None:
        try:
            self._client.put_secret_value(SecretId=name, SecretString=text)
        except self._client.exceptions.ResourceNotFoundException:
            self._client.create_secret(Name=name, SecretString=text)


BLOCKS: dict[str, dict[str, object]] = {
    "json": {"name": "{policy}/{name}", "create": True, "fields": {"token": "{secret}", "until": "{end_at}"}},
    "raw": {"name": "{policy}/{name}", "create": True, "format": "raw"},
}


class TestSecretsManagerSink(SinkContract):
    """The shared contract, for both formats."""

    @pytest.fixture(params=list(BLOCKS))
    def harness(self, request: pytest.FixtureRequest, aws: AwsServer, sink: Any, client: Any) -> Harness:
        """Return one over an empty account."""
        return SecretsHarness(sink, client, aws, BLOCKS[request.param])


# Options and names


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"name": "a b"}, "must be letters, digits"),
        ({"name": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x"}, "an ARN is none"),
        ({"name": ""}, "must be letters, digits"),
        ({"name": "{nam}"}, r"did you mean \{name\}"),
        ({"name": "x" * 500 + "{name}"}, "is too long"),
        ({"format": "raw", "fields": {"a": "{secret}"}}, 'need format = "json"'),
        ({"fields": {"a": "Bearer {secret}"}}, r'exactly "\{secret\}"'),
        ({"format": "env"}, "'json' or 'raw'"),
        ({"kms_key_id": "a b"}, "should match pattern"),
        ({"tags": {"a": "!"}}, "make a tag"),
        ({"tags": {"rotator:x": "a"}}, "kept for AWS or rotator"),
        ({"create": "perhaps"}, "boolean"),
    ],
)
def test_wrong_blocks_are_refused_at_load(block: dict[str, object], message: str) -> None:
    """Every mistake in a deliver block is a validation error with its fix."""
    with pytest.raises(ValidationError, match=message):
        sinks.checked(MODULE.DeliveryOptions, block)


def test_checked_options_can_be_checked_again() -> None:
    """What validation returns is valid, and the defaults create nothing."""
    for block in ({}, *BLOCKS.values()):
        once = sinks.checked(MODULE.DeliveryOptions, block)
        assert sinks.checked(MODULE.DeliveryOptions, once) == once
    assert sinks.checked(MODULE.DeliveryOptions, {})["create"] is False


@given(st.text(st.characters(codec=None, exclude_categories=()), min_size=1))
def test_every_name_is_one_that_aws_takes(name: str) -> None:
    """Whatever a token is called, its secret has a legal name and no path of its own making."""
    rendered = MODULE.NAMING.rendered(MODULE.NAMING.parse("team/{name}"), facts(name=name))
    assert re.fullmatch(r"team/[A-Za-z0-9_+=.@-]{1,507}", rendered)


def test_a_place_claims_each_key_and_says_its_reference(sink: Any) -> None:
    """Two fields are two claims, and the reference reads exactly the secret among them."""
    place = place_of(sink, name="svc", fields={"until": "{end_at}", "token": "{secret}"})
    assert place.parts == ("svc#token", "svc#until")
    assert (place.location, place.reference) == ("svc#token", "aws:svc#token")
    raw = place_of(sink, name="svc", format="raw")
    assert (raw.location, raw.reference, raw.parts) == ("svc", "aws:svc", ())


def test_a_place_of_another_version_is_named(sink: Any) -> None:
    """A journalled place that cannot be understood is an error, not a guess."""
    with pytest.raises(Permanent, match="not compatible"):
        sink.deliver(Place("sm", "svc", {"name": 5}), a_mint())


# Versions


def test_a_version_is_named_by_its_mint_and_the_last_is_kept(sink: Any, client: Any, aws: AwsServer) -> None:
    """The version id is the mint id, AWSCURRENT is on it alone, AWSPREVIOUS on the one before."""
    old = client.create_secret(Name="svc", SecretString='{"a": 1.50}')["VersionId"]
    place = place_of(sink, name="svc")
    assert sink.deliver(place, a_mint()).version == ID
    assert aws.staged("svc")[old] == ["AWSPREVIOUS"]
    assert set(aws.staged("svc")[ID]) == {"rotator", "AWSCURRENT"}
    assert client.get_secret_value(SecretId="svc", VersionStage="AWSPREVIOUS")["SecretString"] == '{"a": 1.50}'


def test_a_version_names_the_mint_of_no_other_key(sink: Any) -> None:
    """The version is named after who wrote last: that is the mint of a key only while no other stands beside it."""
    place, beside = (place_of(sink, name="shared", create=True, fields={key: "{secret}"}) for key in ("a", "b"))
    sink.deliver(place, a_mint())
    assert sink.read_back(place).mint_id == ID
    sink.deliver(beside, a_mint(OTHER, ID[::-1]))
    assert [sink.read_back(one).mint_id for one in (place, beside)] == ["", ""]


def test_versions_of_many_mints_have_one_current(sink: Any, client: Any, aws: AwsServer) -> None:
    """Rotation after rotation, also with an operator's puts between, one version is current."""
    client.create_secret(Name="svc", SecretString="{}")
    place = place_of(sink, name="svc")
    for number in range(5):
        sink.deliver(place, a_mint(f"{CANARY}{number}", uuid.uuid4().hex))
        assert aws.currents() == {"svc": 1}
        client.put_secret_value(SecretId="svc", SecretString=json.dumps({"n": number}))
        assert aws.currents() == {"svc": 1}


def test_a_value_that_was_edited_back_is_written_again(sink: Any, client: Any, aws: AwsServer) -> None:
    """Somebody puts the old content back: the version of the mint becomes current again, without a second one."""
    old = client.create_secret(Name="svc", SecretString='{"token": "old"}')["VersionId"]
    place = place_of(sink, name="svc")
    sink.deliver(place, a_mint())
    client.update_secret_version_stage(
        SecretId="svc", VersionStage="AWSCURRENT", MoveToVersionId=old, RemoveFromVersionId=ID
    )
    assert sink.read_back(place).secret == Secret("old")
    assert sink.deliver(place, a_mint()).version == ID
    assert len(aws.staged("svc")) == 2


def test_a_mint_whose_neighbours_changed_gets_another_version(sink: Any, client: Any, aws: AwsServer) -> None:
    """The id of the mint is taken by another content: the version is named by mint and base, the same at each try."""
    client.create_secret(Name="svc", SecretString="{}")
    place = place_of(sink, name="svc")
    sink.deliver(place, a_mint())
    base = client.put_secret_value(SecretId="svc", SecretString='{"token": "edited", "more": 1}')["VersionId"]
    second = sink.deliver(place, a_mint()).version
    assert second not in (ID, base)
    assert json.loads(client.get_secret_value(SecretId="svc")["SecretString"]) == {"token": CANARY, "more": 1}
    client.update_secret_version_stage(
        SecretId="svc", VersionStage="AWSCURRENT", MoveToVersionId=base, RemoveFromVersionId=second
    )
    assert sink.deliver(place, a_mint()).version == second


def test_a_version_that_was_staged_before_a_crash_is_used(sink: Any, client: Any, aws: AwsServer) -> None:
    """A process died after the put: the next delivery only moves AWSCURRENT."""
    client.create_secret(Name="svc", SecretString="{}")
    place = place_of(sink, name="svc")
    aws.fail("UpdateSecretVersionStage", *[Fault(cut=True)] * 2)
    with raising_without_secret(OutcomeUnknown):
        sink.deliver(place, a_mint())
    assert client.get_secret_value(SecretId="svc")["SecretString"] == "{}"
    assert sink.deliver(place, a_mint()).version == ID
    assert len(aws.staged("svc")) == 2


def test_what_is_equal_is_not_put(sink: Any, client: Any, aws: AwsServer) -> None:
    """The quota of versions is spared: content that stands there is only read."""
    client.create_secret(Name="svc", SecretString=json.dumps({"token": CANARY}))
    sink.deliver(place_of(sink, name="svc", metadata=False), a_mint())
    assert not aws.calls(*WRITES, "TagResource")[1:]  # the first made it


def test_a_secret_without_a_version_gets_its_first(sink: Any, client: Any, aws: AwsServer) -> None:
    """A secret that infrastructure as code made without a value is filled, without the right to create."""
    client.create_secret(Name="svc")
    place = place_of(sink, name="svc")
    sink.preflight(place)
    assert sink.deliver(place, a_mint()).version == ID
    assert sink.read_back(place).secret == Secret(CANARY)


def test_creating_is_opt_in(sink: Any, client: Any, aws: AwsServer) -> None:
    """A name that does not exist is most likely misspelt, so without create it is refused before and at the write."""
    place = place_of(sink, name="svc")
    for call in (sink.preflight, lambda place: sink.deliver(place, a_mint())):
        with raising_without_secret(Permanent, match="create = true"):
            call(place)
    assert not aws.calls(*WRITES)


def test_a_created_secret_has_key_and_tags(sink: Any, client: Any, aws: AwsServer) -> None:
    """What the block says of a new secret is set with it, in one call."""
    place = place_of(sink, name="svc", create=True, kms_key_id="alias/astro", tags={"team": "data"})
    sink.preflight(place)
    sink.deliver(place, a_mint())
    said = client.describe_secret(SecretId="svc")
    assert said["KmsKeyId"] == "alias/astro"
    assert {tag["Key"] for tag in said["Tags"]} == {"team", "rotator:token"}
    assert "TagResource" not in aws.calls()


# Neighbours and other writers


def test_somebody_faster_loses_nothing(sink: Any, client: Any, aws: AwsServer) -> None:
    """A change between our read and our move is kept: we merge anew from it."""
    client.create_secret(Name="svc", SecretString='{"a": 1}')
    aws.before["UpdateSecretVersionStage"].append(
        lambda: client.put_secret_value(SecretId="svc", SecretString='{"a": 1, "theirs": 1.50}')
    )
    place = place_of(sink, name="svc")
    receipt = sink.deliver(place, a_mint())
    text = client.get_secret_value(SecretId="svc")["SecretString"]
    assert json.loads(text) == {"a": 1, "theirs": 1.5, "token": CANARY}
    assert '"theirs": 1.50' in text
    assert sink.read_back(place).version == receipt.version


def test_who_never_stops_is_left_alone(sink: Any, client: Any, aws: AwsServer) -> None:
    """A writer that is always faster keeps its value, and we say so."""
    client.create_secret(Name="svc", SecretString="{}")
    for number in range(10):
        text = json.dumps({"n": number})
        aws.before["UpdateSecretVersionStage"].append(
            lambda text=text: client.put_secret_value(SecretId="svc", SecretString=text)
        )
    with raising_without_secret(Temporary, match="kept changing"):
        sink.deliver(place_of(sink, name="svc"), a_mint())
    assert "n" in json.loads(client.get_secret_value(SecretId="svc")["SecretString"])


def test_two_tokens_share_one_secret(sink: Any, client: Any, aws: AwsServer) -> None:
    """Two lineages that write keys of one object at the same time both arrive."""
    client.create_secret(Name="all", SecretString='{"neighbour": 1.50}')
    places = [place_of(sink, name="all", fields={f"k{n}": "{secret}"}) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: sink.deliver(places[n], a_mint(f"{CANARY}{n}", uuid.uuid4().hex)), range(3)))
    text = client.get_secret_value(SecretId="all")["SecretString"]
    assert json.loads(text) == {"neighbour": 1.5, **{f"k{n}": f"{CANARY}{n}" for n in range(3)}}
    assert '"neighbour": 1.50' in text


@pytest.mark.parametrize(
    ("text", "block", "message"),
    [
        ("not json", {}, "does not hold one JSON object"),
        ("[1]", {}, "does not hold one JSON object"),
        ('{"a": 1} trailing', {}, "does not hold one JSON object"),
        ('{"a": 1}', {"format": "raw"}, "would replace whole"),
        ('{"a": "' + "x" * 65000 + '"}', {}, "more than 65536 bytes"),
    ],
)
def test_what_would_be_lost_or_not_fit_is_refused(
    sink: Any, client: Any, aws: AwsServer, text: str, block: dict[str, object], message: str
) -> None:
    """Content that cannot be merged is never taken for empty, and said before anything irreversible."""
    client.create_secret(Name="svc", SecretString=text)
    with raising_without_secret(Permanent, match=message):
        sink.preflight(place_of(sink, name="svc", **block))
    if "bytes" not in message:
        with raising_without_secret(Permanent, match=message):
            sink.deliver(place_of(sink, name="svc", **block), a_mint())
    assert client.get_secret_value(SecretId="svc")["SecretString"] == text


def test_binary_content_is_refused(sink: Any, client: Any) -> None:
    """A secret that holds bytes is somebody else's."""
    client.create_secret(Name="svc", SecretBinary=b"\x00")
    for format_ in ("json", "raw"):
        with pytest.raises(Permanent, match="binary"):
            sink.preflight(place_of(sink, name="svc", format=format_))


# Preflight


def test_preflight_changes_nothing(sink: Any, client: Any, aws: AwsServer) -> None:
    """Both write operations are asked, and versions and labels are as before."""
    client.create_secret(Name="svc", SecretString='{"token": "old"}')
    before = aws.staged("svc")
    sink.preflight(place_of(sink, name="svc"))
    assert aws.staged("svc") == before
    assert aws.calls("PutSecretValue", "UpdateSecretVersionStage") == ["PutSecretValue", "UpdateSecretVersionStage"]


@pytest.mark.parametrize(
    "operation", ["DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"]
)
def test_each_missing_permission_is_found_before(sink: Any, client: Any, aws: AwsServer, operation: str) -> None:
    """Whatever permission a delivery would miss, preflight names the place and the fix."""
    client.create_secret(Name="svc", SecretString="{}")
    aws.denied.add(operation)
    with raising_without_secret(Forbidden, match=r"svc#token: .*may not do this; allow it"):
        sink.preflight(place_of(sink, name="svc"))


def test_a_secret_in_the_bin_is_refused(sink: Any, client: Any) -> None:
    """A secret that is scheduled for deletion is said with how to restore it."""
    client.create_secret(Name="svc", SecretString="{}")
    client.delete_secret(SecretId="svc", RecoveryWindowInDays=7)
    with raising_without_secret(Permanent, match="restore-secret"):
        sink.preflight(place_of(sink, name="svc"))
    with raising_without_secret(Permanent, match="restore"):
        sink.deliver(place_of(sink, name="svc"), a_mint())


def test_what_others_run_is_refused(sink: Any, client: Any, aws: AwsServer) -> None:
    """A secret that a service owns, that rotates by itself, or is a replica, would fight us."""
    client.create_secret(Name="svc", SecretString="{}")
    secret = aws.secrets["svc"]
    secret.rotation_requested = secret.rotation_enabled = True
    with pytest.raises(Permanent, match="cancel-rotate-secret"):
        sink.preflight(place_of(sink, name="svc"))
    secret.rotation_requested = secret.rotation_enabled = False
    secret.tags = [{"Key": "aws:secretsmanager:owningService", "Value": "rds"}]
    with pytest.raises(Permanent, match="run by the AWS service rds"):
        sink.preflight(place_of(sink, name="svc"))


@pytest.mark.parametrize(
    ("found", "wanted", "refused"),
    [
        ("alias/a", "alias/b", True),
        ("alias/a", "alias/a", False),
        ("", "alias/a", False),
        ("", "1234", True),
        ("arn:aws:kms:eu-west-1:123456789012:key/1234", "1234", False),
        ("arn:aws:kms:eu-west-1:123456789012:key/1234", "5678", True),
    ],
)
def test_another_key_is_refused(
    sink: Any, client: Any, aws: AwsServer, found: str, wanted: str, *, refused: bool
) -> None:
    """A secret whose key is certainly not the one that the block names is refused; an alias may be any."""
    client.create_secret(Name="svc", SecretString="{}", **({"KmsKeyId": found} if found else {}))
    place = place_of(sink, name="svc", kms_key_id=wanted)
    if not refused:
        sink.preflight(place)
        return
    with pytest.raises(Permanent, match="another key than kms_key_id"):
        sink.preflight(place)


def test_a_failed_replica_is_said_on_demand(sink: Any, client: Any, aws: AwsServer) -> None:
    """With replica_check a replica that failed holds the rotation back, and the delivery open."""
    other = boto3.client("secretsmanager", region_name="us-east-1", endpoint_url=aws.url)
    other.create_secret(Name="svc", SecretString="in the way")
    other.close()
    client.create_secret(Name="svc", SecretString="{}", AddReplicaRegions=[{"Region": "us-east-1"}])
    place = place_of(sink, name="svc", replica_check=True)
    for call in (sink.preflight, lambda place: sink.deliver(place, a_mint())):
        with raising_without_secret(Temporary, match="us-east-1 has failed"):
            call(place)
    sink.preflight(place_of(sink, name="svc"))


# Tags


def test_tags_say_which_mint_without_the_secret(sink: Any, client: Any, aws: AwsServer) -> None:
    """Ids, time and keyed fingerprint stand in one tag a key, beside the operator's own."""
    client.create_secret(Name="svc", SecretString="{}", Tags=[{"Key": "theirs", "Value": "x"}])
    sink.deliver(place_of(sink, name="svc", tags={"team": "data"}), a_mint())
    tags = {tag["Key"]: tag["Value"] for tag in client.describe_secret(SecretId="svc")["Tags"]}
    assert tags == {
        "theirs": "x",
        "team": "data",
        "rotator:token": f"mint={ID} token=cltoken1 lineage=clroot1 rotated=2026-03-05T05:06:07.890Z "
        "fingerprint=k1:0badcafe",
    }


def test_tags_that_are_not_allowed_are_left_out(sink: Any, client: Any, aws: AwsServer) -> None:
    """Metadata is a service to people: without the right to tag, the delivery still succeeds."""
    client.create_secret(Name="svc", SecretString="{}")
    aws.denied.add("TagResource")
    assert sink.deliver(place_of(sink, name="svc"), a_mint()).version == ID


def test_tags_that_a_crash_left_out_are_made_up_for(sink: Any, client: Any, aws: AwsServer) -> None:
    """A delivery that finds its content there still says in the tags what it is."""
    client.create_secret(Name="svc", SecretString="{}")
    aws.fail("TagResource", Fault(code="InternalServiceError", status=500))
    place = place_of(sink, name="svc")
    sink.deliver(place, a_mint())
    sink.deliver(place, a_mint())
    sink.deliver(place, a_mint())
    assert len(aws.calls("TagResource")) == 2


# References


def test_a_reference_reads_a_key_or_all_of_it(sink: Any, client: Any) -> None:
    """`name#key` yields the key of the object, `name` the plain string, exactly as a delivery wrote it."""
    client.create_secret(Name="all", SecretString='{"token": "' + CANARY + '", "n": 1}')
    client.create_secret(Name="plain", SecretString=OTHER)
    assert sink.secret_at("all#token") == Secret(CANARY)
    assert sink.secret_at("plain") == Secret(OTHER)
    place = place_of(sink, name="made", create=True)
    sink.deliver(place, a_mint())
    assert sink.secret_at(place.reference.removeprefix("aws:")) == Secret(CANARY)


@pytest.mark.parametrize("place", ["nothing", "all#nothing", "empty#a", "text#key"])
def test_a_reference_to_nothing_is_not_found(sink: Any, client: Any, place: str) -> None:
    """Whoever reads an unset reference learns which."""
    for name, text in (("all", "{}"), ("empty", '{"a": ""}'), ("text", "plain")):
        client.create_secret(Name=name, SecretString=text)
    with raising_without_secret(NotFound, match=place):
        sink.secret_at(place)


# Failures


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault("ThrottlingException", 400), Throttled),
        (Fault("AccessDeniedException", 400), Forbidden),
        (Fault("ExpiredTokenException", 400), CredentialRejected),
        (Fault("UnrecognizedClientException", 400), CredentialRejected),
        (Fault("EncryptionFailure", 400), Permanent),
        (Fault("LimitExceededException", 400), Permanent),
        (Fault("InternalServiceError", 500), OutcomeUnknown),
        (Fault("SomethingNew", 418), Permanent),
        (Fault("SomethingNew", 503), OutcomeUnknown),
        (Fault(body=b"<html>canary</html>", status=502), OutcomeUnknown),
        (Fault(body=b"<html>canary</html>", status=403), Forbidden),
        (Fault(hang_s=3.0), OutcomeUnknown),
        (Fault(hang_s=3.0, after=True), OutcomeUnknown),
    ],
)
@pytest.mark.parametrize("operation", ["PutSecretValue", "UpdateSecretVersionStage"])
def test_a_write_that_fails_can_be_repeated(
    aws: AwsServer, client: Any, operation: str, fault: Fault, kind: type[RotatorError]
) -> None:
    """Each failure says whether it may have happened, shows nothing of AWS, and the next delivery arrives whole."""
    sink = build(aws, timeout="0.5s")
    client.create_secret(Name="svc", SecretString='{"theirs": 1.50}')
    place = place_of(sink, name="svc")
    aws.fail(operation, fault)
    with raising_without_secret(kind, match="svc#token: ") as caught:
        sink.deliver(place, a_mint())
    assert type(caught.value) is kind
    assert sink.deliver(place, a_mint()).version == ID
    assert client.get_secret_value(SecretId="svc")["SecretString"].startswith('{"theirs": 1.50')
    assert len(aws.staged("svc")) == 2
    sink.close()


@pytest.mark.parametrize("body", [b"<html>theirs</html>", b"{}", b'{"Name": "svc"}'])
@pytest.mark.parametrize("operation", WRITES)
def test_a_success_that_is_none_of_awss_is_no_delivery(
    sink: Any, client: Any, aws: AwsServer, operation: str, body: bytes
) -> None:
    """A page that a proxy answers with 200 proves no write: it is open, and the next delivery arrives."""
    place = place_of(sink, name="svc", create=True)
    if operation != "CreateSecret":
        client.create_secret(Name="svc", SecretString='{"theirs": 1.50}')
    aws.fail(operation, Fault(body=body, status=200))
    with raising_without_secret(OutcomeUnknown, match="is a proxy"):
        sink.deliver(place, a_mint())
    with suppress(client.exceptions.ResourceNotFoundException):
        assert CANARY not in client.get_secret_value(SecretId="svc")["SecretString"]
    sink.deliver(place, a_mint())
    assert CANARY in client.get_secret_value(SecretId="svc")["SecretString"]


def test_how_long_to_wait_is_heard(sink: Any, client: Any, aws: AwsServer) -> None:
    """Retry-After reaches whoever slows down."""
    aws.fail("GetSecretValue", Fault("ThrottlingException", 400, headers=(("Retry-After", "7"),)))
    with pytest.raises(Throttled) as caught:
        sink.read_back(place_of(sink, name="svc"))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 7


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("operation", ["GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage"])
def test_a_connection_that_breaks_is_made_anew(
    sink: Any, client: Any, aws: AwsServer, operation: str, *, after: bool
) -> None:
    """Every call may be repeated once, whether or not it took effect before the connection closed."""
    client.create_secret(Name="svc", SecretString="{}")
    aws.fail(operation, Fault(cut=True, after=after))
    assert sink.deliver(place_of(sink, name="svc"), a_mint()).version == ID
    assert len(aws.staged("svc")) == 2


def test_a_creation_that_was_cut_off_is_not_repeated_into_another(sink: Any, client: Any, aws: AwsServer) -> None:
    """CreateSecret took effect before the connection closed: there is one secret with one version."""
    aws.fail("CreateSecret", Fault(cut=True, after=True))
    assert sink.deliver(place_of(sink, name="svc", create=True), a_mint()).version == ID
    assert list(aws.staged("svc")) == [ID]


def test_a_failed_read_is_never_nothing(sink: Any, client: Any, aws: AwsServer) -> None:
    """A proxy's 404, an error page with 200 or a timeout is not AWS saying that there is nothing."""
    client.create_secret(Name="svc", SecretString="{}")
    place = place_of(sink, name="svc", create=True)
    for fault in (Fault(body=b"canary: no such page", status=404), Fault(body=b"<html>canary</html>", status=200)):
        for call in (sink.read_back, lambda place: sink.deliver(place, a_mint())):
            aws.fail("GetSecretValue", fault)
            with raising_without_secret(Temporary, Permanent) as caught:
                call(place)
            assert not isinstance(caught.value, NotFound)
    assert not aws.calls("CreateSecret")[1:]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"SecretString": 5, "VersionId": "x"}', b'{"SecretString": "x"}', b"[]", b"null", b"5"]
)
def test_an_answer_that_makes_no_sense_is_temporary(sink: Any, client: Any, aws: AwsServer, body: bytes) -> None:
    """Something answers 200 in the place of AWS: nothing is concluded, nothing written, nothing shown."""
    client.create_secret(Name="svc", SecretString="{}")
    place = place_of(sink, name="svc", create=True)
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, a_mint())):
        aws.fail("GetSecretValue", Fault(body=body, status=200))
        with raising_without_secret(Temporary, match="svc#token: "):
            call(place)
    assert not aws.calls(*WRITES)[1:]


def test_nobody_there_is_temporary(aws: AwsServer) -> None:
    """A service that cannot be reached certainly did nothing."""
    sink = build(aws, endpoint_url="http://127.0.0.1:1")
    with raising_without_secret(Temporary, match="cannot be reached"):
        sink.deliver(place_of(sink, name="svc"), a_mint())
    sink.close()


def test_even_debugging_logs_no_secret(
    aws: AwsServer, client: Any, sink: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """With every logger at DEBUG the SDK would print bodies; what is written appears nowhere, nor in a header."""
    place = place_of(sink, name="svc", create=True)
    with caplog.at_level(logging.DEBUG):
        sink.deliver(place, a_mint())
        sink.deliver(place, a_mint(OTHER, uuid.uuid4().hex))
        sink.read_back(place)
    shown = caplog.text + "".join(capfd.readouterr()) + repr([seen.headers for seen in aws.seen])
    assert "canary-4f1d" not in shown
    assert OTHER not in shown
