"""Programs that AWS profiles name for credentials: they may hang, and still nothing waits for them for long."""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rotator import sinks
from rotator.errors import NotFound, Permanent, Temporary
from rotator.sinks._vault_aws import Identity
from rotator.sinks._vault_calls import Failure
from rotator.sinks._vault_options import VaultAuth
from tests.servers.aws import ENVIRONMENT, REGION, AwsServer, serving
from tests.sinks.contract import raising_without_secret

MODULE: Any = sinks.load("aws_secrets_manager")
TIMEOUT_S = 1
THREADS = 12
GOOD = {"Version": 1, "AccessKeyId": "AKIAHELPER", "SecretAccessKey": "canary-key"}


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    """Run one server for all."""
    with serving() as server:
        yield server


class Helper:
    """A program; `hangs` says whether it ends. Its child would outlive a mere kill of the program."""

    def __init__(self, folder: Path) -> None:
        self.runs, self._hangs = folder / "runs", folder / "hangs"
        program = folder / "helper.py"
        program.write_text(
            "import os, pathlib, subprocess, sys, time\n"
            f"with open({str(self.runs)!r}, 'a') as runs: runs.write('x')\n"
            f"if pathlib.Path({str(self._hangs)!r}).exists():\n"
            '    print(\'{"SecretAccessKey": "canary-half"\', flush=True)\n'
            "    subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            f"print({json.dumps(GOOD)!r})\n"
        )
        config = folder / "config"
        config.write_text(
            f"[default]\ncredential_process = {sys.executable} {program}\n"
            f"[profile role]\nrole_arn = arn:aws:iam::123456789012:role/rotator\nsource_profile = default\n"
        )
        self.config = config

    def hang(self, *, now: bool) -> None:
        """Say how the next runs go."""
        if now:
            self._hangs.touch()
        else:
            self._hangs.unlink()


@pytest.fixture
def helper(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Return the program that is the only source of credentials."""
    made = Helper(tmp_path)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(made.config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", aws.url)
    aws.clear()
    return made


@pytest.fixture(params=["", "role"])
def sink(aws: AwsServer, helper: Helper, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Yield a sink that has its credentials from the program, or from a role assumed with them."""
    options = MODULE.Options(region=REGION, endpoint_url=aws.url, timeout=f"{TIMEOUT_S}s", profile=request.param)
    made = MODULE.build("sm", options, Path("/"))
    yield made
    made.close()


def test_a_program_that_hangs_holds_nobody_up(sink: Any, helper: Helper, aws: AwsServer) -> None:
    """However many deliveries wait for it, each hears within one timeout that it may try again, and later can."""
    helper.hang(now=True)

    def asked(_: int) -> float:
        started_s = time.monotonic()
        with raising_without_secret(Temporary, match="could not be fetched in time"):
            sink.secret_at("svc")
        return time.monotonic() - started_s

    with ThreadPoolExecutor(THREADS) as threads:
        waited = list(threads.map(asked, range(THREADS)))
    assert max(waited) < 4 * TIMEOUT_S  # one after the other it would be twelve times
    assert helper.runs.read_text() == "x"
    helper.hang(now=False)
    time.sleep(TIMEOUT_S)
    with raising_without_secret(NotFound):
        sink.secret_at("svc")


def test_vault_hears_of_it_in_time(helper: Helper) -> None:
    """The login to Vault by AWS may be tried again as well, and works once the program does."""
    identity, auth = Identity(TIMEOUT_S), VaultAuth(method="aws", role="rotator")
    helper.hang(now=True)
    started_s = time.monotonic()
    for _ in range(THREADS):
        found = identity.signed(auth)
        assert isinstance(found, Failure)
        assert found.kind is Temporary
    assert time.monotonic() - started_s < 4 * TIMEOUT_S
    helper.hang(now=False)
    time.sleep(TIMEOUT_S)
    assert not isinstance(identity.signed(auth), Failure)


def test_what_a_program_prints_is_never_shown(helper: Helper) -> None:
    """Output that is no JSON may be a key: it is said that credentials cannot be used, and no more."""
    program = helper.config.parent / "helper.py"
    program.write_text("print('canary-key')")
    found = Identity(5).signed(VaultAuth(method="aws", role="rotator"))
    assert isinstance(found, Failure)
    assert found.kind is Permanent
    assert "canary" not in found.said
