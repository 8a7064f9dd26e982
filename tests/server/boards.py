"""Hand-made boards: an ordinary day, trouble, the first minute, and names that try to break their reader."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from rotator.board import Health, PolicyRow, RotationRow, Snapshot, TokenRow
from rotator.planning import NEXT, STATES

NOW = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NAMES = (
    "svc-billing-export", "svc-dbt-cloud", "ci-deploy-prod", "svc-airflow-metrics", "svc-lineage-sync",
    "terraform-plan", "svc-warehouse-loader", "ops-break-glass", "svc-feature-store", "svc-audit-mirror",
)  # fmt: skip
HOSTILE = (
    "<script>document.title='owned'</script>",
    "{{7*7}}${7*7}{% raw %}",
    '"><img src=https://evil.invalid/x onerror=alert(1)>',
    "right\u202eto left\u2066 isolate",
    "two\nlines\r\nand \x1b[31mred\x07",
    "W" * 256,
    "الرمز السري للخدمة",
    "zero\u200bwidth\ufeff",
)


def token(number: int, state: str = "fresh", **changes: object) -> TokenRow:
    """Return one row, its life a matter of its number."""
    age = (number * 17 % 60 + 2) * DAY
    token_id, born = f"cltoken{number:04d}", NOW - age
    said = {
        "fresh": "rotates when 90d old",
        "due": "last rotated 93d ago, max_age is 90d",
        "quarantined": "lost 3 times in 24h: somebody else rotates it as well",
        "unsettled": "sink vault: permission denied at secret/data/astro",
        "drifted": "sink vault holds another value than was settled",
        "in_doubt": "the rotate call timed out; looked again after the late window",
        "expired": "it expired while the policy was paused",
        "retiring": "the old secret ends after its grace",
        "paused": "paused until the migration is over",
    }
    values: dict[str, object] = {
        "provider": "astro",
        "policy": "services" if number % 3 else "deployments",
        "token_id": token_id,
        "name": NAMES[number % len(NAMES)] + (f"-{number}" if number >= len(NAMES) else ""),
        "scope": ("workspace", "deployment", "organization")[number % 3],
        "state": state,
        "reason": "max_age" if state == "due" else state,
        "message": said.get(state, state),
        "hint": NEXT[state].format(id=token_id),
        "born_at": born,
        "due_at": born + 90 * DAY,
        "expires_at": born + 120 * DAY if number % 4 else None,
    }
    return TokenRow(**(values | changes))  # type: ignore[arg-type]


def board(tokens: Iterable[TokenRow], **changes: object) -> Snapshot:
    """Return a board with two policies that swept a moment ago."""
    rows = tuple(sorted(tokens, key=lambda row: (STATES.index(row.state), row.due_at or NOW)))
    values: dict[str, object] = {
        "at": NOW,
        "started_at": NOW - 3 * DAY - 4 * HOUR,
        "tokens": rows,
        "counts": Counter((row.policy, row.state) for row in rows),
        "looked_at": {"astro": NOW - 48 * MINUTE},
        "policies": (policy("services"), policy("deployments", schedule="0 3 * * mon-fri (Europe/Berlin)")),
        "providers": (Health("astro", "astro", NOW - 48 * MINUTE),),
        "sinks": (Health("vault", "vault", NOW - 2 * HOUR), Health("k8s", "kubernetes_secret", NOW - DAY)),
        "rotations": tuple(rotation(number) for number in range(6)),
        "config_at": NOW - 3 * DAY - 4 * HOUR,
    }
    return Snapshot(**(values | changes))  # type: ignore[arg-type]


def policy(name: str, **changes: object) -> PolicyRow:
    """Return a policy whose last sweep settled."""
    values: dict[str, object] = {
        "schedule": "every 1h (UTC)",
        "strategy": "in_place",
        "next_at": NOW + 12 * MINUTE,
        "started_at": NOW - 48 * MINUTE,
        "finished_at": NOW - 48 * MINUTE + timedelta(seconds=4.2),
        "success_at": NOW - 48 * MINUTE,
        "outcome": "settled",
        "message": "3 settled",
        "lasted": timedelta(seconds=4.2),
    }
    return PolicyRow(name, "astro", **(values | changes))  # type: ignore[arg-type]


def rotation(number: int, outcome: str = "settled", message: str = "") -> RotationRow:
    """Return a rotation some hours ago."""
    name = NAMES[number % len(NAMES)]
    at = NOW - (number * 5 + 1) * HOUR
    return RotationRow(at, "astro", "services", f"cltoken{number:04d}", name, "max_age", outcome, message)


def calm() -> Snapshot:
    """Return an ordinary day."""
    return board([*(token(number) for number in range(38)), token(38, "retiring"), token(39, "paused")])


def trouble() -> Snapshot:
    """Return a day on which nearly everything goes wrong."""
    unsettled = [token(number, "unsettled") for number in range(2, 9)]
    worse = [
        token(0, "quarantined"),
        token(1, "in_doubt"),
        token(9, "drifted"),
        token(10, "expired", born_at=NOW - 121 * DAY, due_at=NOW - 31 * DAY, expires_at=NOW - DAY),
        token(11, "due", born_at=NOW - 93 * DAY, due_at=NOW - 3 * DAY, expires_at=NOW + 27 * DAY),
    ]
    failed = {"outcome": "unsettled", "message": "7 unsettled, 1 quarantined", "missed": 3}
    return board(
        [*unsettled, *worse, *(token(number) for number in range(12, 30))],
        policies=(
            policy("services", **failed),
            policy("deployments", paused_until=NOW + 5 * DAY, started_at=NOW - MINUTE, next_at=None),
        ),
        providers=(Health("astro", "astro", NOW - HOUR, NOW - 4 * MINUTE, "list: 503"),),
        sinks=(
            Health("vault", "vault", NOW - 6 * HOUR, NOW - 48 * MINUTE, "permission denied at secret/data/astro"),
            Health("k8s", "kubernetes_secret"),
        ),
        rotations=(
            rotation(0, "quarantined", "lost 3 times in 24h: somebody else rotates it as well"),
            rotation(1, "lost", "the response never arrived; it is rotated again"),
            *(rotation(number) for number in range(2, 6)),
        ),
        config_problem="policies.services.when.max_age: '90 days' is not a duration; write for example \"90d\"",
    )


def beginning() -> Snapshot:
    """Return the first minute: nothing was swept yet."""
    fresh = {"started_at": None, "finished_at": None, "success_at": None, "outcome": "", "message": "", "lasted": None}
    return board(
        [],
        started_at=NOW - timedelta(seconds=20),
        looked_at={},
        policies=(policy("services", **fresh),),
        providers=(Health("astro", "astro"),),
        sinks=(Health("vault", "vault"),),
        rotations=(),
        config_at=NOW - timedelta(seconds=20),
    )


def hostile() -> Snapshot:
    """Return a board on which every text attacks."""
    states = ("quarantined", "drifted", "unsettled", "fresh")
    rows = [
        token(number, states[number % 4], name=name, message=name, hint=f"`rotator release {name}`", policy=name)
        for number, name in enumerate(HOSTILE)
    ]
    evil = HOSTILE[0]
    return board(
        rows,
        policies=tuple(policy(name, schedule=name, message=name, outcome="failed") for name in HOSTILE),
        providers=(Health(evil, evil, NOW, NOW, HOSTILE[2]),),
        sinks=tuple(Health(name, name, None, NOW, name) for name in HOSTILE),
        rotations=tuple(RotationRow(NOW, evil, name, name, name, name, name, name) for name in HOSTILE),
        config_problem=" ".join(HOSTILE),
    )
