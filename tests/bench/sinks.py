"""What one delivery costs, sink by sink: rate from sixteen threads and our own CPU time, next to the bare client's.

Servers run in processes of their own, so that only our side is counted. moto is itself the limit of its rate; its CPU
figure still says what our side and boto3 spend.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import hvac

from rotator import sinks
from rotator.ports import Sink
from tests.sinks.contract import facts, mint

WRITES = 400
THREADS = 16
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def _vault(ready: Any, done: Any) -> None:
    from tests.servers.vault import serving

    with serving() as server:
        body = b'{"type": "kv", "options": {"version": "2"}}'
        server.answer("POST", "sys/mounts/kv", {"X-Vault-Token": server.token}, body)
        ready.put((server.address, server.token))
        done.get()


def _aws(ready: Any, done: Any) -> None:
    from tests.servers.aws import serving

    with serving() as server:
        ready.put((server.url, ""))
        done.get()


def _kubernetes(ready: Any, done: Any) -> None:
    from tests.servers.kubernetes import ADMIN, running

    with running() as server:
        ready.put((str(server.kubeconfig({"token": ADMIN})), server.namespace()))
        done.get()


@contextmanager
def elsewhere(serve: Callable[[Any, Any], None]) -> Iterator[tuple[str, str]]:
    """Run a server in another process and yield what it says of itself."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Queue(), context.Queue()
    process = context.Process(target=serve, args=(ready, done))
    process.start()
    try:
        yield ready.get(timeout=60)
    finally:
        done.put(None)
        process.join()


def _spent(call: Callable[[int], object], threads: int = THREADS) -> tuple[float, float]:
    """Return calls a second and our CPU milliseconds each."""
    started, before = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(WRITES)))
    return WRITES / (time.monotonic() - started), (time.process_time() - before) * 1000 / WRITES


def _measured(kind: str, options: dict[str, object], block: dict[str, object], base: Path) -> tuple[float, float]:
    """Deliver and read back as a rotation does, each to a place of its own."""
    module: Any = sinks.load(kind)
    sink: Sink = module.build(kind, module.Options(**options), base)
    checked = sinks.checked(module.DeliveryOptions, block)
    places = [sink.resolve(checked, facts(name=f"svc-{number}")) for number in range(WRITES)]

    def arrive(number: int) -> None:
        sink.deliver(places[number], mint(f"secret-{number}", number))
        sink.read_back(places[number])

    arrive(0)
    figures = _spent(arrive)
    sink.close()
    return figures


def _bare_vault(address: str, token: str) -> float:
    client = hvac.Client(url=address, token=token)
    client.session.trust_env = False
    api = client.secrets.kv.v2
    write = {"token": "secret"}
    cost = _spent(
        lambda n: (
            api.create_or_update_secret(f"bare-{n}", write, mount_point="kv"),
            api.read_secret_version(f"bare-{n}", mount_point="kv", raise_on_deleted_version=False),
        ),
        threads=1,
    )[1]
    client.adapter.close()
    return cost


def _bare_aws(url: str) -> float:
    client = boto3.client("secretsmanager", region_name="eu-west-1", endpoint_url=url)
    cost = _spent(
        lambda n: (
            client.create_secret(Name=f"bare-{n}", SecretString="secret"),
            client.get_secret_value(SecretId=f"bare-{n}"),
        ),
        threads=1,
    )[1]
    client.close()
    return cost


def run() -> None:
    """Print one line a sink."""
    os.environ |= ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        _say("file", _measured("file", {"directory": "secrets"}, {"path": "{name}"}, base))
        with elsewhere(_vault) as (address, token):
            (base / "vault-token").write_text(token)
            options = {"address": address, "mount": "kv", "auth": {"token": "file:vault-token"}}
            figures = _measured("vault", options, {"path": "{name}"}, base)
            _say("vault", figures, ("hvac", _bare_vault(address, token)))
        with elsewhere(_aws) as (url, _):
            options = {"region": "eu-west-1", "endpoint_url": url}
            figures = _measured("aws_secrets_manager", options, {"name": "{name}", "create": True}, base)
            _say("aws_secrets_manager", figures, ("boto3", _bare_aws(url)))
        with elsewhere(_kubernetes) as (kubeconfig, namespace):
            options = {"kubeconfig": kubeconfig, "namespace": namespace}
            _say("kubernetes_secret", _measured("kubernetes_secret", options, {}, base))


def _say(kind: str, figures: tuple[float, float], bare: tuple[str, float] | None = None) -> None:
    ratio = f" = {figures[1] / bare[1]:.1f} x bare {bare[0]}'s write and read ({bare[1]:.1f} ms)" if bare else ""
    print(f"sink {kind}: {figures[0]:.0f} deliveries/s, {figures[1]:.1f} ms CPU each{ratio}")
