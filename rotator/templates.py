"""Placeholders in paths and fields: `{name}` and nothing more. Pure.

There is no attribute access, no format specification and no conversion, so that neither a configuration nor an
untrusted name reaches further than the listed values. Config parses every template while it loads; sinks render.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rotator.errors import Permanent
from rotator.model import Mint
from rotator.text import visible
from rotator.timing import stamp

PLACEHOLDERS = (
    "token_id",
    "name",
    "scope",
    "workspace_id",
    "deployment_id",
    "organization_id",
    "policy",
    "provider",
)
FIELD_PLACEHOLDERS = (*PLACEHOLDERS, "secret", "end_at", "rotated_at", "rotation_id")
SECRET_FIELD = "{secret}"  # exactly this: the field that is read back

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template.

    Attributes:
        parts: Literals and placeholder names in order, as (whether it is a placeholder, text); no part is empty.
    """

    parts: tuple[tuple[bool, str], ...]

    @classmethod
    def parse(cls, text: str, allowed: Sequence[str]) -> "Template":
        """Return the template that the text says.

        Args:
            text: `{name}` stands for a value, `{{` and `}}` for braces.
            allowed: The names that may be used.

        Raises:
            ValueError: An unknown placeholder or a lone brace; the message names the nearest allowed one.
        """
        return cls(tuple(part for part in _parts(text, allowed) if part[1]))

    @property
    def names(self) -> tuple[str, ...]:
        """The placeholders in it, in order, one as often as it is used."""
        return tuple(text for is_name, text in self.parts if is_name)

    @property
    def literal(self) -> str:
        """All of it that is not a placeholder."""
        return "".join(text for is_name, text in self.parts if not is_name)

    def split(self, separator: str) -> tuple["Template", ...]:
        """Return the templates between the separators that stand in its literals."""
        pieces: list[list[tuple[bool, str]]] = [[]]
        for is_name, text in self.parts:
            first, *others = [text] if is_name else text.split(separator)
            pieces[-1].append((is_name, first))
            pieces.extend([(False, other)] for other in others)
        return tuple(Template(tuple(part for part in piece if part[1])) for piece in pieces)

    def render(self, values: Mapping[str, str], escape: Callable[[str], str] = str) -> str:
        """Return the text with every value put in, escaped; literals stay as they are.

        Raises:
            Permanent: A value is empty.
        """
        self.require(values)
        return "".join(escape(values[text]) if is_name else text for is_name, text in self.parts)

    def require(self, values: Mapping[str, str], optional: Sequence[str] = ()) -> None:
        """Refuse values of which one that it uses is empty.

        Raises:
            Permanent: Naming the placeholder.
        """
        for name in self.names:
            if name not in optional and not values.get(name):
                raise Permanent(f"{name} is empty for this token, so {{{name}}} cannot be used for it")


def render_fields(fields: Mapping[str, str], mint: Mint, facts: Mapping[str, str]) -> dict[str, str]:
    """Return what a sink writes, by key: in plain text, so keep it no longer than the write takes.

    Args:
        fields: Key to template over `FIELD_PLACEHOLDERS`. `end_at` and `rotated_at` come out as RFC 3339 in UTC with
            `Z`, `end_at` empty if the token never expires.
        mint: Whose secret it is.
        facts: Placeholder name to value; see `PLACEHOLDERS`.

    Raises:
        Permanent: A fact that is used is empty.
    """
    values = {
        **facts,
        "secret": mint.secret,
        "end_at": stamp(mint.end_at) if mint.end_at else "",
        "rotated_at": stamp(mint.rotated_at),
        "rotation_id": mint.rotation_id,
    }
    known = {name: str(value) for name, value in values.items()}
    templates = {key: Template.parse(text, FIELD_PLACEHOLDERS) for key, text in fields.items()}
    for template in templates.values():
        template.require(known, optional=("end_at",))
    # Only the last expression holds the plain text: a failure above shows no frame with it.
    plain = {**known, "secret": mint.secret.reveal()}
    return {key: "".join(plain[text] if is_name else text for is_name, text in t.parts) for key, t in templates.items()}


def _parts(text: str, allowed: Sequence[str]) -> Iterator[tuple[bool, str]]:
    at = 0
    for match in _PART.finditer(text):
        yield False, text[at : match.start()]
        yield _part(match, allowed)
        at = match.end()
    yield False, text[at:]


def _part(match: re.Match[str], allowed: Sequence[str]) -> tuple[bool, str]:
    if match[0] in ("{{", "}}"):
        return False, match[0][0]
    name = match[1]
    if name is None:
        raise ValueError(f"a {match[0]} stands alone; double it ({match[0] * 2}) to mean the character")
    if name in allowed:
        return True, name
    near = difflib.get_close_matches(name.lower(), allowed, 1)
    hint = f"did you mean {{{near[0]}}}? " if near else ""
    raise ValueError(f"unknown placeholder {{{visible(name, 40)}}}; {hint}allowed are {', '.join(allowed)}")
