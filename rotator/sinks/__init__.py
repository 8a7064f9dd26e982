"""Where secrets go. One file is one sink: `rotator/sinks/<type>.py`, found by the name of its type.

To add a sink, add one file that exposes exactly four names:

- `Options`: a pydantic model of the keys of `[sinks.X]` besides `type`.
- `DeliveryOptions`: likewise of a `[[policies.P.deliver]]` block besides `sink` and `required`. Its `model_dump()` is
  what `Sink.resolve` gets; templates in it are parsed in a validator, so that a typing error is found at load.
- `PREFLIGHT_GRADE`: how strong a preflight that succeeds is; a policy may require a grade.
- `build(name, options, base)`: returns a `rotator.ports.Sink`; relative paths count from the folder `base`.

Both models forbid unknown keys, and hide input in their errors (somebody may have pasted a secret). `build` contacts
nothing. Run the conformance kit, `rotator.testing`, over the sink with a harness of a few lines. Modules whose names
begin with an underscore are parts of sinks, not sinks.

Another distribution adds a type by an entry point of the group `rotator.sinks` whose value names such a module; see
`_plugins`. The name of one of our own files wins.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ValidationError

from rotator.model import Grade
from rotator.ports import Sink
from rotator.sinks import _plugins
from rotator.text import visible

Model = TypeVar("Model", bound=BaseModel)


class SinkModule(Protocol):
    """What a module in this folder looks like; `build` is given an instance of the module's own `Options`."""

    Options: type[BaseModel]
    DeliveryOptions: type[BaseModel]
    PREFLIGHT_GRADE: Grade

    def build(self, name: str, options: Any, base: Path) -> Sink:
        """Return the sink.

        Args:
            name: As in `[sinks.<name>]`.
            options: Validated.
            base: The folder of the configuration file.
        """
        ...


@cache
def types() -> tuple[str, ...]:
    """Return the names of all sink types, sorted, without loading any."""
    return tuple(sorted({*_own(), *_plugins.installed()}))


@cache
def _own() -> frozenset[str]:
    return frozenset(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))


def load(kind: str) -> SinkModule:
    """Return the module of a sink type: the one place that imports by name, so that only used SDKs are loaded.

    What is installed is searched for a name only that is none of our own files.

    Raises:
        ValueError: There is no such type, and the message lists them; or it is of a plug-in that is broken.
    """
    if kind in _own():
        return cast("SinkModule", importlib.import_module(f"{__name__}.{kind}"))
    if kind in _plugins.installed():
        return cast("SinkModule", _plugins.load(kind))
    near = difflib.get_close_matches(kind, types(), 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"there is no sink type '{visible(kind, 40)}'; {hint}known are {', '.join(map(visible, types()))}")


def validated(model: type[Model], values: Mapping[str, object]) -> Model:
    """Return options as the type's own model.

    Raises:
        pydantic.ValidationError: All problems at once.
        ValueError: The model's own code failed otherwise.
    """
    return _plugins.contained(
        f"the check of {model.__module__}", lambda: model.model_validate(values), (ValidationError,)
    )


def checked(model: type[BaseModel], values: Mapping[str, object]) -> dict[str, object]:
    """Return validated options as plain JSON-able values.

    Raises:
        pydantic.ValidationError, ValueError: See `validated`.
    """
    valid = validated(model, values)
    return _plugins.contained(f"the check of {model.__module__}", lambda: valid.model_dump(mode="json"))


def described(kind: str, attribute: str) -> dict[str, Any]:
    """Return the JSON Schema of a type's `Options` or `DeliveryOptions`; raises ValueError if the type is broken."""
    model: type[BaseModel] = getattr(load(kind), attribute)
    return _plugins.contained(f"the schema of {model.__module__}", model.model_json_schema)
