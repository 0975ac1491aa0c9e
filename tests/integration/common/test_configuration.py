from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from common.audit_file import AuditBounds
from common.configuration import (
    AuditSection,
    ConfigError,
    NodeDirectory,
    NodeSection,
    NodeSettings,
    Section,
    ValkeySection,
    default_directory,
    load_settings,
    make_directory,
    write_settings,
)


class Limits(Section):
    agents: Annotated[int, Field(ge=0)] = 4
    names: tuple[str, ...] = ()


class Settings(NodeSettings):
    node: NodeSection
    valkey: ValkeySection = ValkeySection()
    limits: Limits = Limits()


NODE = '[node]\nid = "build-1"\nlisten = "127.0.0.1:0"\n'


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("SPOKE_", "XDG_STATE")):
            monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spoke.toml"


def load(path: Path, text: str = NODE) -> Settings:
    path.write_text(text)
    return load_settings(Settings, path, "spoke")


def test_what_is_left_out_has_its_default(path: Path) -> None:
    settings = load(path)
    assert settings.node == NodeSection(id="build-1", listen="127.0.0.1:0", url=None, skew_s=60)
    assert settings.valkey == ValkeySection(url="embedded", allow_data_loss=False)
    assert settings.limits.agents == 4


def test_the_file_is_read(path: Path) -> None:
    settings = load(path, NODE + 'url = "https://build.example.org"\nskew_s = 5\n[limits]\nagents = 7\nnames = ["a"]\n')
    assert (settings.node.url, settings.node.skew_s) == ("https://build.example.org", 5)
    assert (settings.limits.agents, settings.limits.names) == (7, ("a",))


OVERRIDES: dict[str, tuple[dict[str, str], object]] = {
    "a number": ({"SPOKE_LIMITS__AGENTS": "9"}, 9),
    "in lower case": ({"spoke_limits__agents": "9"}, 9),
    "a whole table": ({"SPOKE_LIMITS": '{"agents": 9}'}, 9),
    "another member": ({"SPOKE_LIMITS__NAMES": '["b"]'}, 7),
    "the directory": ({"SPOKE_DIR": "/elsewhere"}, 7),
    "another program's": ({"SPOKEN_LIMITS__AGENTS": "9", "HUB_LIMITS__AGENTS": "9", "LIMITS__AGENTS": "9"}, 7),
}


@pytest.mark.parametrize(("variables", "agents"), OVERRIDES.values(), ids=OVERRIDES)
def test_the_environment_comes_before_the_file(
    variables: Mapping[str, str], agents: object, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load(path, NODE + "[limits]\nagents = 7\n").limits.agents == agents


WRONG_VARIABLES: dict[str, tuple[str, str, str]] = {
    "unknown table": ("SPOKE_LIMIT__AGENTS", "9", "SPOKE_LIMIT__AGENTS is no setting"),
    "unknown table in lower case": ("spoke_limit__agents", "9", "spoke_limit__agents is no setting"),
    "no table": ("SPOKE_AGENTS", "9", "SPOKE_LIMITS__…"),
    "one underscore": ("SPOKE_LIMITS_AGENTS", "9", "SPOKE_LIMITS_AGENTS is no setting"),
    "misspelt member": ("SPOKE_LIMITS__AGENT", "9", "limits.agent: "),
    "no number": ("SPOKE_LIMITS__AGENTS", "many", "limits.agents: "),
    "out of range": ("SPOKE_LIMITS__AGENTS", "-1", "limits.agents: "),
    "no JSON": ("SPOKE_LIMITS__NAMES", "a,b", "limits"),
    "directory in lower case": ("spoke_dir", "/x", "spoke_dir is no setting"),
}


@pytest.mark.parametrize(("name", "value", "message"), WRONG_VARIABLES.values(), ids=WRONG_VARIABLES)
def test_a_variable_that_would_have_no_effect_is_refused(
    name: str, value: str, message: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert message in refused.value.message
    assert "\n" not in refused.value.message


WRONG_FILES: dict[str, tuple[str, str]] = {
    "empty": ("", "node: "),
    "no id": ('[node]\nlisten = "127.0.0.1:0"\n', "node.id: "),
    "unknown table": (NODE + "[limit]\n", "limit: "),
    "unknown member": (NODE + "[limits]\nagent = 1\n", "limits.agent: "),
    "wrong type": (NODE + '[limits]\nagents = "many"\n', "limits.agents: "),
    "out of range": (NODE + "skew_s = 601\n", "node.skew_s: "),
    "table as value": ('node = "x"\n', "node: "),
    "bad id": (NODE.replace("build-1", "Build_1"), "node.id: "),
    "bad listen": (NODE.replace("127.0.0.1:0", "8700"), "HOST:PORT"),
    "bad url": (NODE + 'url = "http://169.254.169.254"\n', "node.url: "),
    "user in the url": (NODE + 'url = "http://u:secret@example.org"\n', "node.url: "),
    "two tables of one name": (NODE + NODE, "cannot be read"),
    "no TOML": ("node:\n  id: build-1\n", "cannot be read"),
    "no UTF-8": (NODE + "# \udcff", "cannot be read"),
    "policy-like typo": (NODE + "[valkey]\nalow_data_loss = true\n", "valkey.alow_data_loss: "),
}


@pytest.mark.parametrize(("text", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_file_with_a_mistake_is_refused_and_the_mistake_named(text: str, message: str, path: Path) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as refused:
        load_settings(Settings, path, "spoke")
    assert refused.value.code == "config"
    assert message in refused.value.message
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.attack(63)
def test_a_password_in_a_wrong_setting_is_not_shown(path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(path, NODE + 'url = "http://u:s3cret@example.org"\n[valkey]\nurl = ["redis://:s3cret@h"]\n')
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("make", ["nothing", "directory", "link to nothing"])
def test_a_file_that_is_not_there_is_named_with_what_to_do(make: str, path: Path) -> None:
    if make == "directory":
        path.mkdir()
    elif make == "link to nothing":
        path.symlink_to(path.with_suffix(".gone"))
    with pytest.raises(ConfigError, match=r"run spoke init first, or name the directory with --dir"):
        load_settings(Settings, path, "spoke")


def test_a_file_that_cannot_be_read_is_named() -> None:
    # A file of the kernel's that is there, and cannot be read as text by anybody.
    with pytest.raises(ConfigError, match=r"/proc/self/mem cannot be read"):
        load_settings(Settings, Path("/proc/self/mem"), "spoke")


# --- writing ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "spoke.toml"
    node = {"id": "build-1", "listen": "[::1]:0", "url": None}
    make_directory(path.parent)
    write_settings(path, node, "[limits]\nagents = 2   # comment\n")
    settings = load_settings(Settings, path, "spoke")
    assert (settings.node.id, settings.node.listen, settings.node.url) == ("build-1", "[::1]:0", None)
    assert settings.limits.agents == 2
    assert "# comment" in path.read_text()
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "a]b", "größe", "\t"])
def test_a_value_is_written_as_itself_whatever_is_in_it(text: str, path: Path) -> None:
    write_settings(path, {"id": text}, "")
    assert tomllib.loads(path.read_text()) == {"node": {"id": text}}


def test_a_node_is_not_set_up_twice(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(ConfigError, match="set up before"):
        write_settings(path, {"id": "build-1"}, "")
    assert path.read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot write /proc/nothing/spoke\.toml"):
        write_settings(Path("/proc/nothing/spoke.toml"), {}, "")
    with pytest.raises(ConfigError, match=r"cannot make /proc/nothing"):
        make_directory(Path("/proc/nothing"))


# --- places -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"SPOKE_DIR": "/srv/spoke", "XDG_STATE_HOME": "/state"}, "/srv/spoke"),
        ({"XDG_STATE_HOME": "/state"}, "/state/hubspoke/spoke"),
        ({"SPOKE_DIR": "", "XDG_STATE_HOME": ""}, str(Path.home() / ".local/state/hubspoke/spoke")),
        ({}, str(Path.home() / ".local/state/hubspoke/spoke")),
    ],
    ids=["named", "state directory", "empty variables", "nothing said"],
)
def test_where_a_node_lives(environment: Mapping[str, str], directory: str) -> None:
    assert default_directory("spoke", environment) == Path(directory)


def test_the_files_of_a_node() -> None:
    place = NodeDirectory(Path("/srv/spoke"))
    assert place.trust_file == Path("/srv/spoke/trust.db")
    assert place.key_file("build-1") == Path("/srv/spoke/keys/build-1.key")
    assert place.key_files("build-1").directory == Path("/srv/spoke/keys")
    assert str(place.audit.path).startswith("/srv/spoke/")
    assert place.valkey_target(ValkeySection()) == Path("/srv/spoke/valkey")
    assert place.valkey_target(ValkeySection(url="unix:///run/valkey.sock")) == "unix:///run/valkey.sock"


def test_bounds_of_the_audit_and_the_overlap_in_their_units() -> None:
    bounds = AuditSection(checkpoint_lines=5, checkpoint_s=7, file_mib=2, files=3).bounds
    assert bounds == AuditBounds(5, 7, 2 * 1024 * 1024, 3)
    assert NodeSection(id="build-1", listen="127.0.0.1:0", overlap_h=2).overlap_s == 7200
