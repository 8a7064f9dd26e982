"""What people type where a token's id or name belongs: a secret that was pasted there is never shown again."""

import re
from collections.abc import Sequence

import click

from rotator.errors import ConfigError

LONGEST_NAME = 256  # characters; no token's id or name is longer
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{13,}\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]*")
_ADVICE = (
    "it looks like a secret, so it is not repeated here. It is now in the shell's history and was in the list of"
    " processes: take it for leaked and give it to `rotator rotate --leaked` on standard input"
)


def token_words(
    context: click.Context,  # noqa: ARG001 - click's signature of a callback
    parameter: click.Parameter,
    given: str | Sequence[str] | None,
) -> str | Sequence[str] | None:
    """Return what was given, for `callback=` of an argument that names tokens.

    Raises:
        ConfigError: A word looks like a secret; the message does not repeat it.
    """
    words = [given] if isinstance(given, str) else given or ()
    if any(looks_secret(word) for word in words):
        raise ConfigError.of((parameter.name or "token").upper(), _ADVICE)
    return given


def looks_secret(word: str) -> bool:
    """Whether a word has the form of a JWT, or is longer than an id or a name can be."""
    return len(word) > LONGEST_NAME or _JWT.search(word) is not None


def redacted(text: str) -> str:
    """Return a sentence of the command line's parser without the JWTs that it quotes."""
    return _JWT.sub("(a secret)", text)
