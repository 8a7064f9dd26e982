"""The `azure_key_vault` sink: secrets of Azure Key Vault, one new version a delivery, the old ones kept.

A set takes no precondition and versions have no numbers: threads of one process take turns, but between two processes
that write keys of one secret the later set wins, and drift shows it. Tags are set with the value in one step, so a mint
that stands in them arrived. Key Vault answers no question about rights: a preflight reads the place, and looks whether
a deleted secret still holds its name, which attests and does not prove.

Sources: learn.microsoft.com/en-us/azure/key-vault/general/about-keys-secrets-certificates: a name holds 1 to 127 of
0-9, a-z, A-Z and -, without regard to case; .../key-vault/secrets/about-secrets: a value has 25k bytes at most, and 15
tags, of 256 characters each in name and value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from pydantic import Field, field_validator, model_validator

from rotator.credentials import Reference
from rotator.errors import NotFound, Permanent
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.sinks._azure import ABSENT, DISABLED, KeyVault, Login, Vault, Version, Wanted, credential_of
from rotator.sinks._journalled import journalled
from rotator.sinks._naming import Naming
from rotator.sinks._payload import Payload, PayloadOptions
from rotator.sinks._web import SecretReference, Turns, WebOptions, checked_url, sound, trusted
from rotator.timing import stamp

PREFLIGHT_GRADE = Grade.ATTESTED

_LARGEST = 25 * 1024
_TAGS = 15
_TAG = 256  # characters of a tag's value
_NAMES = Naming(
    clean=re.compile(r"[0-9a-z-]+"),
    dirty=re.compile(r"[^0-9a-z-]+"),
    literal=re.compile(r"[0-9a-z-]+"),
    rule="must hold a-z, 0-9 and - besides placeholders; Key Vault takes no notice of case",
    longest=127,
    fold=str.lower,
)


class Options(WebOptions):
    """`[sinks.X]` with `type = "azure_key_vault"`."""

    vault_url: str = Field(description="Of the vault, such as https://acme.vault.azure.net")
    managed_identity_client_id: str = Field("", description="Of a user-assigned managed identity.")
    tenant_id: str = Field("", description="With client_id and client_secret: of a service principal.")
    client_id: str = ""
    client_secret: SecretReference = Field("", description="Secret reference, read at every login.")

    @field_validator("vault_url")
    @classmethod
    def _usable(cls, text: str) -> str:
        url = checked_url(text, "https://acme.vault.azure.net")
        if not url.startswith("https://") or url.count("/") != 2:
            raise ValueError("must be https and hold no path: tokens travel only so")
        return url

    @model_validator(mode="after")
    def _whole(self) -> "Options":
        parts = [bool(part) for part in (self.tenant_id, self.client_id, self.client_secret)]
        if any(parts) and not all(parts):
            raise ValueError("tenant_id, client_id and client_secret need each other")
        if any(parts) and self.managed_identity_client_id:
            raise ValueError("set either managed_identity_client_id or client_secret")
        return self


class DeliveryOptions(PayloadOptions):
    """A deliver block whose sink is of type `azure_key_vault`."""

    secret: str = Field("astro-{name}", description="Name of the secret; placeholders are turned into a-z, 0-9 and -.")
    expires: bool = Field(default=False, description="Whether the version expires when the token does.")

    @field_validator("secret")
    @classmethod
    def _secret(cls, text: str) -> str:
        _NAMES.parse(text)
        return text


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled."""

    name: str
    payload: Payload
    expires: bool = False


def build(name: str, options: Options, base: Path) -> "AzureKeyVaultSink":
    """See `rotator.sinks`."""
    ca_file = trusted(options.ca_bundle, base, f"sinks.{name}.ca_bundle")
    reference = Reference.parse(options.client_secret) if options.client_secret else None
    login = Login(
        options.tenant_id,
        options.client_id,
        (lambda: reference.read(base)) if reference else None,
        options.managed_identity_client_id,
    )
    vault = Vault(options.vault_url, ca_file, options.timeout)
    return AzureKeyVaultSink(name, vault.url, KeyVault(name, vault, lambda: credential_of(name, login, vault)))


class AzureKeyVaultSink:
    """See `ports.Sink`; a place is attested by reading it.

    Args:
        name: As configured.
        url: Of the vault, for locations.
        azure: Sends the calls.
    """

    def __init__(self, name: str, url: str, azure: KeyVault) -> None:
        self.name = name
        self._url = url.lower()
        self._azure = azure
        self._turns = Turns()

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`."""
        block = DeliveryOptions.model_validate(dict(options))
        target = _Target(_NAMES.rendered(_NAMES.parse(block.secret), facts), Payload.of(block, facts), block.expires)
        path = f"{self._url.removeprefix('https://')}/secrets/{target.name}"
        payload = target.payload
        options, parts = msgspec.to_builtins(target), payload.parts(path)
        return Place(self.name, payload.location(path), options, parts=parts, store="azure")

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`."""
        self._azure.require_sdk()
        target = journalled(_Target, place)
        held = self._current(target, place.location)
        if held is None:
            self._azure.refuse_deleted(target.name, place.location)
        else:
            target.payload.refuse_unmergeable(held.content, place.location)
            target.payload.refuse_full(held.content, _LARGEST, place.location)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. A value that is there already, of this mint, is not written again."""
        target = journalled(_Target, place)
        with self._turns.of(target.name):
            held = self._current(target, place.location)
            content = held.content if held else None
            target.payload.refuse_unmergeable(content, place.location)
            merged = target.payload.merged(content, mint)
            if held and merged == content and held.tags.get(_tag(target, "mint")) == mint.id:
                return Receipt(place.location, held.id)
            if len(merged.data) > _LARGEST:
                raise Permanent(f"{place.location}: it would be larger than the 25 KB that Key Vault keeps")
            kind = "application/json" if target.payload.fields else (held.content_type if held else "") or "text/plain"
            expires_on = mint.end_at if target.expires else None
            wanted = Wanted(merged, kind, _tagged(target, held.tags if held else {}, mint), expires_on)
            return Receipt(place.location, self._azure.set(target.name, wanted, place.location))

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`."""
        target = journalled(_Target, place)
        outcome = self._azure.current(target.name)
        held = sound(outcome, place.location, is_write=False)
        secret = target.payload.secret(held.content)
        if secret is None:
            raise NotFound(f"{place.location}: it does not hold that key")
        return Held(secret, held.tags.get(_tag(target, "mint"), ""), held.id)

    def close(self) -> None:
        """See `ports.Sink`."""
        self._azure.close()

    def _current(self, target: _Target, location: str) -> Version | None:
        """Return the version that consumers read; None where there is none, or one whose text does not matter."""
        outcome = self._azure.current(target.name)
        if outcome is ABSENT:
            return None
        if outcome is DISABLED:
            if target.payload.fields:
                raise Permanent(
                    f"{location}: its current version is disabled, so its other keys cannot be read; enable it"
                )
            return None
        return sound(outcome, location, is_write=False)


def _tag(target: _Target, what: str) -> str:
    return f"{target.payload.label}-{what}"


def _tagged(target: _Target, tags: Mapping[str, str], mint: Mint) -> dict[str, str]:
    """Return the tags of the new version: the others as they are, ours as far as there is room, the mint first."""
    ours = {
        "mint": mint.id,
        "token": mint.token_id,
        "at": stamp(mint.rotated_at),
        "print": mint.fingerprint,
        "lineage": mint.lineage,
    }
    names = {_tag(target, what) for what in ours}
    kept = {name: value for name, value in tags.items() if name not in names}
    for what, value in ours.items():
        if value and len(kept) < _TAGS:
            kept[_tag(target, what)] = value[:_TAG]
    return kept
