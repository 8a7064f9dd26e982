"""What a vault sink's options may say about where Vault is and how to log in to it. Pure."""

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rotator.credentials import Reference

MOUNT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_NEEDS = {
    "token": ("token",),
    "approle": ("role_id", "secret_id"),
    "kubernetes": ("role",),
    "jwt": ("role", "jwt"),
    "aws": ("role",),
}
_MAY = {"kubernetes": ("jwt_path",), "aws": ("region", "server_id")}


class VaultAuth(BaseModel):
    """The `auth` table of a vault sink."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    method: Literal["token", "approle", "kubernetes", "jwt", "aws"] = Field("token", description="How to log in.")
    mount: str = Field("", description="Where the method is mounted; the method's own name if not given.")
    token: str = Field("env:VAULT_TOKEN", description="Reference of the token, for token.")
    role_id: str = Field("", description="Reference of the role id, for approle.")
    secret_id: str = Field("", description="Reference of the secret id, for approle.")
    role: str = Field("", description="For kubernetes, jwt and aws.")
    jwt: str = Field("", description="Reference of the token to show, for jwt.")
    jwt_path: str = Field(_SERVICE_ACCOUNT, description="File of the pod's token, read at each login; for kubernetes.")
    region: str = Field("us-east-1", description="Whose STS vouches for us, for aws.")
    server_id: str = Field("", description="X-Vault-AWS-IAM-Server-ID, for aws.")

    @field_validator("token", "role_id", "secret_id", "jwt")
    @classmethod
    def _reference(cls, text: str) -> str:
        if text:
            Reference.local(text)
        return text

    @field_validator("mount")
    @classmethod
    def _mounted(cls, text: str) -> str:
        if text and not MOUNT.fullmatch(text):
            raise ValueError("must be the path of an auth method without auth/, such as approle or jwt/cluster1")
        return text

    @model_validator(mode="after")
    def _whole(self) -> "VaultAuth":
        needs = _NEEDS[self.method]
        missing = [key for key in needs if not getattr(self, key)]
        if missing:
            raise ValueError(f"{self.method} needs {' and '.join(missing)}")
        allowed = {"method", "mount", *needs, *_MAY.get(self.method, ())}
        if other := sorted(self.model_fields_set - allowed):
            raise ValueError(f"{self.method} takes no {', '.join(other)}")
        return self

    @property
    def at(self) -> str:
        """Where the method is mounted."""
        return self.mount or self.method


def is_usable(address: str) -> bool:
    """Whether secrets may be sent to an address: https, or http to this very machine; no user, query or fragment."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    plain = parts.scheme == "http" and _LOOPBACK.fullmatch(host) is not None
    clean = address.isascii() and address.isprintable() and not {*address} & set("@?# \\")
    return bool(host) and clean and (parts.scheme == "https" or plain)
