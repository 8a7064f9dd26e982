"""Metrics of a process that ends: pushed to a Pushgateway, or written for node-exporter's textfile collector.

Only gauges: every process would begin its counters at 0 again. What was published last is replaced by what is known
now; what is not known now stays: where the tokens could not be listed, their series stay as they were, and the moment
of a policy's last success is taken over from what was published before if neither this process nor the journal knows.
"""

import os
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import certifi
import httpx
from prometheus_client.parser import text_string_to_metric_families

from rotator.board import Snapshot
from rotator.config import Config
from rotator.credentials import Reference
from rotator.errors import RotatorError, Temporary
from rotator.metrics.rendering import TEXT, Series, state
from rotator.metrics.state import is_complete
from rotator.ports import Emit
from rotator.providers.astro.failures import fault_of
from rotator.stores import Stores

TIMEOUT_S = 10.0
_LARGEST = 64 * 1024 * 1024
_SUCCESS = "rotator_last_success_timestamp_seconds"
_HEAD = "# HELP "

Successes = Mapping[str, datetime]


def publish(config: Config, snapshot: Snapshot, tell: Emit, timeout_s: float = TIMEOUT_S) -> Iterator[str]:
    """Push and write what the config asks for; yield a sentence for each that failed.

    Args:
        config: Its `[metrics]`.
        snapshot: What to publish.
        tell: Told if the series of single tokens are left out.
        timeout_s: For connecting and waiting together.
    """
    series = Series(tell)

    def body(before: Successes) -> bytes:
        return state(_remembering(snapshot, before), series)

    is_known = all(row.success_at is not None for row in snapshot.policies)
    if config.metrics.pushgateway:
        try:
            with _Gateway(config, timeout_s) as gateway:
                before = {} if is_known else gateway.successes()
                gateway.push(body(before), whole=is_complete(snapshot))
        except RotatorError as error:
            yield f"the metrics could not be pushed: {error.message}"
    if config.textfile_path is not None:
        try:
            old = _read(config.textfile_path)
            new = body({} if is_known else _successes(old, job=None)).decode()
            _write(config.textfile_path, new if is_complete(snapshot) else _merged(old, new))
        except OSError as error:
            yield f"the metrics could not be written to {config.textfile_path}: {error.strerror}"


def _remembering(snapshot: Snapshot, before: Successes) -> Snapshot:
    rows = (replace(row, success_at=row.success_at or before.get(row.name)) for row in snapshot.policies)
    return replace(snapshot, policies=tuple(rows))


class _Gateway:
    """One Pushgateway, for one push.

    Source: https://github.com/prometheus/pushgateway#api (PUT replaces a group, POST the metrics of these names in it)
    """

    def __init__(self, config: Config, timeout_s: float) -> None:
        table = config.metrics
        self._base_url, self._job = table.pushgateway, table.pushgateway_job
        self._timeout_s = timeout_s
        self._client = httpx.Client(
            verify=_trust(config),
            auth=_login(config),
            timeout=httpx.Timeout(timeout_s * 0.7, connect=timeout_s * 0.3),  # together
            trust_env=False,
            follow_redirects=False,
        )

    def __enter__(self) -> "_Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def push(self, body: bytes, *, whole: bool) -> None:
        """Replace the group, or, unless `whole`, only what the body has.

        Raises:
            Temporary: It was not taken.
        """
        path = f"/metrics/job/{self._job}"
        self._called("PUT" if whole else "POST", path, lambda _: None, content=body, headers={"Content-Type": TEXT})

    def successes(self) -> Successes:
        """Return the moments of last success that were pushed before.

        Raises:
            Temporary: It does not say.
        """
        return _successes(self._called("GET", "/metrics", self._text), self._job)

    def _called(self, method: str, path: str, read: Callable[[httpx.Response], str | None], **options: object) -> str:
        """Call, and return what `read` makes of a good answer; the body of others is never looked at."""
        try:
            with self._client.stream(method, self._base_url + path, **options) as response:  # type: ignore[arg-type]
                if response.is_success:
                    return read(response) or ""
                failure = f"the Pushgateway answered {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            failure = f"the Pushgateway: {fault_of(error).words}"
        raise Temporary(failure)

    def _text(self, response: httpx.Response) -> str:
        deadline_s, found = time.monotonic() + self._timeout_s, bytearray()
        for chunk in response.iter_bytes():
            found += chunk
            if len(found) > _LARGEST or time.monotonic() > deadline_s:
                raise Temporary("what was pushed before is too large, or came too slowly, to be read")
        return found.decode("utf-8", "replace")


def _trust(config: Config) -> ssl.SSLContext:
    """Return what to trust; a bundle counts from the folder of the config."""
    bundle, defaults = config.metrics.pushgateway_ca_bundle, ssl.get_default_verify_paths()
    chosen = str(config.folder / Path(bundle).expanduser()) if bundle else defaults.cafile or certifi.where()
    try:
        return ssl.create_default_context(cafile=chosen)
    except (OSError, ssl.SSLError):
        raise Temporary("metrics.pushgateway_ca_bundle cannot be read as a file of PEM certificates") from None


def _login(config: Config) -> httpx.BasicAuth | None:
    table = config.metrics
    if not table.pushgateway_password:
        return None
    stores = Stores(config)
    try:
        password = stores.read(Reference.parse(table.pushgateway_password))
    finally:
        stores.close()
    return httpx.BasicAuth(table.pushgateway_user, password.reveal())


def _successes(text: str, job: str | None) -> Successes:
    """Return the moments of last success in what was published before, of one job or of any."""
    lines = [line for line in text.splitlines(keepends=True) if line.startswith((_SUCCESS, f"# TYPE {_SUCCESS}"))]
    try:
        return {
            sample.labels["policy"]: datetime.fromtimestamp(sample.value, UTC)
            for family in text_string_to_metric_families("".join(lines))
            for sample in family.samples
            if "policy" in sample.labels and job in (None, sample.labels.get("job"))
        }
    except (ValueError, OverflowError, OSError):
        return {}  # somebody else's text: nothing can be taken over


def _merged(old: str, new: str) -> str:
    """Return the new families, and of the old ones those that are not among them."""
    families = _families(old) | _families(new)
    return "".join(families.values())


def _families(text: str) -> dict[str, str]:
    parts = text.split(f"\n{_HEAD}") if text.startswith(_HEAD) else []
    blocks = [parts[0], *(f"{_HEAD}{part}" for part in parts[1:])] if parts else []
    return {block.split(" ", 3)[2]: block if block.endswith("\n") else f"{block}\n" for block in blocks}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # there is none yet, or writing will say what is wrong


def _write(path: Path, text: str) -> None:
    """Replace the file at once: its reader sees the old or the new one. Everybody may read it, node-exporter must."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, 0o644)  # whatever the umask says
            stream.write(text)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
