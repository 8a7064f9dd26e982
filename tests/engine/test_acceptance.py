"""The promise as a whole: hundreds of tokens, a misbehaving API, killed processes, secrets only in their sinks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lab import digest, write_config

LATE_WINDOW_S = 2.0
VERSIONS = ["v1", "v1beta1", "v1alpha1"]


@dataclass
class World:
    """A sandbox in a process of its own, and a folder with a config for it."""

    folder: Path
    url: str
    organization_id: str

    def sweep(self) -> subprocess.CompletedProcess[str]:
        """One sweep as a user runs it."""
        return subprocess.run(self.command(), capture_output=True, text=True, check=False, timeout=240)

    def command(self) -> list[str]:
        """The command line of a sweep."""
        return [
            sys.executable,
            "-m",
            "rotator",
            "sweep",
            "--yes",
            "--json",
            "--config",
            str(self.folder / "rotator.toml"),
        ]

    def state(self) -> dict[str, dict[str, object]]:
        """What the sandbox says of every token: digests, never secrets."""
        with urllib.request.urlopen(f"{self.url}/_sandbox/state") as answer:
            state: dict[str, dict[str, object]] = json.load(answer)
        return state.get("tokens", state)  # type: ignore[return-value]


@contextmanager
def world(folder: Path, tokens: int, faults: str, version: str = "v1", *arguments: str) -> Iterator[World]:
    """Start everything; stop the sandbox afterwards."""
    command = [sys.executable, "-m", "rotator.sandbox", "--tokens", str(tokens), "--seed", "7", "--faults", faults]
    command += ["--no-limits", "--credential-file", str(folder / "credential"), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        running = World(folder, ready["url"], ready["organization_id"])
        write_config(
            folder, ready["url"], ready["organization_id"], workers=16, late_window="2s", version=version,
            homes=homes(running, version),
        )  # fmt: skip
        yield running
    finally:
        process.terminate()
        process.wait(timeout=10)
        if process.stdout is not None:
            process.stdout.close()


def homes(running: World, version: str) -> str:
    """Return the workspaces and deployments that v1alpha1 must be told."""
    if version != "v1alpha1":
        return ""
    lines = []
    for scope, key in (("WORKSPACE", "workspaces"), ("DEPLOYMENT", "deployments")):
        found = {
            role["entityId"]
            for token in everything(running)
            if token["scope"] == scope
            for role in token["roles"]
            if role["entityType"] == scope
        }
        lines.append(f"{key} = {json.dumps(sorted(found))}")
    return "\n".join(lines)


def everything(running: World) -> list[dict[str, Any]]:
    """List all tokens as v1 does, insisting against the faults."""
    headers = {"Authorization": "Bearer " + (running.folder / "credential").read_text()}
    with httpx.Client(base_url=running.url, headers=headers, trust_env=False) as client:
        for _ in range(20):
            answer = client.get(f"/v1/organizations/{running.organization_id}/tokens", params={"limit": 1000})
            if answer.status_code == 200 and "json" in answer.headers["content-type"]:
                tokens: list[dict[str, Any]] = answer.json()["tokens"]
                return tokens
    raise AssertionError("the sandbox never answered")


def planned(running: World) -> list[str]:
    """Return the ids that a plan finds due."""
    command = [sys.executable, "-m", "rotator", "plan", "--json", "--config", str(running.folder / "rotator.toml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 3), run.stderr
    return [row["token_id"] for row in json.loads(run.stdout)["due"]]


def assert_promise(running: World, due: list[str], *, most_extra: int) -> None:
    """Every due token's file authenticates, nothing else was touched, every POST is journalled."""
    state = running.state()
    folder = running.folder / "secrets"
    for token_id in due:
        assert digest((folder / token_id).read_text()) == state[token_id]["sha256"], token_id
    assert {path.name for path in folder.iterdir()} == set(due)
    assert not {i for i, row in state.items() if row["posts"]} - set(due)
    intents: dict[str, int] = {}
    for line in (running.folder / "audit.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["event"] == "rotation_intended":
            intents[row["token"]["id"]] = intents.get(row["token"]["id"], 0) + 1
    for token_id in due:
        assert int(str(state[token_id]["posts"])) <= intents[token_id]
    assert sum(int(str(state[i]["rotations"])) for i in due) <= len(due) + most_extra


@pytest.mark.parametrize("version", VERSIONS)
def test_half_of_five_hundred_tokens_under_default_faults(tmp_path: Path, version: str) -> None:
    """After at most three sweeps every due secret is in its file and lives; nothing else was touched."""
    with world(tmp_path, 500, "default", version) as running:
        due = planned(running)
        assert 200 < len(due) < 300
        codes = []
        for _ in range(3):
            codes.append(running.sweep().returncode)
            time.sleep(LATE_WINDOW_S)
            if codes[-1] == 0:
                break
        assert codes[-1] == 0, codes
        assert_promise(running, due, most_extra=len(due) // 5)


def test_kill_at_twenty_random_moments(tmp_path: Path) -> None:
    """kill -9 twenty times, then two quiet sweeps late_window apart: every due secret is in its file and lives."""
    with world(tmp_path, 300, "none", "v1", "--latency", "0.02") as running:
        due = planned(running)
        dice = random.Random(1)
        for _ in range(20):
            process = subprocess.Popen(running.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.5 + dice.random() * 0.9)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        running.sweep()
        time.sleep(LATE_WINDOW_S)
        last = running.sweep()
        assert last.returncode == 0, last.stdout[-3000:]
        assert_promise(running, due, most_extra=20 * 16)


def test_no_secret_is_anywhere_but_in_its_sink(tmp_path: Path) -> None:
    """Neither output, log, audit, journal, WAL nor any other file holds a credential or a minted secret."""
    with world(tmp_path, 60, "default") as running:
        runs = [running.sweep()]
        time.sleep(LATE_WINDOW_S)
        runs.append(running.sweep())
        credential = (tmp_path / "credential").read_text()
        secrets = [path.read_text() for path in (tmp_path / "secrets").iterdir()]
        assert len(secrets) > 20
        # The signature is the part of a JWT that is nowhere else.
        marks = [secret.rsplit(".", 1)[1].encode() for secret in [credential, *secrets]]
        text = "".join(run.stdout + run.stderr for run in runs).encode()
        for path in sorted(p for p in tmp_path.rglob("*") if p.is_file()):
            if path.parent.name != "secrets" and path.name != "credential":
                text += path.read_bytes()
        assert not [mark for mark in marks if mark in text]
