"""What is wrong with a file, in words: the place, what was found, and the fix."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from rotator.config.tables import File
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
        return Problem(path, f"unknown key; {_hint(model, location, where)}")
    if row["type"] == "missing":
        return Problem(path, "is missing")
    if row["type"] in ("model_type", "list_type", "dict_type") and (wanted := _header(model, location, where)):
        return Problem(path, f"must be a table; write {wanted}")
    said = row["msg"].removeprefix("Value error, ")
    field = _model_at(model, location[:-1]).model_fields.get(location[-1]) if location else None
    if row["type"] == "string_pattern_mismatch" and model is File and field is not None and field.description:
        said = f"must be {field.description}"  # which in our own tables says what may stand there
    found = row["input"]
    # Never repeat what stands where a reference belongs: it may be the secret itself.
    secret = path.startswith(_UNSAID) or (location and location[-1] in _REFERENCES)
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) and not secret else ""
    return Problem(path, f"{said}{'' if repr(found) in said else shown}")


def _hint(model: type[BaseModel], location: Sequence[str], where: tuple[str, ...]) -> str:
    """Return what to do about an unknown key: in TOML, many are right but for the table they stand in."""
    *table, key = location
    if key in _keys_at(model, table):  # `[policies.select]`, and select was taken for a name
        return f"give the table a name of its own: [{table[0]}.NAME]"
    for home, keys in _others(model, table, where):
        if key in keys:
            return f"it belongs into {'.'.join(home)}" if home else "it belongs to the top, above all tables"
    allowed = _keys_at(model, table)
    near = difflib.get_close_matches(key, allowed, 1)
    return f"did you mean {near[0]!r}?" if near else f"allowed here: {', '.join(sorted(allowed))}"


def _header(model: type[BaseModel], location: Sequence[str], where: tuple[str, ...]) -> str:
    """Return the line that a table begins with at a place; empty where no table belongs."""
    *table, key = location
    path = ".".join((*where, *location))
    field = _model_at(model, table).model_fields.get(key)
    if field is None or not _model_in(field.annotation):  # as `type` is, in a `[providers]` that has no name
        is_named = bool(table) and table[-1] in model.model_fields
        return f"[{'.'.join((*where, *table))}.NAME] above it" if is_named else ""
    kind = get_origin(field.annotation)
    return f"[[{path}]]" if kind in (list, tuple) else f"[{path}.NAME]" if kind is dict else f"[{path}]"


def _others(
    model: type[BaseModel], table: Sequence[str], where: tuple[str, ...]
) -> Iterator[tuple[Sequence[str], list[str]]]:
    """Yield the tables below one and their keys, then those that it stands in, the nearest first."""
    path = (*where, *table)
    for name, field in _model_at(model, table).model_fields.items():
        below = _model_in(field.annotation)
        if below:
            yield (*path, name, *(("NAME",) if get_origin(field.annotation) is dict else ())), list(below.model_fields)
    for depth in reversed(range(len(path))):
        yield path[:depth], _keys_at(File, path[:depth])


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the keys that are allowed at a place of the file."""
    return list(_model_at(model, location).model_fields)


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    """Return what a place of the file has to be; names and numbers of tables are passed over."""
    found = model
    for part in location:
        field = found.model_fields.get(part)
        found = (_model_in(field.annotation) if field else None) or found
    return found


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_model_in(part) for part in getattr(annotation, "__args__", ())]
    return next((found for found in inner if found), None)


def unknown(path: str, found: str, known: Iterable[str], what: str) -> Problem:
    near = difflib.get_close_matches(found, list(known), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return Problem(path, f"no {what} is called {found!r}; {hint}" if found else f"name one of: {', '.join(known)}")
