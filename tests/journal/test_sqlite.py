"""The journal: atomic, sealed, fenced, shared by processes, and clear when it cannot work."""

import base64
import contextlib
import fcntl
import gc
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rotator.audit import AuditFile, Author, Head, verify
from rotator.errors import AuditUnavailable, ConfigError, NoLongerHeld, Permanent, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.journal.lock import FileLock, Instances, refuse_network_file_system
from rotator.journal.rows import translated
from rotator.journal.sealing import Keyring, KeySource
from rotator.journal.sqlite import Reader, SqliteJournal, open_journal
from rotator.model import DeliveryRecord, Generation, Lineage, Place, Reason, Rotation, Scope, State
from rotator.ports import Write
from rotator.recent import MOMENT_S
from rotator.secret import Secret

AT = datetime(2026, 1, 1, tzinfo=UTC)
CANARY = "canary-5f3c1e77-plaintext"
KEY = base64.b64encode(b"k" * 32).decode()
OTHER = base64.b64encode(b"o" * 32).decode()


def keys(folder: Path, text: str | None = KEY) -> KeySource:
    return KeySource("env:KEY", Secret(text) if text else None, folder / "rotator.key")


@contextmanager
def opened(folder: Path, source: KeySource | None = None, audit: Path | None = None) -> Iterator[SqliteJournal]:
    trail = AuditFile(audit or folder / "audit.jsonl", Author("test", str(os.getpid())))
    journal = open_journal(folder / "rotator.db", source or keys(folder), trail)
    try:
        yield journal
    finally:
        journal.close()


def rotation(number: int = 1, **changes: object) -> Rotation:
    made = Rotation(
        f"r{number}", "astro", f"t{number}", f"t{number}", "p", Reason.MAX_AGE, State.INTENDED, "svc", Scope.WORKSPACE,
        "org", Generation(None, AT), AT, (), posts=1,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def lineage(number: int = 1, version: int = 0) -> Lineage:
    return Lineage("astro", f"t{number}", f"t{number}", "svc", version=version)


def fact(number: int = 1) -> Event:
    return Event(name=EventName.ROTATION_INTENDED, at=AT, token_id=f"t{number}", rotation_id=f"r{number}")


def minted(journal: SqliteJournal, number: int = 1) -> Rotation:
    assert journal.open(rotation(number), lineage(number), (fact(number),))
    sealed = rotation(number, state=State.MINTED, mint_id="m1")
    journal.write(Write(rotation=sealed, secret=Secret(CANARY)))
    return sealed


def test_a_lineage_has_one_open_rotation(tmp_path: Path) -> None:
    """A second open, and one that read the lineage before it changed, write nothing and announce nothing."""
    with opened(tmp_path) as journal:
        assert journal.open(rotation(), lineage(), (fact(),))
        assert not journal.open(rotation(id="r2"), lineage(version=1), (fact(),))
        journal.write(Write(rotation=rotation(closed_at=AT, state=State.REFUSED), lineage=lineage()))
        assert not journal.open(rotation(id="r3"), lineage(version=1), (fact(),))
        assert journal.open(rotation(id="r4"), lineage(version=2), (fact(),))
    assert verify(tmp_path / "audit.jsonl").lines == 2


HERE = DeliveryRecord(Place("files", "/x", {}, parts=("/x#a", "/x#b")))
CLAIMS = HERE.place.claims


def test_an_open_rotation_owns_its_places(tmp_path: Path) -> None:
    """Another lineage gets none of them, not even one, until it closes: then what never settled gives them back."""
    with opened(tmp_path) as journal:
        mine, near = rotation(deliveries=(HERE,)), DeliveryRecord(Place("files", "/x#b", {}))
        assert journal.open(mine, lineage(), (fact(),))
        free = DeliveryRecord(Place("files", "/free", {}))
        assert not journal.open(rotation(2, deliveries=(free, near)), lineage(2), (fact(2),))
        assert [r.id for r in journal.open_rotations("astro")] == ["r1"]
        assert journal.place_owners([*CLAIMS, ("files", "/free")]) == dict.fromkeys(CLAIMS, ("astro", "t1"))
        journal.write(Write(rotation=replace(mine, closed_at=AT, state=State.REFUSED), lineage=lineage()))
        assert not journal.place_owners(CLAIMS)
        assert journal.open(rotation(2, deliveries=(free, near)), lineage(2), (fact(2),))
    assert verify(tmp_path / "audit.jsonl").lines == 2


def test_places_that_may_hold_something_of_a_lineage_stay_its(tmp_path: Path) -> None:
    """Stale, it keeps what it took; otherwise it falls back to where it last settled; gone, it has nothing."""
    there = Place("files", "/old", {})
    with opened(tmp_path) as journal:
        for number, (changes, owned) in enumerate(
            [
                ({"stale": True}, {*CLAIMS}),
                ({"places": (there,)}, {*there.claims}),
                ({"stale": True, "gone_at": AT}, set()),
            ],
            start=1,
        ):
            mine = rotation(id=f"r{number}", deliveries=(HERE,))
            known = journal.lineages("astro", ["t1"]).get("t1", lineage())
            shadow = replace(known, open_state=State.INTENDED, gone_at=AT)  # gone once: it is back, and open
            assert journal.open(mine, shadow, (fact(),))
            journal.write(Write(rotation=mine, lineage=shadow))
            assert set(journal.place_owners(CLAIMS)) == {*CLAIMS}
            journal.write(
                Write(
                    rotation=replace(mine, closed_at=AT, state=State.SUPERSEDED), lineage=replace(lineage(), **changes)
                )
            )
            assert set(journal.place_owners([*CLAIMS, *there.claims])) == owned


def test_a_place_of_another_lineage_is_never_taken(tmp_path: Path) -> None:
    """What was learnt of a lineage that would own it is not written; one that settles there leaves it alone."""
    with opened(tmp_path) as journal:
        assert journal.remember(Write(lineage=lineage(), claims=CLAIMS)) == (True,)
        assert journal.remember(Write(lineage=lineage(2), claims=CLAIMS[:1])) == (False,)
        assert not journal.lineages("astro", ["t2"])
        assert journal.open(rotation(2), lineage(2), (fact(2),))
        settled = rotation(2, closed_at=AT, state=State.SETTLED)
        journal.write(Write(rotation=settled, lineage=lineage(2), claims=(*CLAIMS, ("files", "/free"))))
        owners = journal.place_owners([*CLAIMS, ("files", "/free")])
        assert owners == dict.fromkeys(CLAIMS, ("astro", "t1")) | {("files", "/free"): ("astro", "t2")}


def test_owners_of_a_file_and_of_its_keys_are_found_by_each_other(tmp_path: Path) -> None:
    """Who asks for a key hears of who writes the file whole, and the other way round; of no other key or file."""
    spots = ["/x", "/x#a", "/x#b", "/x$", "/x2", "/y#a"]
    with opened(tmp_path) as journal:
        for number, spot in enumerate(spots, start=1):
            assert journal.remember(Write(lineage=lineage(number), claims=(("files", spot),))) == (True,)

        def near(spot: str) -> list[str]:
            return sorted(location for _, location in journal.place_owners([("files", spot)]))

        assert near("/x") == ["/x", "/x#a", "/x#b"]
        assert near("/x#a") == ["/x", "/x#a"]
        assert near("/x#c") == ["/x"]
        assert near("/y") == ["/y#a"]
        assert not journal.place_owners([("other", "/x")])


def test_a_lineage_is_found_by_the_members_it_has_now(tmp_path: Path) -> None:
    """By a twin from the write that brings it, no longer by one that a write leaves out, always by its root."""
    with opened(tmp_path) as journal:

        def found_by() -> list[str]:
            return [word for word in ("t1", "twin", "old") if journal.lineages("astro", [word])]

        for changes, found in (
            ({}, ["t1"]),
            ({"twin": "twin"}, ["t1", "twin"]),
            ({"twin": "twin", "token_id": "old"}, ["t1", "twin", "old"]),
            ({"token_id": "twin"}, ["t1", "twin"]),
            ({"token_id": "twin"}, ["t1", "twin"]),
            ({}, ["t1"]),
        ):
            journal.write(Write(lineage=replace(lineage(), **changes)))
            assert found_by() == found


def test_a_sealed_secret_survives_and_is_erased_at_the_end(tmp_path: Path) -> None:
    """The value comes back after a restart; nothing on disk shows it; once closed, its ciphertext is gone too."""
    with opened(tmp_path) as journal:
        sealed = minted(journal)
    with opened(tmp_path) as journal:
        assert journal.claim("r1") == sealed
        assert journal.secret(sealed).reveal() == CANARY
        with sqlite3.connect(tmp_path / "rotator.db") as raw:
            cipher = raw.execute("SELECT sealed FROM rotations").fetchone()[0]
        raw.close()
        assert CANARY.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
        journal.write(Write(rotation=replace(sealed, state=State.SETTLED, closed_at=AT)))
        journal.erase()
        assert cipher not in b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
        with pytest.raises(Permanent, match="no sealed secret"):
            journal.secret(sealed)


def test_a_sealed_value_opens_only_in_its_row() -> None:
    """Mint id and token id are part of the seal, and so is the key."""
    ring = Keyring(Secret(KEY), "env:KEY")
    sealed = ring.seal(b"x", "m1", "t1")
    assert ring.open(sealed, "m1", "t1") == b"x"
    for mint, token in (("m2", "t1"), ("m1", "t2"), ("m1t", "1")):
        with pytest.raises(Permanent):
            ring.open(sealed, mint, token)
    with pytest.raises(Permanent, match="needs the key"):
        Keyring(Secret(OTHER), "env:KEY").open(sealed, "m1", "t1")


def test_keys_are_rotated_by_putting_a_new_one_first(tmp_path: Path) -> None:
    """Both keys open; afterwards the old one may go, and fingerprints stay the same."""
    with opened(tmp_path) as journal:
        before = journal.fingerprint(Secret("x"))
        minted(journal)
    with opened(tmp_path, keys(tmp_path, f"{OTHER}\n{KEY}")) as journal:
        assert journal.secret(rotation(mint_id="m1")).reveal() == CANARY
        assert journal.fingerprint(Secret("x")) == before
    with opened(tmp_path, keys(tmp_path, OTHER)) as journal:
        assert journal.fingerprint(Secret("x")) == before


@pytest.mark.parametrize("text", [OTHER, "not base64!", "", base64.b64encode(b"short").decode()])
def test_a_wrong_key_is_refused_and_nothing_is_lost(tmp_path: Path, text: str) -> None:
    """A key that is wrong, malformed or empty: one sentence, the journal unchanged, the right key still works."""
    with opened(tmp_path) as journal:
        sealed = minted(journal)
    before = (tmp_path / "rotator.db").read_bytes()
    with pytest.raises(ConfigError) as caught, opened(tmp_path, KeySource("env:KEY", Secret(text or " "))):
        pass
    assert (text or "nothing at all") not in str(caught.value)
    assert (tmp_path / "rotator.db").read_bytes() == before
    with opened(tmp_path) as journal:
        assert journal.secret(sealed).reveal() == CANARY


def test_a_journal_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    """A daemon that is told to reload to it again and again must not run out of files."""
    with opened(tmp_path):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rotator.db").write_bytes(b"no database, " * 500)

    def tried() -> int:
        gc.disable()
        try:
            for folder, key in ((tmp_path, OTHER), (tmp_path / "other", KEY)):
                with pytest.raises(ConfigError), opened(folder, KeySource("env:KEY", Secret(key))):
                    pass
            return len(os.listdir("/proc/self/fd"))
        finally:
            gc.enable()

    before = tried()
    assert [tried() for _ in range(3)] == [before] * 3


def test_a_key_is_made_only_with_a_new_journal(tmp_path: Path) -> None:
    """The key file is made 0600 with the journal; if it is gone later, it is never made again."""
    with opened(tmp_path, keys(tmp_path, None)) as journal:
        minted(journal)
    made = tmp_path / "rotator.key"
    assert made.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "rotator.db").stat().st_mode & 0o777 == 0o600
    made.rename(tmp_path / "away")
    with pytest.raises(ConfigError, match="put the key back"), opened(tmp_path, keys(tmp_path, None)):
        pass
    assert not made.exists()


def test_a_rotation_is_fenced_by_its_holder(tmp_path: Path) -> None:
    """Who never claimed a rotation, or gave it back, cannot write it."""
    with opened(tmp_path) as mine, opened(tmp_path) as theirs:
        sealed = minted(mine)
        assert theirs.claim("r1") is None
        with pytest.raises(Permanent, match="no longer held"):
            theirs.write(Write(rotation=sealed))
        mine.release("r1")
        assert theirs.claim("r1") == sealed
        with pytest.raises(Permanent, match="no longer held"):
            mine.write(Write(rotation=sealed))


def hold_and_die(folder: str) -> None:
    """Open a rotation and die without a word."""
    journal = open_journal(
        Path(folder) / "rotator.db", keys(Path(folder)), AuditFile(Path(folder) / "audit.jsonl", Author("x", "y"))
    )
    journal.open(rotation(), lineage(), (fact(),))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    """After kill -9 the next process claims the rotation at once."""
    child = multiprocessing.get_context("spawn").Process(target=hold_and_die, args=(str(tmp_path),))
    child.start()
    child.join()
    with opened(tmp_path) as journal:
        assert journal.claim("r1") == rotation()


def race(folder: str, wins: "multiprocessing.Queue[int]") -> None:
    """Open the same fifty lineages as everybody else."""
    with opened(Path(folder)) as journal:
        for number in range(50):
            if journal.open(rotation(number, id=f"{os.getpid()}-{number}"), lineage(number), (fact(number),)):
                wins.put(number)


def test_two_processes_never_open_one_lineage_twice(tmp_path: Path) -> None:
    """Of racing processes exactly one wins each lineage, and the audit chain never forks."""
    context = multiprocessing.get_context("spawn")
    with opened(tmp_path):
        pass
    wins = context.Queue()
    children = [context.Process(target=race, args=(str(tmp_path), wins)) for _ in range(3)]
    for child in children:
        child.start()
    won = sorted(wins.get(timeout=60) for _ in range(50))
    for child in children:
        child.join()
    assert won == list(range(50))
    assert wins.empty()
    found = verify(tmp_path / "audit.jsonl")
    assert (found.lines, found.bad_line) == (50, None)


def test_many_threads_share_commits(tmp_path: Path) -> None:
    """Sixty-four threads write at once; each write is there, in its own row."""
    with opened(tmp_path) as journal:
        threads = [threading.Thread(target=minted, args=(journal, number)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(journal.open_rotations("astro")) == 64
        assert journal.lineages("astro", [f"t{n}" for n in range(64)]).keys() == {f"t{n}" for n in range(64)}


def test_a_preflight_serves_all_tokens_for_a_moment(tmp_path: Path) -> None:
    """Within a second the journal is not written again to show that it can be; after it, it is."""
    now = [0.0]
    trail = AuditFile(tmp_path / "audit", Author("test", "i"))
    journal = open_journal(tmp_path / "rotator.db", keys(tmp_path), trail, monotonic=lambda: now[0])
    try:
        journal.preflight()
        other = FileLock(tmp_path / "rotator.db.lock")
        with other.held():  # whoever writes now has to wait
            journal.preflight()
            now[0] += MOMENT_S
            late = threading.Thread(target=journal.preflight)
            late.start()
            late.join(0.2)
            assert late.is_alive()
        late.join(30)
        assert not late.is_alive()
        other.close()
    finally:
        journal.close()


def test_a_refused_change_does_not_spoil_its_neighbours(tmp_path: Path) -> None:
    """Of many writes in one commit, those of rotations that we do not hold fail alone, without a trace in history."""
    with opened(tmp_path) as journal:
        good = [minted(journal, number) for number in range(8)]
        strangers = [rotation(100 + number) for number in range(8)]
        mixed = [one for pair in zip(good, strangers, strict=True) for one in pair]
        with ThreadPoolExecutor(16) as pool:
            futures = [pool.submit(journal.write, Write(rotation=one, events=(fact(),))) for one in mixed]
        assert [type(future.exception()) for future in futures] == [type(None), NoLongerHeld] * 8
        assert len(list(journal.history())) == 8 + 8  # of opening and writing the good ones


def test_an_audit_that_fails_stops_the_intent_but_not_the_mint(tmp_path: Path) -> None:
    """Before the irreversible step a missing line stops it; after it, the secret is kept and the failure told."""
    told: list[str] = []
    audit = tmp_path / "audit"
    trail = AuditFile(audit, Author("test", "i"))
    journal = open_journal(tmp_path / "rotator.db", keys(tmp_path), trail, told.append)
    try:
        assert journal.open(rotation(), lineage(), (fact(),))
        audit.unlink()
        audit.mkdir()
        with pytest.raises(AuditUnavailable):
            journal.open(rotation(2), lineage(2), (fact(2),))
        journal.write(
            Write(rotation=rotation(state=State.MINTED, mint_id="m1"), secret=Secret(CANARY), events=(fact(),))
        )
        assert journal.secret(rotation(mint_id="m1")).reveal() == CANARY
        assert journal.open_rotations("astro") == [rotation(state=State.MINTED, mint_id="m1")]
    finally:
        journal.close()
    assert len(told) == 1


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 8192])
def test_a_damaged_journal_is_named(tmp_path: Path, content: bytes) -> None:
    """A file that is no journal is a config error with its path; it is not touched."""
    (tmp_path / "rotator.db").write_bytes(content)
    with pytest.raises(ConfigError, match=r"rotator\.db"), opened(tmp_path):
        pass
    assert (tmp_path / "rotator.db").read_bytes() == content


def fill(path: Path) -> None:
    """Write until the volume is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_fails_the_write_and_nothing_else(tmp_path: Path) -> None:
    """No space: the write says so, earlier secrets stay, and with space again the journal goes on."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with opened(tmp_path) as journal:
            sealed = minted(journal)
            fill(tmp_path / "filler")
            with pytest.raises(RotatorError):
                journal.preflight()
            failures = 0
            for number in range(2, 40):
                try:
                    journal.open(rotation(number), lineage(number), ())
                except Temporary:
                    failures += 1
            assert failures
            (tmp_path / "filler").unlink()
            assert journal.secret(sealed).reveal() == CANARY
            assert journal.open(rotation(99), lineage(99), (fact(99),))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_journal_has_one_lock_whatever_it_is_called(tmp_path: Path) -> None:
    """A symlink to it is no second journal: whoever opens it by that name sees who is alive, and takes nothing over."""
    (tmp_path / "link").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "link" / "rotator.db").symlink_to(tmp_path / "real" / "rotator.db")
    with opened(tmp_path / "real") as other, opened(tmp_path / "link") as one:
        assert one.open(rotation(), lineage(), (fact(),))
        assert other.claim("r1") is None
    assert {path.name for path in (tmp_path / "link").iterdir()} == {"rotator.db", "audit.jsonl"}


@pytest.mark.parametrize("kind", ["nfs4", "fuse.s3fs"])
def test_a_network_file_system_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    """The innermost mount decides."""
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n"
    with pytest.raises(ConfigError, match=kind):
        refuse_network_file_system(tmp_path / "state", mounts)
    refuse_network_file_system(tmp_path, "/dev/sda / ext4 rw 0 0\n")


def test_readers_see_a_missing_journal_as_empty(tmp_path: Path) -> None:
    """plan and status work before the first sweep and make no file."""
    reader = Reader(tmp_path / "rotator.db")
    assert reader.lineages("astro", ["t1"]) == {}
    assert reader.open_rotations("astro") == []
    assert reader.audit_head() is None
    assert list(tmp_path.iterdir()) == []


def test_every_failure_of_sqlite_is_translated() -> None:
    """Each of sqlite3's exception classes and codes becomes Temporary or Permanent, without its text."""
    for name in dir(sqlite3):
        kind = getattr(sqlite3, name)
        if isinstance(kind, type) and issubclass(kind, sqlite3.Error):
            assert CANARY not in translated(kind(CANARY)).message
        if name.startswith("SQLITE_") and isinstance(kind, int):
            error = sqlite3.OperationalError(CANARY)
            error.sqlite_errorcode = kind
            assert isinstance(translated(error), Temporary | Permanent)
            assert CANARY not in translated(error).message


def test_a_sealed_secret_may_hold_lone_surrogates(tmp_path: Path) -> None:
    """Whatever text the API called a secret is sealed and comes back."""
    with opened(tmp_path) as journal:
        assert journal.open(rotation(), lineage(), (fact(),))
        sealed = rotation(state=State.MINTED, mint_id="m1")
        journal.write(Write(rotation=sealed, secret=Secret("\ud800")))
        assert journal.secret(sealed) == Secret("\ud800")


class Full:
    """An audit that takes nothing."""

    def append(self, events: object, last: object, durable: object) -> Head:
        """Refuse."""
        raise AuditUnavailable("full")


def test_the_journal_survives_a_broken_report_of_a_missing_audit_line(tmp_path: Path) -> None:
    """When telling that lines are missing fails too, the next write is done all the same."""
    told = []

    def broken(message: str) -> None:
        told.append(message)
        raise BrokenPipeError

    journal = open_journal(tmp_path / "rotator.db", keys(tmp_path), Full(), broken)
    done = []
    writes = threading.Thread(
        target=lambda: done.extend(journal.write(Write(events=(fact(),))) is None for _ in range(2)), daemon=True
    )
    writes.start()
    writes.join(10)
    assert done == [True, True]
    journal.close()
    assert told == ["full", "full"]


def test_a_closed_journal_refuses_instead_of_hanging(tmp_path: Path) -> None:
    """A write that comes after the end fails at once."""
    with opened(tmp_path) as journal:
        pass
    failed: list[RotatorError] = []

    def late() -> None:
        try:
            journal.write(Write(events=(fact(),)))
        except RotatorError as error:
            failed.append(error)

    writes = threading.Thread(target=late, daemon=True)
    writes.start()
    writes.join(10)
    assert [error.message for error in failed] == ["the journal is closed"]


def test_instances_that_start_at_once_all_live(tmp_path: Path) -> None:
    """However many start and end at the same moment, none takes another, living one for dead."""

    def start_often(_: int) -> list[bool]:
        lock = FileLock(tmp_path / "lock")
        living = []
        for _ in range(40):
            mine = Instances(tmp_path / "instances", lock)
            living.append((tmp_path / "instances" / mine.me).exists())
            mine.close()
        lock.close()
        return living

    with ThreadPoolExecutor(8) as pool:
        assert all(all(living) for living in pool.map(start_often, range(8)))


def test_two_that_ask_at_once_whether_a_dead_instance_lives_both_hear_no(tmp_path: Path) -> None:
    """Asking is no sign of life: a file that others only look at belongs to nobody."""
    lock = FileLock(tmp_path / "lock")
    mine = Instances(tmp_path / "instances", lock)
    dead = tmp_path / "instances" / "dead"
    dead.touch()
    with dead.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not mine.alive("dead")
    mine.close()
    lock.close()


def test_erasing_says_that_a_reader_kept_it_from_emptying_the_log(tmp_path: Path) -> None:
    """While somebody reads, an erased seal's ciphertext may still be in the WAL; afterwards it is gone."""
    with opened(tmp_path) as journal:
        assert journal.erase()
        reader = sqlite3.connect(tmp_path / "rotator.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM rotations").fetchall()
        minted(journal)
        assert not journal.erase()
        reader.close()
        assert journal.erase()


def test_threads_that_come_and_go_leave_no_files_open(tmp_path: Path) -> None:
    """A daemon's threads are many over the weeks; each reads the journal, and none keeps a connection."""
    with opened(tmp_path) as journal:
        for _ in range(40):
            thread = threading.Thread(target=journal.open_rotations, args=("astro",))
            thread.start()
            thread.join()
        held = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        assert sum(name.endswith("rotator.db") for name in held) < 6


def test_a_provider_stands_for_the_organization_that_is_remembered(tmp_path: Path) -> None:
    """The first one stays once anything is remembered of it; before, a mistake can be corrected."""
    reader = Reader(tmp_path / "rotator.db")
    with opened(tmp_path) as journal:
        assert (reader.organization("astro"), journal.pin_organization("astro", "mistyped")) == ("", "mistyped")
        assert (reader.organization("astro"), journal.pin_organization("astro", "org1")) == ("", "org1")
        journal.write(Write(lineage=lineage()))
        assert journal.pin_organization("astro", "org2") == "org1" == reader.organization("astro")
        assert journal.pin_organization("other", "org2") == "org2"
    with opened(tmp_path) as journal:
        assert journal.pin_organization("astro", "org2") == "org1"
        assert journal.pin_organization("astro", "org1") == "org1"
    reader.close()


def test_a_journal_from_before_has_the_organization_in_its_rotations(tmp_path: Path) -> None:
    """Nothing was pinned yet: the latest rotation says it, closed or open; what was only looked at says nothing."""
    with opened(tmp_path) as journal:
        journal.write(Write(lineage=replace(lineage(9), provider="looked")))
        assert journal.pin_organization("looked", "org2") == "org2" == journal.organization("looked")
        assert journal.open(rotation(), lineage(), (fact(),))
        assert journal.pin_organization("astro", "org2") == "org" == journal.organization("astro")
        journal.write(Write(rotation=rotation(closed_at=AT, state=State.REFUSED)))
        assert journal.pin_organization("astro", "org2") == "org"
