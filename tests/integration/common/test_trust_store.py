from __future__ import annotations

import multiprocessing
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common import trust_store, trust_tables
from common.errors import HubspokeError, Unavailable
from common.invites import InviteRefused
from common.peers import ConnectionState, Peer, PeerRefused
from common.trust_store import NewPeer, TrustStore, TrustStoreError
from tests.envelopes import HUB, HUB_KEY, NOW_S, OTHER_KEY, SPOKE, SPOKE_KEY, id_of, key_of
from tests.integration.common import trust_race
from tests.integration.common.trust_race import introduction, open_store

SPAWN = multiprocessing.get_context("spawn")
INVITE = id_of(1)
ADDED = "INSERT INTO peers (instance, kind, state, created_s) VALUES (?, 'spoke', ?, 1)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trust.db"


@pytest.fixture
def store(path: Path) -> Iterator[TrustStore]:
    opened = open_store(path)
    yield opened
    opened.close()


@pytest.fixture
def other(path: Path, store: TrustStore) -> Iterator[TrustStore]:
    """The same file, as another process of the node has it open."""
    opened = open_store(path)
    yield opened
    opened.close()


def spoke(instance: str = SPOKE, key: Any = SPOKE_KEY, **changes: Any) -> NewPeer:
    return NewPeer(**{"instance": instance, "kind": "spoke", "key": key.public, "url": None, "labels": {}, **changes})


def names(store: TrustStore) -> list[str]:
    return [peer.instance for peer in store.current().peers()]


def in_another_process(target: Callable[..., None], *arguments: Any) -> None:
    process = SPAWN.Process(target=target, args=arguments)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def raw(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the store's back."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute(statement, values)
    finally:
        database.close()


# --- what is kept -----------------------------------------------------------------------------------------


def test_a_peer_is_kept_as_it_was_added(store: TrustStore, other: TrustStore) -> None:
    new = spoke(url="http://127.0.0.1:8701", labels={"zone": "eu"})
    added = store.add(new, "active", NOW_S)
    assert added == Peer(
        SPOKE, "spoke", "active", 1, added.keys, "http://127.0.0.1:8701", 0, {"zone": "eu"}, None, NOW_S
    )
    assert [owned.key for owned in added.keys] == [SPOKE_KEY.public]
    assert store.find(SPOKE) == other.find(SPOKE) == added


def test_the_same_peer_again_is_left_as_it_is(store: TrustStore) -> None:
    first = store.add(spoke(), "active", NOW_S)
    assert store.add(spoke(url="http://elsewhere.example.org"), "pending", NOW_S + 5) == first


def test_the_form_of_the_data_is_counted_up_and_never_down(path: Path, store: TrustStore) -> None:
    assert store.read("PRAGMA user_version") == [(1,)]
    store.raise_format(2)
    store.raise_format(1)
    assert store.read("PRAGMA user_version") == [(2,)]
    store.close()
    raw(path, "DROP TABLE machines")  # as in the file of a release that had none
    again = open_store(path)
    assert again.read("SELECT * FROM machines") == []
    assert again.read("PRAGMA user_version") == [(2,)]
    again.close()


def test_everything_is_there_after_closing(path: Path, store: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    store.add(spoke("build-2", OTHER_KEY), "pending", NOW_S)
    store.set_state("build-2", "revoked")
    before = store.current().peers()
    store.close()
    again = open_store(path)
    assert again.current().peers() == before
    again.close()


def test_keys_policy_and_epoch_of_the_file_are_read(path: Path, store: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    raw(path, "INSERT INTO keys VALUES (1, 1, ?, ?)", OTHER_KEY.public.raw, NOW_S + 60)
    raw(path, "UPDATE peers SET epoch = 3, policy = ?", '{"agents": 1}')
    peer = store.find(SPOKE)
    assert [(owned.key, owned.retires_at) for owned in peer.keys] == [
        (SPOKE_KEY.public, None),
        (OTHER_KEY.public, NOW_S + 60),
    ]
    assert (peer.epoch, peer.policy) == (3, {"agents": 1})


@pytest.mark.attack(62)
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_only_the_owner_can_read_the_files(suffix: str, path: Path, store: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    assert stat.S_IMODE(path.with_name(path.name + suffix).stat().st_mode) == 0o600


# --- what is refused --------------------------------------------------------------------------------------

STRANGE: dict[str, tuple[NewPeer, str]] = {
    "our own id": (spoke(HUB, OTHER_KEY), "not this node's"),
    "our own key": (spoke("build-2", HUB_KEY), "not this node's"),
    "the key of another peer": (spoke("build-2"), "has that key already"),
    "the id of another peer": (spoke(SPOKE, OTHER_KEY), "another key"),
    "the peer as another kind": (spoke(kind="hub"), "another key"),
}


@pytest.mark.attack(27)
@pytest.mark.parametrize(("new", "message"), STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("way", ["add", "redeem", "request"])
def test_nobody_takes_the_id_or_key_of_another(new: NewPeer, message: str, way: str, store: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    store.add_invite(INVITE, NOW_S + 60, {})
    before = store.current().peers()
    sent = introduction(new.instance, new.key, INVITE, kind=new.kind)
    ways = {
        "add": lambda: store.add(new, "active", NOW_S),
        "redeem": lambda: store.redeem(sent, NOW_S),
        "request": lambda: store.request(sent, NOW_S),
    }
    with pytest.raises(PeerRefused, match=message):
        ways[way]()
    assert store.current().peers() == before
    # The invite is still good for its rightful holder.
    store.redeem(introduction("build-3", key_of(9).public, INVITE), NOW_S)


def test_an_unknown_peer_is_not_found(store: TrustStore) -> None:
    for ask in (store.find, lambda each: store.set_state(each, "active"), lambda each: store.approve(each, "SHA256:x")):
        with pytest.raises(PeerRefused) as refused:
            ask("nobody")
        assert refused.value.code == "not_found"


MOVES: list[tuple[ConnectionState, ConnectionState, bool]] = [
    ("pending", "active", True),
    ("pending", "suspended", False),
    ("pending", "revoked", True),
    ("active", "suspended", True),
    ("active", "pending", False),
    ("active", "active", True),
    ("suspended", "active", True),
    ("suspended", "pending", False),
    ("revoked", "active", False),
    ("revoked", "suspended", False),
]


@pytest.mark.attack(33)
@pytest.mark.parametrize(("before", "after", "allowed"), MOVES)
def test_only_allowed_changes_of_state(
    before: ConnectionState, after: ConnectionState, allowed: bool, store: TrustStore, other: TrustStore
) -> None:
    store.add(spoke(), before, NOW_S)
    if allowed:
        assert store.set_state(SPOKE, after).state == other.find(SPOKE).state == after
        return
    with pytest.raises(PeerRefused):
        store.set_state(SPOKE, after)
    assert store.find(SPOKE).state == other.find(SPOKE).state == before


@pytest.mark.attack(34)
def test_approval_takes_the_fingerprint_that_was_compared(store: TrustStore) -> None:
    store.request(introduction(), NOW_S)
    with pytest.raises(PeerRefused, match="another fingerprint"):
        store.approve(SPOKE, OTHER_KEY.public.fingerprint)
    assert store.find(SPOKE).state == "pending"
    assert store.approve(SPOKE, SPOKE_KEY.public.fingerprint).state == "active"
    assert store.find(SPOKE).state == "active"


@pytest.mark.attack(33)
def test_a_revoked_id_that_comes_back_is_a_new_connection_and_its_number_is_never_used_again(store: TrustStore) -> None:
    first = store.add(spoke(labels={"zone": "eu"}), "active", NOW_S)
    seen = {first.connection}
    for number in range(5, 10):
        store.set_state(SPOKE, "revoked")
        joined = store.add(spoke(key=key_of(number)), "active", NOW_S)
        assert joined.connection > max(seen)
        assert (joined.epoch, joined.policy, dict(joined.labels)) == (0, None, {})
        assert [owned.key for owned in joined.keys] == [key_of(number).public]
        seen.add(joined.connection)
    assert names(store) == [SPOKE]


# --- two processes ----------------------------------------------------------------------------------------


@pytest.mark.attack(35)
def test_a_change_by_another_process_counts_from_the_next_look_on(path: Path, store: TrustStore) -> None:
    assert store.current().peers() == ()
    in_another_process(trust_race.add_and_suspend, path)
    assert store.find(SPOKE).state == "suspended"


def test_between_changes_the_same_trust_is_handed_out(store: TrustStore, other: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    seen = other.current()
    assert other.current() is seen
    store.set_state(SPOKE, "revoked")
    assert other.current() is not seen


def race(target: Callable[..., None], path: Path, *arguments: Any, count: int) -> Counter[str]:
    """Run `count` attempts at the same moment, in four processes."""
    start, outcomes = SPAWN.Barrier(count), SPAWN.Queue()
    shares = [list(range(first, count + 1, 4)) for first in range(1, 5)]
    processes = [SPAWN.Process(target=target, args=(path, *arguments, share, start, outcomes)) for share in shares]
    for process in processes:
        process.start()
    found = Counter(outcomes.get(timeout=40) for _ in range(count))
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    outcomes.close()
    outcomes.join_thread()
    return found


def race_numbers(found: Counter[str], prefix: str) -> list[str]:
    return [outcome for outcome in found if outcome.startswith(prefix)]


@pytest.mark.attack(21)
def test_of_many_that_redeem_an_invite_at_once_exactly_one_wins(path: Path, store: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {"zone": "eu"})
    found = race(trust_race.redeem_as_many, path, INVITE, count=32)
    (winner,) = race_numbers(found, "spoke-")
    assert found == {winner: 1, "invite_refused": 31}
    assert names(store) == [winner]
    assert (store.find(winner).state, dict(store.find(winner).labels)) == ("active", {"zone": "eu"})


def test_pending_peers_are_bounded_whoever_asks_at_once(path: Path, store: TrustStore) -> None:
    for number in range(trust_store.MAX_PENDING - 5):
        raw(path, ADDED, f"old-{number}", "pending")
        raw(path, "INSERT INTO keys VALUES (?, 0, ?, NULL)", number + 1, key_of(number + 100).public.raw)
    found = race(trust_race.request_as_many, path, count=16)
    assert found == {"pending": 5, "peer_refused": 11}
    assert len(store.current().peers()) == trust_store.MAX_PENDING


# --- invites ----------------------------------------------------------------------------------------------


def test_an_invite_works_once_and_its_holder_may_repeat_himself(store: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {})
    joined = store.redeem(introduction(invite=INVITE), NOW_S)
    # The reply was lost: also after the invite has expired.
    assert store.redeem(introduction(invite=INVITE), NOW_S + 3600) == joined
    for stranger in (introduction("build-2", OTHER_KEY.public, INVITE), introduction("build-2", invite=INVITE)):
        with pytest.raises(InviteRefused):
            store.redeem(stranger, NOW_S)
    assert names(store) == [SPOKE]


@pytest.mark.parametrize(
    ("invite", "now_s"), [(INVITE, NOW_S + 60), (id_of(2), NOW_S), (None, NOW_S)], ids=["expired", "unknown", "none"]
)
def test_no_good_invite_no_peer(invite: str | None, now_s: int, store: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {})
    with pytest.raises(InviteRefused):
        store.redeem(introduction(invite=invite), now_s)
    assert names(store) == []


@pytest.mark.attack(33)
def test_a_used_invite_does_not_bring_a_revoked_peer_back(store: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {})
    store.redeem(introduction(invite=INVITE), NOW_S)
    store.set_state(SPOKE, "revoked")
    with pytest.raises(InviteRefused):
        store.redeem(introduction(invite=INVITE), NOW_S)
    assert store.find(SPOKE).state == "revoked"


@pytest.mark.attack(33)
def test_a_used_invite_does_not_bring_a_peer_back_that_is_gone(path: Path, store: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {})
    store.redeem(introduction(invite=INVITE), NOW_S)
    raw(path, "DELETE FROM keys")
    raw(path, "DELETE FROM peers")
    with pytest.raises(InviteRefused):
        store.redeem(introduction(invite=INVITE), NOW_S)


def test_a_fresh_invite_brings_a_revoked_peer_back_as_a_new_connection(store: TrustStore) -> None:
    first = store.add(spoke(), "active", NOW_S)
    store.set_state(SPOKE, "revoked")
    store.add_invite(INVITE, NOW_S + 60, {})
    assert store.redeem(introduction(invite=INVITE), NOW_S).connection > first.connection


def test_an_invite_makes_a_pending_peer_active_and_leaves_a_suspended_one_suspended(store: TrustStore) -> None:
    store.request(introduction(), NOW_S)
    store.add_invite(INVITE, NOW_S + 60, {})
    assert store.redeem(introduction(invite=INVITE), NOW_S).state == "active"
    store.set_state(SPOKE, "suspended")
    store.add_invite(id_of(2), NOW_S + 60, {})
    assert store.redeem(introduction(invite=id_of(2)), NOW_S).state == "suspended"


def test_invites_that_ended_long_ago_are_forgotten_used_or_not(store: TrustStore) -> None:
    for number, end_s in ((1, NOW_S - 10), (2, NOW_S - 10), (3, NOW_S), (4, NOW_S + 10)):
        store.add_invite(id_of(number), end_s, {})
    store.redeem(introduction(invite=id_of(1)), NOW_S - 20)
    store.forget_invites(NOW_S)
    assert [each.invite for each in store.open_invites(0)] == [id_of(3), id_of(4)]
    with pytest.raises(InviteRefused):
        store.redeem(introduction(invite=id_of(1)), NOW_S)


@pytest.mark.slow
def test_the_log_of_the_trust_store_stays_small_however_often_it_is_changed(path: Path, store: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    for _ in range(400):
        store.set_state(SPOKE, "suspended")
        store.set_state(SPOKE, "active")
    log = path.with_name(f"{path.name}-wal")
    assert 0 < log.stat().st_size < 8 * 1024 * 1024
    assert path.stat().st_size < 1024 * 1024


def test_the_same_invite_is_noted_once(store: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {})
    with pytest.raises(Unavailable):
        store.add_invite(INVITE, NOW_S + 9999, {})
    with pytest.raises(InviteRefused):
        store.redeem(introduction(invite=INVITE), NOW_S + 61)


def test_open_invites_are_those_that_still_let_somebody_in(store: TrustStore, other: TrustStore) -> None:
    for number, lifetime_s in ((1, 60), (2, 30), (3, 10), (4, 90)):
        store.add_invite(id_of(number), NOW_S + lifetime_s, {"number": str(number)})
    store.redeem(introduction(invite=id_of(4)), NOW_S)
    found = [(each.invite, each.expires_s, dict(each.labels)) for each in other.open_invites(NOW_S + 10)]
    assert found == [(id_of(2), NOW_S + 30, {"number": "2"}), (id_of(1), NOW_S + 60, {"number": "1"})]


def test_a_withdrawn_invite_lets_nobody_in(store: TrustStore, other: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {})
    store.withdraw_invite(INVITE)
    assert other.open_invites(NOW_S) == []
    with pytest.raises(InviteRefused):
        other.redeem(introduction(invite=INVITE), NOW_S)


def test_what_is_no_open_invite_cannot_be_withdrawn(store: TrustStore) -> None:
    store.add_invite(INVITE, NOW_S + 60, {})
    joined = store.redeem(introduction(invite=INVITE), NOW_S)
    for invite in (INVITE, id_of(2)):
        with pytest.raises(InviteRefused, match="no open invite"):
            store.withdraw_invite(invite)
    assert store.redeem(introduction(invite=INVITE), NOW_S) == joined


def test_rules_of_a_peers_own_are_kept_and_cleared(store: TrustStore, other: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    assert store.set_policy(SPOKE, {"agents": 1}).policy == other.find(SPOKE).policy == {"agents": 1}
    assert store.set_policy(SPOKE, {}).policy == other.find(SPOKE).policy == {}
    assert store.set_policy(SPOKE, None).policy is other.find(SPOKE).policy is None
    with pytest.raises(PeerRefused) as refused:
        store.set_policy("nobody", {})
    assert refused.value.code == "not_found"


@pytest.mark.attack(63)
def test_no_secret_is_in_the_file(path: Path, store: TrustStore) -> None:
    from common.invites import secret_of

    store.add_invite(INVITE, NOW_S + 60, {})
    store.redeem(introduction(invite=INVITE), NOW_S)
    secret = secret_of(INVITE, HUB_KEY)
    store.close()
    content = b"".join(each.read_bytes() for each in path.parent.glob("trust.db*"))
    assert INVITE.encode() in content
    assert secret not in content


# --- pending ----------------------------------------------------------------------------------------------


def test_a_full_waiting_room_still_knows_who_waits_in_it(store: TrustStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_store, "MAX_PENDING", 1)
    waiting = store.request(introduction(), NOW_S)
    assert store.request(introduction(), NOW_S) == waiting
    store.add(spoke("build-2", OTHER_KEY), "active", NOW_S)
    store.set_state("build-2", "revoked")
    for late in (introduction("build-2", OTHER_KEY.public), introduction("build-3", key_of(9).public)):
        with pytest.raises(PeerRefused, match="too many"):
            store.request(late, NOW_S)
    assert names(store) == [SPOKE, "build-2"]


# --- files that are not well -------------------------------------------------------------------------------


def _noise(path: Path) -> None:
    path.write_bytes(b"this is no database, and longer than the header of one " * 50)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = bytes([0xAA]) * (len(content) - 4096)
    path.write_bytes(content)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _group_writable(path: Path) -> None:
    path.chmod(0o660)


def _world_writable(path: Path) -> None:
    path.chmod(0o602)


def _low_order_key(path: Path) -> None:
    raw(path, "UPDATE keys SET raw = ?", (1).to_bytes(32, "little"))


def _non_canonical_key(path: Path) -> None:
    raw(path, "UPDATE keys SET raw = ?", (2**255 - 16).to_bytes(32, "little"))


def _short_key(path: Path) -> None:
    raw(path, "UPDATE keys SET raw = ?", b"\0")


def _no_key(path: Path) -> None:
    raw(path, "DELETE FROM keys")


def _two_with_one_key(path: Path) -> None:
    raw(path, ADDED, "build-9", "active")
    raw(path, "INSERT INTO keys SELECT 2, 0, raw, NULL FROM keys")


def _labels_that_are_none(path: Path) -> None:
    raw(path, "UPDATE peers SET labels = '{'")


def _other_tables(path: Path) -> None:
    for statement in ("DROP TABLE keys", "DROP TABLE peers", "CREATE TABLE peers (x)"):
        raw(path, statement)


DAMAGED = [
    _noise,
    _truncated,
    _overwritten,
    _directory,
    _link,
    _group_writable,
    _world_writable,
    _low_order_key,
    _non_canonical_key,
    _short_key,
    _no_key,
    _two_with_one_key,
    _labels_that_are_none,
    _other_tables,
]


@pytest.fixture
def written(path: Path) -> Path:
    """A file with one peer in it, that nobody has open."""
    store = open_store(path)
    store.add(spoke(), "active", NOW_S)
    store.close()
    return path


@pytest.mark.attack(16)
@pytest.mark.attack(17)
@pytest.mark.attack(62)
@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: damage.__name__.strip("_").replace("_", " "))
def test_a_file_that_is_not_well_is_refused_when_it_is_opened(damage: Callable[[Path], None], written: Path) -> None:
    damage(written)
    with pytest.raises(HubspokeError) as refused:
        open_store(written).close()
    assert isinstance(refused.value, TrustStoreError | Unavailable)
    assert "\n" not in refused.value.message


@pytest.mark.attack(16)
def test_a_low_order_key_that_appears_later_is_not_believed(path: Path, store: TrustStore) -> None:
    store.add(spoke(), "active", NOW_S)
    _low_order_key(path)
    with pytest.raises(TrustStoreError, match="low-order"):
        store.current()


def test_opening_writes_nothing_so_that_a_full_disk_can_be_read_from(written: Path) -> None:
    with closing(sqlite3.connect(written)) as watching:
        before = watching.execute("PRAGMA data_version").fetchone()
        open_store(written).close()
        assert watching.execute("PRAGMA data_version").fetchone() == before


def test_a_file_that_only_the_disk_keeps_from_us_is_not_given_up(written: Path) -> None:
    written.with_name(f"{written.name}-wal").mkdir()
    with pytest.raises(TrustStoreError, match="cannot be used now: unable to open database file"):
        open_store(written)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrustStoreError, match="run init first"):
        open_store(tmp_path / "nowhere" / "trust.db")


def test_what_cannot_be_read_is_unavailable(store: TrustStore) -> None:
    store.close()
    with pytest.raises(Unavailable):
        store.current()


# --- a store that cannot write -----------------------------------------------------------------------------


@pytest.mark.fault(13)
@pytest.mark.fault(29)
def test_a_full_disk_changes_nothing_and_recovers(store: TrustStore, other: TrustStore) -> None:
    first = store.add(spoke(), "active", NOW_S)
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="full") as refused:
        store.add(spoke("build-2", OTHER_KEY, labels={"much": "x" * 100_000}), "active", NOW_S)
    assert refused.value.retryable
    assert store.current().peers() == other.current().peers() == (first,)
    store._database.execute("PRAGMA max_page_count = 1000000")
    store.add(spoke("build-2", OTHER_KEY, labels={"much": "x" * 100_000}), "active", NOW_S)
    assert names(other) == [SPOKE, "build-2"]


def test_a_writer_that_takes_too_long_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_tables, "_BUSY_TIMEOUT_S", 0.1)
    store = open_store(path)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        store.add(spoke(), "active", NOW_S)
    assert names(store) == []
    blocker.execute("ROLLBACK")
    blocker.close()
    store.add(spoke(), "active", NOW_S)
    assert names(store) == [SPOKE]
    store.close()


def test_a_commit_that_fails_leaves_no_transaction_open(path: Path, store: TrustStore, other: TrustStore) -> None:
    # A constraint that SQLite looks at only when committing, and that every new peer breaks.
    raw(path, "CREATE TABLE late (connection INTEGER REFERENCES peers(connection) DEFERRABLE INITIALLY DEFERRED)")
    raw(path, "CREATE TRIGGER breaks AFTER INSERT ON peers BEGIN INSERT INTO late VALUES (999); END")
    with pytest.raises(Unavailable):
        store.add(spoke(), "active", NOW_S)
    assert names(store) == names(other) == []
    raw(path, "DROP TRIGGER breaks")
    assert store.add(spoke(), "active", NOW_S).instance == SPOKE


def test_an_error_inside_a_change_undoes_it(store: TrustStore, other: TrustStore) -> None:
    with pytest.raises(TypeError):
        store.add(spoke(labels={"not": {"serialisable"}}), "active", NOW_S)
    assert names(store) == names(other) == []
    store.add(spoke(), "active", NOW_S)


def test_whoever_keeps_record_hears_of_every_change_and_can_stop_it(path: Path) -> None:
    heard: list[tuple[str, object]] = []

    def tell(event: str, facts: Any) -> None:
        heard.append((event, facts.get("peer") or facts.get("invite")))
        if facts.get("state") == "revoked":
            raise Unavailable("the record is full")

    store = TrustStore(path, HUB, HUB_KEY.public, tell)
    store.add_invite(INVITE, NOW_S + 60, {})
    store.redeem(introduction(invite=INVITE), NOW_S)
    store.redeem(introduction(invite=INVITE), NOW_S)
    assert heard == [("invite.made", INVITE), ("peer.added", SPOKE), ("invite.used", SPOKE)]
    with pytest.raises(Unavailable, match="record is full"):
        store.set_state(SPOKE, "revoked")
    assert store.find(SPOKE).state == "active"
    store.close()
