"""The HTTP server that the fakes stand on."""

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class Loopback(ThreadingHTTPServer):
    """Keeps more callers waiting than the standard five.

    With five, a burst of connections on a busy machine drops one, its second try comes after a second, and a client
    with a timeout of a second sees a server that is down.
    """

    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news; a fake that fails is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
