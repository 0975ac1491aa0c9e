"""Setting up the directory of a machine. Safe to repeat after a failure: a key that is there already is kept."""

from __future__ import annotations

import json
from typing import Final

from common.configuration import ConfigError, make_directory, write_settings
from common.keyfiles import create_signing_key, create_token, load_signing_key
from common.keyring import PublicKey
from spoke.machines.registry import write_key
from spoke.settings import SpokeDirectory

_TABLES: Final = """\
[machine]
spoke = {spoke}
node_url = {url}
node_key = {key}

[valkey]
url = "embedded"                    # must be that of the spoke: rediss://USER:PASSWORD@HOST:PORT

[limits]
agents = 4                          # at once on this machine
log_mib = 64                        # per agent

[agents.worker]                     # as on the node; see `spoke profile list`
profile = "report"

[agents.reviewer]
profile = "report"

[agents.tester]
profile = "report"
"""


def set_up_machine(directory: SpokeDirectory, name: str, spoke: str, url: str, node_key: PublicKey) -> PublicKey:
    """Write key and configuration of the machine `name`; returns its public key. `ConfigError`, `KeyFileError`."""
    if directory.settings_file.exists():
        raise ConfigError(f"{directory.settings_file} exists already; this directory was set up before")
    make_directory(directory.path)
    key_file = directory.key_file(name)
    key = load_signing_key(key_file) if key_file.exists() else create_signing_key(key_file)
    if not directory.token_file.exists():
        create_token(directory.token_file)
    values = {"spoke": spoke, "url": url, "key": write_key(node_key)}
    tables = _TABLES.format(**{member: json.dumps(value) for member, value in values.items()})
    write_settings(directory.settings_file, {"id": name, "listen": "127.0.0.1:0"}, tables)
    return key.public
