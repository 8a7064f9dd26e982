"""Untrusted text made safe to show: on a terminal, in a log line, in an error message. Pure.

Names, descriptions and notes come from whoever may edit a token; everything of theirs that people read passes here.
"""

_ELLIPSIS = "…"

# Printable by the letter of Unicode, yet nothing is seen: fillers, joiners and variation selectors, which can hide
# whole messages in a name.
_INVISIBLE = frozenset(
    (
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    )
)


def visible(text: str, limit: int = 120) -> str:
    """Return the text on one line, with everything that is not seen as itself escaped.

    Control characters, C1, bidirectional overrides, zero width, line and paragraph separators, odd spaces and lone
    surrogates come out as `\\x1b` or `\\u202e`, so that a name can neither move a cursor nor forge a log line. A
    backslash stays as it is, hence showing shown text again changes nothing.

    Args:
        text: Anything.
        limit: Longest result, in characters; a longer text ends in an ellipsis.
    """
    if text.isascii() and text.isprintable() and len(text) <= limit:  # nearly everything, so it is worth a line
        return text
    shown: list[str] = []
    left = limit
    for character in text:
        piece = _escaped(character)
        left -= len(piece)
        if left < 0:
            return _cut(shown, limit)
        shown.append(piece)
    return "".join(shown)


def _cut(pieces: list[str], limit: int) -> str:
    """Return as many whole pieces as leave room for the ellipsis."""
    length = sum(map(len, pieces))
    while pieces and length > limit - len(_ELLIPSIS):
        length -= len(pieces.pop())
    return "".join(pieces) + _ELLIPSIS


def _escaped(character: str) -> str:
    code = ord(character)
    if character.isprintable() and code not in _INVISIBLE:
        return character
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
