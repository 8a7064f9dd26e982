"""Sealing: minted secrets at rest in the journal, and the fingerprints that compare secrets without keeping them.

AES-256-GCM with a random nonce. The mint id and the token id are associated data, so that a sealed value moved to
another row does not open. Keys come as text by reference: white-space separated base64 of 32 bytes each; the first
one seals, all of them open, which is how keys are rotated. A key is named by a hash of itself.
"""

import base64
import binascii
import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rotator.errors import ConfigError, Permanent
from rotator.secret import Secret

_VERSION = b"\x01"
_ID_BYTES, _NONCE_BYTES, _KEY_BYTES = 4, 12, 32


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the sealing keys come from.

    Attributes:
        reference: As configured, to name it in messages.
        text: The keys; None if the reference is a local file that does not exist.
        file: Where a new key may be created, if the reference is a local file.
    """

    reference: str
    text: Secret | None
    file: Path | None = None

    def create(self) -> Secret:
        """Make a key and write it, 0600, never over an existing file.

        Raises:
            ConfigError: The reference is no local file, or the file cannot be made.
        """
        if self.file is None:
            raise ConfigError.of("journal.key", f"{self.reference} yields no key")
        key = Secret(base64.b64encode(os.urandom(_KEY_BYTES)).decode())
        try:
            descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "w") as stream:
                    stream.write(key.reveal() + "\n")
                    stream.flush()
                    os.fsync(stream.fileno())
                sync_folder(self.file.parent)
            except OSError:
                self.file.unlink(missing_ok=True)  # half a key would stand in the way of every later start
                raise
        except OSError as error:
            raise ConfigError.of("journal.key", f"cannot create {self.file}: {error.strerror}") from None
        return key


def sync_folder(folder: Path) -> None:
    """Make a created, renamed or removed name in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Keyring:
    """The sealing keys that are configured.

    Args:
        text: White-space separated base64 keys of 32 bytes.
        reference: Names the source in messages.

    Raises:
        ConfigError: No key, or one that is malformed; the message does not repeat it.
    """

    def __init__(self, text: Secret, reference: str) -> None:
        self.reference = reference
        keys = [_decoded(word, reference) for word in text.reveal().split()]
        if not keys:
            raise ConfigError.of("journal.key", f"{reference} holds no key; make one with `openssl rand -base64 32`")
        self._keys = {_key_id(key): AESGCM(key) for key in keys}
        self.active = _key_id(keys[0])

    def __contains__(self, key_id: bytes) -> bool:
        return key_id in self._keys

    def seal(self, plaintext: bytes, mint_id: str, token_id: str) -> bytes:
        """Return version, key id, nonce and ciphertext in one."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys[self.active].encrypt(nonce, plaintext, _bound(mint_id, token_id))
        return _VERSION + self.active + nonce + sealed

    def open(self, sealed: bytes, mint_id: str, token_id: str) -> bytes:
        """Return the plaintext.

        Raises:
            Permanent: No configured key opens it, or it was sealed for another mint or token.
        """
        key = self._keys.get(key_id_of(sealed))
        if key is None:
            raise Permanent(f"a sealed secret needs the key {key_id_of(sealed).hex()}, which {self.reference} lacks")
        start = len(_VERSION) + _ID_BYTES
        try:
            return key.decrypt(
                sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :], _bound(mint_id, token_id)
            )
        except InvalidTag:
            raise Permanent("a sealed secret does not belong to its row in the journal, or was damaged") from None


class Fingerprints:
    """Compares secrets by a keyed hash; the key is the journal's own and survives the rotation of sealing keys."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.id = _key_id(key).hex()

    def of(self, secret: Secret) -> str:
        """Return `keyid:hex`."""
        return f"{self.id}:{hmac.new(self._key, secret.encoded(), hashlib.sha256).hexdigest()}"

    def mac(self, text: str) -> str:
        """Return 32 hex digits over a text that is no secret; never equal to a fingerprint of it."""
        return hmac.new(self._key, b"mac\0" + text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:32]


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the key that sealed this."""
    return sealed[len(_VERSION) : len(_VERSION) + _ID_BYTES]


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"rotator key id\0" + key).digest()[:_ID_BYTES]


def _bound(mint_id: str, token_id: str) -> bytes:
    mint, token = mint_id.encode(), token_id.encode()
    return len(mint).to_bytes(2) + mint + len(token).to_bytes(2) + token


def _decoded(word: str, reference: str) -> bytes:
    try:
        key = base64.b64decode(word.replace("-", "+").replace("_", "/") + "=" * (-len(word) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigError.of(
            "journal.key", f"{reference} holds something else than base64 keys of 32 bytes (`openssl rand -base64 32`)"
        )
    return key
