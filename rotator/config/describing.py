"""The JSON Schema of the file, for editors."""

from collections.abc import Mapping
from typing import Any

from rotator import sinks
from rotator.config.tables import File


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, with the options of every sink type; `$comment` names broken plug-ins."""
    whole = File.model_json_schema()
    broken: dict[str, None] = {}
    for name, attribute in (("SinkTable", "Options"), ("DeliverTable", "DeliveryOptions")):
        table = whole["$defs"][name]
        branches = []
        for kind in sinks.types():
            try:
                options = sinks.described(kind, attribute)
            except ValueError as error:
                broken[str(error)] = None
                continue
            pinned = {"type": {"const": kind}} if name == "SinkTable" else {}
            inner = _inlined(options.get("properties", {}), options.get("$defs", {}))
            branches.append({"properties": {**inner, **pinned}})
        table["anyOf"] = branches
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    if broken:
        whole["$comment"] = f"left out: {'; '.join(broken)}"
    return whole


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a part of a sink's schema with its references resolved: two sinks may call different tables the same."""
    if isinstance(part, list):
        return [_inlined(one, definitions) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = {**definitions[part["$ref"].rpartition("/")[2]], **{k: v for k, v in part.items() if k != "$ref"}}
    return {key: _inlined(value, definitions) for key, value in part.items()}
