"""The value of a token, as a type of its own that nothing prints by accident.

Everything that carries a secret carries a `Secret`. Only a sink, the journal's seal and the `Authorization` header call
`reveal` or `encoded`; a log line, a traceback, an f-string, `json.dumps` and `pickle` never see the value. It is
deliberately not a `str` subclass: `"".join` and `json.dumps` print those.
"""

import hmac
from typing import NoReturn, final

HIDDEN = "Secret(***)"


@final
class Secret:
    """A value that must not be shown.

    Args:
        value: The plaintext. Leading and trailing white space is kept; callers that read files strip it themselves.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            # The message must not repeat what was passed: it may be the secret in another type.
            raise TypeError("a Secret is made of a str")
        self._value = value

    def reveal(self) -> str:
        """Return the plaintext; one of two doors out, so that `grep -E "reveal|encoded"` finds every use."""
        return self._value

    def encoded(self) -> bytes:
        """Return the plaintext as UTF-8; lone surrogates, which a JSON sink may hold, pass, for an error shows them."""
        return self._value.encode(errors="surrogatepass")

    @classmethod
    def decoded(cls, plaintext: bytes) -> "Secret":
        """Return the secret that `encoded` gave these bytes for."""
        return cls(plaintext.decode(errors="surrogatepass"))

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.encoded(), other.encoded())

    # A hash would make secrets keys of dictionaries, and a plain hash is a fingerprint anybody can look up.
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied")
