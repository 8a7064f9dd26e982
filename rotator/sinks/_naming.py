"""How sinks other than files spell untrusted values in the names of their places. Pure.

A value that is clean by the sink's rules stands as it is. Any other keeps what is clean of it, for people, and ends in
half a SHA-256 of the whole value; a clean value that already ends like that is treated so too. So two values share no
name, no value can add a path segment, and a name never exceeds what the sink allows.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rotator.errors import Permanent
from rotator.templates import PLACEHOLDERS, Template

_DIGEST = 16  # hexadecimal digits of a SHA-256
_LEAST = _DIGEST + 8  # characters that a value needs at least: a readable start and the digest
_LOOKS_CUT = re.compile(rf"(.*[^0-9A-Za-z])?[0-9A-Fa-f]{{{_DIGEST}}}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Naming:
    """The rules of one kind of name.

    Attributes:
        clean: Fully matches a value that may stand as it is, wherever in a name.
        dirty: Runs of characters that no name may hold.
        literal: Fully matches what a template may hold besides its placeholders.
        rule: Says to people what a template may hold.
        fill: Stands for such a run, and before the digest.
        longest: Characters of a whole name.
        fold: Applied to what is kept of a value that is not clean: `str.lower` where names have no upper case.
        digest: Applied to the digest, likewise.
    """

    clean: re.Pattern[str]
    dirty: re.Pattern[str]
    literal: re.Pattern[str]
    rule: str
    fill: str = "-"
    longest: int = 255
    fold: Callable[[str], str] = str
    digest: Callable[[str], str] = str

    def parse(self, text: str) -> Template:
        """Return the template of a name; raises ValueError with the fix."""
        template = Template.parse(text, PLACEHOLDERS)
        if not template.parts or (template.literal and not self.literal.fullmatch(template.literal)):
            raise ValueError(self.rule)
        if len(template.literal) + _LEAST * len(template.names) > self.longest:
            raise ValueError(f"is too long for a name of {self.longest} characters ({_LEAST} for each placeholder)")
        return template

    def rendered(self, template: Template, facts: Mapping[str, str]) -> str:
        """Return the name for one token.

        Raises:
            Permanent: A placeholder is empty, or the name would be none.
        """
        name = template.render(facts, lambda value: self.spelt(value, self.longest))
        if len(name) > self.longest:
            share = (self.longest - len(template.literal)) // max(1, len(template.names))
            name = template.render(facts, lambda value: self.spelt(value, share))
        if not name:
            raise Permanent("the name of its place would be empty")
        return name

    def spelt(self, value: str, longest: int) -> str:
        """Return a value as part of a name, of so many characters at most."""
        if self.clean.fullmatch(value) and len(value) <= longest and not _LOOKS_CUT.fullmatch(value):
            return value
        digest = self.digest(hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST])
        kept = self.dirty.sub(self.fill, self.fold(value))[: longest - _DIGEST - 1].strip(f"{self.fill}._-/ ")
        return f"{kept}{self.fill}{digest}" if kept else digest
