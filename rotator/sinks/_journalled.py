"""Places as the journal gives them back; shared by the sinks."""

from typing import TypeVar

import msgspec

from rotator.errors import Permanent
from rotator.model import Place

Target = TypeVar("Target")


def journalled(kind: type[Target], place: Place) -> Target:
    """Return what a place says, as `msgspec.to_builtins` took it apart when the place was resolved.

    Raises:
        Permanent: Another version of rotator, or of the sink, took it apart.
    """
    try:
        return msgspec.convert(place.options, kind)
    except msgspec.ValidationError:
        problem = f"{place.location}: was journalled by a version of rotator that is not compatible"
    raise Permanent(problem)
