"""The one POST that the hooks share: an answer counts only if it came whole."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rotator.sinks._post import BROKEN, Answer, Fate, Fault, Request, post

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nX: y\r\n\r\n"
REQUEST = Request("/", {}, b"canary")


@contextmanager
def answering(said: bytes) -> Iterator[int]:
    """Yield the port of a server that says this to the first caller and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            caller, _ = listening.accept()
            with caller:
                heard = b""
                while not heard.endswith(REQUEST.body):  # else what is unread makes a reset of the end
                    heard += caller.recv(65536)
                for at in range(0, len(said), 7):
                    caller.sendall(said[at : at + 7])

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


@pytest.mark.parametrize("length", range(0, len(HEAD), 3))
def test_a_part_of_a_head_is_no_answer(length: int) -> None:
    """A head that breaks off anywhere, at the end of a line too, leaves open what was done."""
    with answering(HEAD[:length]) as port:
        found = post(http.client.HTTPConnection("127.0.0.1", port), 5, REQUEST)
    assert isinstance(found, Fault)
    assert found.fate is Fate.MAYBE_SENT


def test_a_body_that_breaks_off_is_no_answer() -> None:
    """The length that was promised has to come."""
    with answering(HEAD + b"o") as port:
        assert post(http.client.HTTPConnection("127.0.0.1", port), 5, REQUEST) is BROKEN


@pytest.mark.parametrize(
    "said",
    [HEAD + b"ok", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\nok", b"HTTP/1.1 200 OK\n\n"],
)
def test_a_whole_answer_counts(said: bytes) -> None:
    """With a body or without, and however the server ends it."""
    with answering(said) as port:
        found = post(http.client.HTTPConnection("127.0.0.1", port), 5, REQUEST)
    assert isinstance(found, Answer)
    assert found.status in (200, 204)
