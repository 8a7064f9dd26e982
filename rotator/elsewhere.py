"""Which tokens the other tables of the configuration work with: to end one of those would lock its table out.

`app` makes one for each command. The engine asks when it plans and again at each token's turn, for a person may put
another credential there any moment. One that cannot be read now counts as the token that it was last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rotator.claims import claims
from rotator.errors import ConfigError, Temporary
from rotator.ports import Holder, Others, OwnCredential
from rotator.providers.astro.own import MOMENT_S
from rotator.recent import Recent


@dataclass(frozen=True, slots=True)
class Held:
    """A credential of one table.

    Attributes:
        holder: The table.
        organization_id: Of the table.
        own: How the credential is read.
    """

    holder: Holder
    organization_id: str
    own: OwnCredential


class Elsewhere:
    """Answers who else works with a token; safe to use from many threads.

    Args:
        held: All credentials of the configuration that are Astro tokens.
        monotonic: Returns seconds that never go back.
    """

    def __init__(self, held: Sequence[Held], monotonic: Callable[[], float]) -> None:
        self._held = tuple(held)
        self._ids: dict[str, str] = {}
        self._kept: Recent[tuple[str, str]] = Recent(monotonic, MOMENT_S)

    def besides(self, provider: str, organization_id: str) -> Others:
        """Return what tables other than this provider's work with, of its organization: a token works in no other."""
        holders: dict[str, tuple[Holder, ...]] = {}
        unread = ""
        for held in self._held:
            if held.holder.table == f"providers.{provider}" or held.organization_id != organization_id:
                continue
            token_id, problem = self._asked_lately(held) if held.own.is_remote else self._asked(held)
            if token_id:
                holders[token_id] = (*holders.get(token_id, ()), held.holder)
            unread = unread or problem
        return Others(holders, unread)

    def _asked_lately(self, held: Held) -> tuple[str, str]:
        """Ask a store once a moment, also where it fails: hundreds of tokens must not each wait for it."""
        return self._kept.get(held.own.reference, lambda: self._asked(held))

    def _asked(self, held: Held) -> tuple[str, str]:
        """Return which token it is, empty if it is none; and why that is not known."""
        try:
            said = claims(held.own.read())
        except (ConfigError, Temporary) as error:
            known = self._ids.get(held.own.reference)
            if known is None and held.own.is_remote:
                return "", f"the credential of {held.holder.table} cannot be read now ({error.message})"
            return known or "", ""  # where a variable or file yields nothing, nobody works with it from here
        token_id = said.token_id if said is not None else ""
        self._ids[held.own.reference] = token_id
        return token_id, ""
