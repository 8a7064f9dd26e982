"""Sink types of other distributions, by the entry point group `rotator.sinks`: found by name, loaded only when used.

What a distribution does wrong becomes one sentence that names it: nobody else's sinks suffer, and no traceback shows
its frames. `rotator.sinks` calls this where a type is none of its own files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from rotator.errors import ConfigError, RotatorError
from rotator.model import Grade
from rotator.ports import Sink
from rotator.text import visible

GROUP = "rotator.sinks"

_METHODS = ("resolve", "preflight", "deliver", "read_back", "close")

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A sink type as its distribution exposes it, checked; stands where `rotator.sinks` expects a module.

    Attributes:
        who: Names plug-in and distribution in messages.
        made: The plug-in's own `build`.
    """

    who: str
    Options: type[BaseModel]
    DeliveryOptions: type[BaseModel]
    PREFLIGHT_GRADE: Grade
    made: Callable[[str, Any, Path], object]

    def build(self, name: str, options: Any, base: Path) -> Sink:
        """Return the sink.

        Raises:
            ConfigError: The plug-in could not build it, or built something else.
        """
        try:
            built = contained(self.who, lambda: self.made(name, options, base))
        except ValueError as error:
            raise ConfigError.of(f"sinks.{name}", str(error)) from None
        missing = [method for method in _METHODS if not callable(getattr(built, method, None))]
        if missing or getattr(built, "name", None) != name:
            lacks = f"has no {missing[0]}()" if missing else "does not carry the name it was given"
            raise ConfigError.of(f"sinks.{name}", f"{self.who}: what build() returns {lacks}; see rotator.ports.Sink")
        return cast("Sink", built)


@cache
def installed() -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return the entry points by the name of their type, as they are installed; nothing of them is imported."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        known = found.get(entry.name, ())
        if (entry.value, _distribution(entry)) not in [(other.value, _distribution(other)) for other in known]:
            found[entry.name] = (*known, entry)
    return found


@cache
def load(kind: str) -> Plugin:
    """Return an installed type: the one place that imports it.

    Raises:
        ValueError: It is ambiguous, or broken; the message names the distribution.
    """
    entries = installed()[kind]
    if len(entries) > 1:
        names = " and ".join(sorted(_distribution(entry) for entry in entries))
        raise ValueError(f"two plug-ins are called '{visible(kind, 40)}', of {names}; uninstall one of them")
    who = f"the plug-in '{visible(kind, 40)}' of {_distribution(entries[0])}"
    module = contained(who, entries[0].load)
    parts = contained(who, lambda: {name: getattr(module, name, None) for name in _EXPECTED})
    for name, (is_right, said) in _EXPECTED.items():
        if parts[name] is None:
            raise ValueError(f"{who} has no {name}; it has to expose {', '.join(_EXPECTED)}")
        if not is_right(parts[name]):
            raise ValueError(f"{who}: {name} is not {said}")
    options, delivery, grade, build = (cast("Any", parts[name]) for name in _EXPECTED)
    return Plugin(who, options, delivery, grade, build)


def contained(who: str, call: Callable[[], Answer], passing: tuple[type[Exception], ...] = ()) -> Answer:
    """Return what code of a plug-in returns.

    Args:
        who: Stands for it in messages.
        passing: What is raised as it is.

    Raises:
        ValueError: Anything else that it raised, in our own words: of its text only what is a `RotatorError` is shown.
    """
    try:
        return call()
    except passing:
        raise
    except RotatorError as error:
        said = f"{who}: {error.message}"
    except ImportError as error:
        said = f"{who} cannot be imported: it needs '{visible(error.name or 'something', 80)}'; install or update it"
    except SystemExit:
        said = f"{who} would end the program; update or uninstall it"
    except Exception as error:  # noqa: BLE001 - boundary "plug-in call": one plug-in must not stop the others
        said = f"{who} failed unexpectedly ({type(error).__name__}); update or uninstall it"
    raise ValueError(said)  # not from within: the frames of a plug-in may hold what nobody shall see


def _distribution(entry: EntryPoint) -> str:
    return visible(f"{entry.dist.name} {entry.dist.version}", 80) if entry.dist else "an unnamed distribution"


def _is_model(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)


_EXPECTED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "Options": (_is_model, "a pydantic model"),
    "DeliveryOptions": (_is_model, "a pydantic model"),
    "PREFLIGHT_GRADE": (lambda found: isinstance(found, Grade), "one of rotator.model.Grade"),
    "build": (callable, "a function"),
}
