"""The Parameter Store sink: the shared contract for both formats, and what only parameters can suffer."""

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

KIND = "aws_ssm_parameter"
MODULE: Any = sinks.load(KIND)


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


@pytest.fixture
def sink(aws: AwsServer) -> Iterator[Any]:
    """Return one that is closed afterwards."""
    options = MODULE.Options(region=REGION, endpoint_url=aws.url, timeout="2s")
    made = MODULE.build("ssm", options, Path("/"))
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

    def __init__(self, sink: Any, client: Any, aws: AwsServer, block: dict[str, object]) -> None:
        self.sink = sink
        self.block = block
        self._client = client
        self._aws = aws

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
            put(self._client, name, text.rstrip("}") + (", " if text != "{}" else "") + '"neighbour":  1.50}')
        else:
            put(self._client, "/neighbour", "theirs")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at its bytes."""
        name, _, key = place.location.partition("#")
        text = text_of(self._client, name if key else "/neighbour") or ""
        return '"neighbour":  1.50' in text if key else text == "theirs"

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take a permission away."""
        self._aws.denied.add("PutParameter")
        yield
        self._aws.denied.clear()


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
