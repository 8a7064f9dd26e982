"""Which of our own credentials is shown, how often each is read, and what is told when one cannot be."""

import base64
import json
from collections.abc import Callable

import pytest

from rotator.errors import ConfigError, CredentialRejected, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.ports import OwnCredential
from rotator.providers.astro.own import MOMENT_S, Memory, OwnCredentials
from rotator.secret import Secret
from tests.providers.astro.fakes import VirtualClock

DOWN, GONE = Temporary("the store is down"), ConfigError.of("", "names nothing")
DEAD = "dead"


def jwt(token_id: str) -> str:
    """Return a token that says who it is."""
    said = base64.urlsafe_b64encode(json.dumps({"apiTokenId": token_id}).encode()).decode().rstrip("=")
    return f"e30.{said}.e30"


class Store:
    """Holds a credential, or fails, and counts who asks."""

    def __init__(self, holds: str | RotatorError) -> None:
        self.holds, self.asked = holds, 0

    def __call__(self) -> Secret:
        self.asked += 1
        if isinstance(self.holds, RotatorError):
            raise self.holds
        return Secret(self.holds)


class Bench:
    """Credentials in stores, and an API that rejects the dead ones, as `AstroHttp.send` asks for them."""

    def __init__(self, *stores: Store) -> None:
        self.clock, self.events, self.shown = VirtualClock(), list[Event](), list[str]()
        owns = [OwnCredential(f"vault:m/{at}#k", store, is_remote=True) for at, store in enumerate(stores)]
        self.own = OwnCredentials("astro", owns, Memory("astro", self.clock, self.events.append))

    def call(self, *, is_repeatable: bool = True) -> str:
        """Make a call and return what was shown last."""
        return self.own.send(self._sent(is_repeatable), is_repeatable=is_repeatable)

    def _sent(self, is_repeatable: bool) -> Callable[[Callable[[], Secret]], str]:
        def send(read: Callable[[], Secret]) -> str:
            shown = read().reveal()
            if shown == DEAD and is_repeatable:
                shown = read().reveal()
            self.shown.append(shown)
            if shown == DEAD:
                raise CredentialRejected("401")
            return shown

        return send


@pytest.mark.parametrize("is_repeatable", [True, False])
@pytest.mark.parametrize("trouble", [DOWN, GONE])
def test_the_other_one_works_while_a_store_is_down(trouble: RotatorError, is_repeatable: bool) -> None:
    """Nothing was sent with what could not be read, so the other is used, for a rotate too, and it is told once."""
    first = Store(trouble)
    bench = Bench(first, Store("b"))
    assert [bench.call(is_repeatable=is_repeatable) for _ in range(3)] == ["b", "b", "b"]
    assert first.asked == 1  # a store that hangs is not waited for at each call
    assert [event.name for event in bench.events] == [EventName.CREDENTIAL_UNREADABLE]
    assert "vault:m/0#k" in bench.events[0].message


@pytest.mark.parametrize(
    ("stores", "error"),
    [
        ((DEAD, DEAD), CredentialRejected),
        ((DEAD, DOWN), Temporary),
        ((DOWN, DEAD), Temporary),
        ((DOWN, DOWN), Temporary),
        ((GONE, GONE), ConfigError),
        ((DEAD,), CredentialRejected),
        ((DOWN,), Temporary),
    ],
)
def test_only_what_was_rejected_is_dead(stores: tuple[str | RotatorError, ...], error: type[RotatorError]) -> None:
    """All dead is for a person; one that could not be read may live, so running again is of use; both are named."""
    with pytest.raises(error) as caught:
        Bench(*(Store(holds) for holds in stores)).call()
    assert type(caught.value) is error
    assert ("dead: 401" in caught.value.message) == (DEAD in stores and DOWN in stores)


def test_what_must_not_be_repeated_is_sent_once() -> None:
    """A rejected rotate is not sent with the other one; the API may have counted it."""
    bench = Bench(Store(DEAD), Store("b"))
    with pytest.raises(CredentialRejected):
        bench.call(is_repeatable=False)
    assert bench.shown == [DEAD]


def test_a_failure_of_the_api_is_not_one_of_the_store() -> None:
    """Where the call itself failed, the other credential would not help."""
    bench = Bench(Store("a"), Store("b"))

    def send(read: Callable[[], Secret]) -> str:
        read()
        raise Temporary("the API is down")

    with pytest.raises(Temporary, match="the API is down"):
        bench.own.send(send, is_repeatable=True)
    assert not bench.events


def test_a_store_is_read_once_in_a_few_seconds() -> None:
    """Not at every call; after a 401 at once; and what is asked for as a proof is never an old value."""
    store = Store("a")
    bench = Bench(store)
    for _ in range(20):
        bench.call()
    assert store.asked == 1
    bench.clock.time += MOMENT_S
    bench.call()
    assert store.asked == 2
    store.holds = jwt("t1")
    assert list(bench.own.by_token()) == ["t1"]
    store.holds = DEAD
    bench.clock.time += MOMENT_S
    with pytest.raises(CredentialRejected):
        bench.call()
    store.holds = "new"
    assert (bench.call(), bench.shown[-1]) == ("new", "new")  # the dead one was a moment old


def test_what_is_not_remote_is_read_every_time() -> None:
    """A file or a variable costs nothing, and is followed at once."""
    store = Store("a")
    own = OwnCredentials("astro", [OwnCredential("file:/x", store)], Memory("astro", VirtualClock(), lambda _: None))
    for _ in range(3):
        own.send(lambda read: read(), is_repeatable=True)
    assert store.asked == 3


def test_a_token_of_ours_stays_known_while_its_store_is_down() -> None:
    """Who it is was read before; if it never was, nothing may be planned, for any token could be this one."""
    first, other = Store(jwt("t1")), Store(jwt("t2"))
    bench = Bench(first, other)
    assert set(bench.own.by_token()) == {"t1", "t2"}
    first.holds = DOWN
    bench.clock.time += MOMENT_S
    assert set(bench.own.by_token()) == {"t1", "t2"}
    assert set(bench.own.before(OwnCredential("", Store(jwt("t3")))).by_token()) == {"t1", "t2", "t3"}
    with pytest.raises(Temporary, match="the store is down"):
        Bench(Store(DOWN), other).own.by_token()


def test_trouble_is_told_again_after_it_was_over() -> None:
    """One event an outage."""
    store = Store(DOWN)
    bench = Bench(store)
    for holds in (DOWN, DOWN, "a", DOWN):
        store.holds = holds
        bench.clock.time += MOMENT_S
        if isinstance(holds, str):
            bench.call()
        else:
            with pytest.raises(Temporary):
                bench.call()
    assert len(bench.events) == 2
