"""The calls that the `astro_environment` sink makes: Deployments, environment objects, and the credential's own roles.

All speak v1, pinned to its first minor version, whichever generation the provider of the tokens speaks: an update has
to say the whole object, so its shape must not grow unnoticed.

Source: the OpenAPI document of v1.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from rotator.errors import CredentialRejected, Forbidden, NotFound, Permanent
from rotator.providers.astro.failures import Operation
from rotator.providers.astro.http import AstroHttp, Call
from rotator.providers.astro.limiter import Limiters
from rotator.secret import Secret
from rotator.sinks._astro_place import Target

PIN = {"X-API-Version": "1.0"}
_PAGE = 100
_MOST_PAGES = 50
_HIDDEN_FOR_S = 600.0  # how long an organization that does not show secrets is not asked to
_BAD_BODY = (msgspec.MsgspecError, ValueError, RecursionError)
_object = msgspec.json.Decoder(dict[str, object])

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """JSON of the API as it came; its repr shows nothing, for it may hold secrets of ours and of others."""

    content: Json


class AstroCalls:
    """Speaks to the API for a sink; safe to use from many threads.

    Args:
        http: Sends.
        limiters: Pace it.
        credential: Read at every call.
        show_secrets: Whether to ask for values that the API may reveal.
        monotonic: Returns seconds that never go back.
    """

    def __init__(
        self,
        http: AstroHttp,
        limiters: Limiters,
        credential: Callable[[], Secret],
        show_secrets: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._limiters = limiters
        self._credential = credential
        self._shows = show_secrets
        self._monotonic = monotonic
        self._hidden_until_s = float("-inf")

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def deployment(self, target: Target) -> Document:
        """Return the Deployment whose variable the target is.

        Raises:
            Temporary, Permanent: It cannot be read; a Deployment that is gone is not an empty place.
        """
        found = self._got(_path(target.organization, "deployments", target.entity), target.entity)
        if found is None:
            raise Permanent("there is no such Deployment, or the credential may not see it; check deployment_id")
        if found.content.get("id") != target.entity:
            raise Permanent("the API answered with another Deployment")
        return found

    def update_deployment(self, target: Target, body: Callable[[], Json]) -> Document:
        """Replace a Deployment's settings by those of `body`; raises OutcomeUnknown too."""
        path = _path(target.organization, "deployments", target.entity)
        return self._sent(Call(Operation.WRITE, "POST", path, document, target.entity, json=body(), headers=PIN))

    def environment_object(self, target: Target) -> Document | None:
        """Return the object that the target is, with its secrets if the API shows them; None if there is none.

        Raises:
            Temporary, Permanent: It cannot be read.
        """
        if self._shows and self._monotonic() >= self._hidden_until_s:
            try:
                return self._found(target, show=True)
            except (CredentialRejected, NotFound):
                raise
            except Permanent:
                pass  # an organization may forbid to show secrets: then this very read works without
            found = self._found(target, show=False)
            self._hidden_until_s = self._monotonic() + _HIDDEN_FOR_S
            return found
        return self._found(target, show=False)

    def create_object(self, target: Target, body: Callable[[], Json]) -> Document:
        """Make an environment object; the answer names its id only. Raises OutcomeUnknown too."""
        path = _path(target.organization, "environment-objects")
        return self._sent(Call(Operation.WRITE, "POST", path, document, json=body(), headers=PIN))

    def update_object(self, target: Target, object_id: str, body: Callable[[], Json]) -> Document:
        """Change an environment object; raises OutcomeUnknown too."""
        path = _path(target.organization, "environment-objects", object_id)
        return self._sent(Call(Operation.WRITE, "POST", path, document, object_id, json=body(), headers=PIN))

    def own_roles(self, organization: str, token_id: str) -> list[Json] | None:
        """Return the roles of the credential's own token; None where it may not read itself."""
        try:
            found = self._got(_path(organization, "tokens", token_id), token_id)
        except Forbidden:
            return None
        return None if found is None else _rows(found.content.get("roles"))

    def _got(self, path: str, subject: str) -> Document | None:
        try:
            return self._sent(Call(Operation.GET, "GET", path, document, subject, headers=PIN))
        except NotFound:
            return None

    def _found(self, target: Target, *, show: bool) -> Document | None:
        query = {
            f"{target.scope.lower()}Id": target.entity,
            "objectType": target.kind.upper(),
            "objectKey": target.key,
            "resolveLinked": "false",
            "showSecrets": "true" if show else "false",
            "limit": str(_PAGE),
        }
        path = _path(target.organization, "environment-objects")
        for page in range(_MOST_PAGES):
            call = Call(
                Operation.LIST, "GET", path, document, query={**query, "offset": str(page * _PAGE)}, headers=PIN
            )
            found = self._sent(call)
            rows = _rows(found.content.get("environmentObjects"))
            total = found.content.get("totalCount")
            if rows is None or not isinstance(total, int):
                raise Permanent("list: the answer has not the expected form")
            mine = next((Document(row) for row in rows if _is(row, target)), None)
            if mine is not None or (page + 1) * _PAGE >= total:
                return mine
        raise Permanent("list: the API does not filter by key, and there are too many objects to look through")

    def _sent(self, call: Call[Document]) -> Document:
        return self._http.send(call, self._credential, self._limiters)


def document(body: bytes) -> Document | None:
    """Return what an answer says; None for a body that is no JSON object."""
    try:
        return Document(_object.decode(body))
    except _BAD_BODY:
        return None


def _is(row: Json, target: Target) -> bool:
    said = (row.get("objectKey"), row.get("objectType"), row.get("scope"), row.get("scopeEntityId"))
    return said == (target.key, target.kind.upper(), target.scope, target.entity)


def _rows(found: object) -> list[Json] | None:
    return cast("list[Json]", found) if isinstance(found, list) and all(isinstance(r, dict) for r in found) else None


def _path(organization: str, *rest: str) -> str:
    return "/".join(("/v1/organizations", organization, *rest))
