"""Where the server listens, and by which names it may be called. Pure.

On loopback a page in somebody's browser could reach us under a name of its own that it lets point to 127.0.0.1 (DNS
rebinding), and read what only this machine may read. A name is needed for that, so numbers and `localhost` are trusted
and every other name has to be configured.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

_FORM = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]\s]+)):(?P<port>[0-9]{1,5})")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\[\]\s]+))(?::[0-9]{1,5})?")
_EXAMPLES = '"127.0.0.1:9464", "[::1]:9464", "0.0.0.0:9464" for every interface, or "" for no server'


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen.

    Attributes:
        host: An IP address, without brackets.
        port: 0 for any free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return what `server.listen` says.

        Raises:
            ValueError: It is no address; the message says which forms there are.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None or int(found["port"]) > 65535:
            raise ValueError(f"must be an IP address with a port: {_EXAMPLES}")
        host = "127.0.0.1" if found["host"] == "localhost" else found["six"] or found["host"]
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"must be an IP address with a port, not a name: {_EXAMPLES}") from None
        return cls(str(ip), int(found["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback


def is_welcome(header: str | None, address: Address, names: Collection[str]) -> bool:
    """Whether a request may call us by this `Host` header.

    Args:
        header: None if there was none, which browsers never do.
        address: Where we listen; away from loopback every name is good unless `names` holds some.
        names: Further names, in lower case.
    """
    if header is None or not (address.is_loopback or names):
        return True
    found = _HOST.fullmatch(header.strip())
    if found is None:
        return False
    host = (found["six"] or found["host"]).lower().rstrip(".")
    return host == "localhost" or host in names or _is_number(host)


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
