"""A fresh sandbox for each test, and ways to speak to it over real HTTP."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from rotator.sandbox import Sandbox, SandboxConfig

Start = Callable[..., Sandbox]
Connect = Callable[..., httpx.Client]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def start(stack: ExitStack) -> Start:
    """Start a sandbox with these settings."""
    return lambda **settings: stack.enter_context(Sandbox(SandboxConfig(**settings)))


@pytest.fixture
def sandbox(start: Start) -> Sandbox:
    return start(limits=False)


@pytest.fixture
def connect(stack: ExitStack) -> Connect:
    """Give a client with this bearer, the owner's if none is named."""

    def client(sandbox: Sandbox, bearer: str | None = None, timeout: float = 10.0) -> httpx.Client:
        headers = {"Authorization": f"Bearer {sandbox.credential if bearer is None else bearer}"}
        return stack.enter_context(
            httpx.Client(base_url=sandbox.url, headers=headers, timeout=timeout, trust_env=False, verify=False)
        )

    return client


@pytest.fixture
def owner(sandbox: Sandbox, connect: Connect) -> httpx.Client:
    return connect(sandbox)
