"""Registering machines: a name and a key each, under a number that is never used twice; and their directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from common.configuration import ConfigError
from common.errors import Unavailable
from common.keyring import PublicKey
from common.trust_store import NewPeer, TrustStore, TrustStoreError
from spoke.machines.registry import KEY_FILE, MachineRefused, Machines, own_key
from spoke.machines.setup import set_up_machine
from spoke.settings import SpokeDirectory, load
from tests.envelopes import key_of
from tests.spoke_node import run_in_process

OWN, HUB, M1, M2 = (key_of(number).public for number in (1, 2, 3, 4))


@pytest.fixture
def told() -> list[tuple[str, Mapping[str, object]]]:
    return []


@pytest.fixture
def store(tmp_path: Path, told: list[tuple[str, Mapping[str, object]]]) -> Iterator[TrustStore]:
    store = TrustStore(tmp_path / "trust.db", "build-1", OWN, lambda event, fields: told.append((event, fields)))
    yield store
    store.close()


def test_a_machine_is_added_once_and_found_by_its_key(
    store: TrustStore, told: list[tuple[str, Mapping[str, object]]]
) -> None:
    machines = Machines(store)
    added = machines.add("m1", M1, 100)
    assert (added.id, added.key, added.added_s) == ("m1_1", M1, 100)
    assert machines.add("m1", M1, 200) == added
    assert machines.find(M1.kid) == added
    assert machines.find(M2.kid) is None
    assert machines.ids() == {"m1_1"}
    assert told == [("machine.added", {"machine": "m1_1", "kid": M1.kid})]


def test_a_name_that_is_added_again_is_another_machine(store: TrustStore) -> None:
    machines = Machines(store)
    machines.add("m1", M1, 100)
    with pytest.raises(MachineRefused, match="another key"):
        machines.add("m1", M2, 100)
    assert machines.forget("m1").id == "m1_1"
    assert machines.all() == []
    assert machines.add("m1", M2, 100).id == "m1_2"
    with pytest.raises(MachineRefused, match="no machine"):
        machines.forget("m2")


@pytest.mark.parametrize("key", [OWN, HUB, M1])
def test_a_key_belongs_to_one(store: TrustStore, key: PublicKey) -> None:
    store.add(NewPeer("hub-eu", "hub", HUB, None, {}), "active", 100)
    machines = Machines(store)
    machines.add("m1", M1, 100)
    with pytest.raises(MachineRefused, match="a key of its own"):
        machines.add("m2", key, 100)


def test_what_no_machine_is_and_a_file_that_is_gone_are_believed_in_nothing(store: TrustStore, tmp_path: Path) -> None:
    with store.change() as database:
        database.execute("INSERT INTO machines (name, raw, added_s) VALUES ('m1', ?, 1)", (b"\0" * 32,))
    with pytest.raises(TrustStoreError, match="what no machine is"):
        Machines(store).all()
    with pytest.raises(Unavailable, match="cannot be read"):
        store.read("SELECT nothing FROM nowhere")


def test_the_node_s_key_for_machines_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    made = own_key(tmp_path)
    assert own_key(tmp_path).public == made.public
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_a_machine_s_directory_is_no_node_s_and_is_set_up_once(tmp_path: Path) -> None:
    directory = SpokeDirectory(tmp_path / "m1")
    key = set_up_machine(directory, "m1", "build-1", "https://build-1:8701", OWN)
    settings = load(directory)
    assert settings.node.id == "m1"
    assert settings.machine is not None
    assert settings.machine.spoke == "build-1"
    with pytest.raises(ConfigError, match="set up before"):
        set_up_machine(directory, "m1", "build-1", "https://build-1:8701", OWN)
    directory.settings_file.unlink()
    assert set_up_machine(directory, "m1", "build-1", "https://build-1:8701", OWN) == key, "a key that is there is kept"
    for command in (["serve"], ["worker", "a"]):
        with pytest.raises(ConfigError, match="spoke machine work"):
            run_in_process(directory.path, *command)
    with pytest.raises(ConfigError, match=r"\[valkey\] url"):
        run_in_process(directory.path, "machine", "work")


def test_a_node_s_directory_is_no_machine_s(tmp_path: Path) -> None:
    run_in_process(tmp_path / "node", "init", "build-1")
    with pytest.raises(ConfigError, match="no machine's directory"):
        run_in_process(tmp_path / "node", "machine", "work")
