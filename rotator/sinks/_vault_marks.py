"""What the vault sink notes in the custom metadata of a secret: one mark for each key that a delivery wrote. Pure.

A mark counts only for the version that it names, since metadata outlives a write by hand. Whoever writes another key of
the same secret carries the marks along: check-and-set says that their keys are unchanged.
"""

import re
from collections.abc import Mapping
from hashlib import sha256

import msgspec

from rotator.model import Mint
from rotator.sinks._payload import Mark
from rotator.sinks._vault_kv import Content
from rotator.text import visible

_CLEAN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PREFIX = "rotator."
_LONGEST = 64  # characters of one part; Vault takes 512 for all of a mark
_ONE_FOR_ALL = ("token-id", "lineage", "mint-id", "rotated-at", "fingerprint", "version")  # for all keys, once


def label(key: str) -> str:
    """Return what the mark of a key is called; Vault takes 128 characters."""
    return _PREFIX + (
        key if _CLEAN.fullmatch(key) else f"~{sha256(key.encode(errors='surrogatepass')).hexdigest()[:32]}"
    )


def mark_of(content: Content, key: str) -> Mark | None:
    """Return the mark of a key as far as it counts for what is there now."""
    mark = Mark.parse(content.custom.get(label(key), ""))
    return mark if mark is not None and mark.version == str(content.version) else None


def marked(mint: Mint, version: int, over: int) -> Mark:
    """Return the mark of a mint, short enough for Vault.

    Args:
        over: The version that was replaced, 0 for none.
    """
    mark = Mark.of(mint, str(version), str(over or ""))
    shown = {name: visible(getattr(mark, name), _LONGEST) for name in ("token", "lineage", "print")}
    return msgspec.structs.replace(mark, **shown)


def change(before: Content, written: Mapping[str, object], key: str, mark: Mark) -> dict[str, str | None]:
    """Return what to merge into the custom metadata; None removes.

    Args:
        before: What was there when it was written, or is there if nothing had to be.
        written: The keys that the delivery writes.
        key: The one that holds the secret.
        mark: Its own.
    """
    live = {label(other): mark_of(before, other) for other in before.data if other not in written}
    moved = {
        name: str(msgspec.structs.replace(found, version=mark.version))
        for name, found in live.items()
        if found is not None and found.version != mark.version
    }
    old = {f"rotator-{name}" for name in _ONE_FOR_ALL}
    ours = {name for name in before.custom if name in old or name.startswith(_PREFIX)}
    return {**dict.fromkeys(ours - set(live)), **moved, label(key): str(mark)}
