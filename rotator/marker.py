"""The marker in a twin's description: which create made it, and for which token. Pure.

A create whose answer was lost may have made a token that nobody knows. The marker lets a later look recognise it, and
its MAC, keyed by the journal, proves that this installation wrote it: anybody may edit a description.
"""

import re
from dataclasses import dataclass

LONGEST = 500  # characters that the API allows a description

_MARKER = re.compile(r" ?\[rotator ([0-9a-f]{32}-[0-9]{1,6}) ([A-Za-z0-9_-]{1,128}) ([0-9a-f]{32})\]")


@dataclass(frozen=True, slots=True)
class Marker:
    """What a marker says; untrusted until its MAC was checked.

    Attributes:
        post_id: See `Rotation.post_id`.
        lineage: The root id of the credential.
        mac: Over `bound`.
    """

    post_id: str
    lineage: str
    mac: str


def bound(post_id: str, lineage: str) -> str:
    """Return what the MAC is made over."""
    return f"twin {post_id} {lineage}"


def marked(description: str, marker: Marker) -> str:
    """Return the description with this marker in place of any older one; it may be too long, see `LONGEST`."""
    text = f"[rotator {marker.post_id} {marker.lineage} {marker.mac}]"
    return f"{plain(description)} {text}".lstrip()


def plain(description: str) -> str:
    """Return the description without its marker."""
    return _MARKER.sub("", description)


def marker_in(description: str) -> Marker | None:
    """Return the marker of a description, None if it has none."""
    found = _MARKER.search(description)
    return Marker(found[1], found[2], found[3]) if found else None
