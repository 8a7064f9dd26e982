"""What is wrong with a file, in words: the place, what was found, and the fix."""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from rotator.errors import Problem

_UNSAID = ("sinks.", "audit.http.")  # a URL may hold a secret in its path
_REFERENCES = (
    "credential", "key", "token", "role_id", "secret_id", "jwt", "url", "signing_key", "pushgateway",
    "pushgateway_password",
)  # fmt: skip


def all_explained(error: ValidationError, model: type[BaseModel], where: tuple[str, ...]) -> list[Problem]:
    return [explained(row, model, where) for row in error.errors(include_url=False, include_input=True)]


def explained(row: Any, model: type[BaseModel], where: tuple[str, ...]) -> Problem:
    location = [str(part) for part in row["loc"] if part not in ("timedelta", "function-before")]
    path = ".".join((*where, *location))
    if row["type"] == "extra_forbidden":
        allowed = _keys_at(model, row["loc"][:-1])
        near = difflib.get_close_matches(location[-1], allowed, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed here: {', '.join(sorted(allowed))}"
        return Problem(path, f"unknown key; {hint}")
    if row["type"] == "missing":
        return Problem(path, "is missing")
    said = row["msg"].removeprefix("Value error, ")
    found = row["input"]
    # Never repeat what stands where a reference belongs: it may be the secret itself.
    secret = path.startswith(_UNSAID) or (location and location[-1] in _REFERENCES)
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) and not secret else ""
    return Problem(path, f"{said}{'' if repr(found) in said else shown}")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed at a place of the file."""
    found: type[BaseModel] | None = model
    for part in location:
        field = found.model_fields.get(str(part)) if found else None
        found = _model_in(field.annotation) if field else found
    return list(found.model_fields) if found else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_model_in(part) for part in getattr(annotation, "__args__", ())]
    return next((found for found in inner if found), None)


def unknown(path: str, found: str, known: Iterable[str], what: str) -> Problem:
    near = difflib.get_close_matches(found, list(known), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return Problem(path, f"no {what} is called {found!r}; {hint}" if found else f"name one of: {', '.join(known)}")
