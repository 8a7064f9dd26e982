"""The Secrets Manager sink: the shared contract for both formats, and what only Secrets Manager can suffer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from rotator import sinks
from rotator.model import Mint, Place
from tests.servers.aws import ENVIRONMENT, REGION, AwsServer, serving
from tests.sinks.contract import CANARY, Harness, SinkContract, facts, mint

KIND = "aws_secrets_manager"
MODULE: Any = sinks.load(KIND)
ID = "0123456789abcdef0123456789abcdef"
WRITES = ("PutSecretValue", "CreateSecret", "UpdateSecretVersionStage")


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
        self._client = client
        self._aws = aws

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
            self._put(name, text.rstrip("}") + (", " if text != "{}" else "") + '"neighbour":  1.50}')
        else:
            self._put("neighbour", "theirs")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at its bytes."""
        name, _, key = place.location.partition("#")
        return '"neighbour":  1.50' in (self._text(name) or "") if key else self._text("neighbour") == "theirs"

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take a permission away."""
        self._aws.denied.add("PutSecretValue")
        yield
        self._aws.denied.clear()

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
