"""The secrets, tokens and names that the kit tries sinks with."""

from datetime import UTC, datetime, timedelta

from rotator.model import Mint
from rotator.secret import Secret

CANARY = "eyJhbGciOiJSUzI1NiJ9.canary-4f1d.c2lnbmF0dXJl_-"
OTHER = "eyJhbGciOiJSUzI1NiJ9.other-90ab.c2lnbmF0dXJl_-"
ROTATED_AT = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)

HOSTILE_NAMES = [
    "a/b",
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    "a\\b",
    "nul\0byte",
    "line\nbreak",
    "\x1b[2J",
    "delete\x7f\x9b",
    ".hidden",
    "-rf",
    "*",
    " leading and trailing ",
    "n" * 256,
    "🔑" * 256,
    "\u202egnp.exe",
    "\ud800",
    "{name}",
    "%2e%2e",
    "a#b,c=d",
    "$(id)`id`",
    "'\"",
]

# Names of which no two may share a place, also where the outside folds case, trims, decodes or cuts.
DISTINCT_NAMES = ["a", "A", "a ", "a.", "a/b", "a%2Fb", "a_b", "a-b", "n" * 300, "n" * 301, "é", "e\u0301"]

# Secrets that a careless encoding changes: by name, so that reports stay readable.
ODD_SECRETS = {
    "padded": "canary+/=_-.~==",
    "json": '{"canary": "\\u0041\\\\n"}',
    "quotes": "canary'\"`\\'",
    "expansion": "canary${HOME}$(id)%s{0}{secret}{{name}}",
    "markup": "<canary>&amp;#%41",
    "number": "0012345678901234567890",
    "boolean": "true",
    "dash": "-canary --flag=1 # not a comment",
}


def facts(**changed: str) -> dict[str, str]:
    """Return the facts of a deployment-scoped token."""
    return {
        "token_id": "cltoken1",
        "name": "svc-airflow",
        "scope": "deployment",
        "workspace_id": "clws1",
        "deployment_id": "cldep1",
        "organization_id": "clorg1",
        "policy": "services",
        "provider": "astro",
        **changed,
    }


def mint(secret: str = CANARY, number: int = 1) -> Mint:
    """Return one that a POST may have made."""
    return Mint(
        id=f"mint-{number}",
        rotation_id=f"rotation-{number}",
        token_id="cltoken1",
        secret=Secret(secret),
        rotated_at=ROTATED_AT + timedelta(days=number),
        end_at=ROTATED_AT + timedelta(days=number + 90),
    )
