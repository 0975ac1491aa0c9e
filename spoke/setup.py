"""Setting up a spoke's directory. Safe to repeat after a failure: a key or token that is there already is kept."""

from __future__ import annotations

from common.configuration import ConfigError, make_directory, write_settings
from common.keyfiles import create_signing_key, create_token, load_signing_key
from common.keyring import PublicKey
from spoke.settings import FRESH_TABLES, SpokeDirectory


def set_up(directory: SpokeDirectory, instance: str, listen: str, url: str | None) -> PublicKey:
    """Write key, token and configuration of the spoke `instance`, all checked before; returns its public key.

    Raises `ConfigError`, `KeyFileError`. The configuration comes last: with it the spoke is set up.
    """
    if directory.settings_file.exists():
        raise ConfigError(f"{directory.settings_file} exists already; this spoke was set up before")
    make_directory(directory.path)
    key_file = directory.key_file(instance)
    key = load_signing_key(key_file) if key_file.exists() else create_signing_key(key_file)
    if not directory.token_file.exists():
        create_token(directory.token_file)
    write_settings(directory.settings_file, {"id": instance, "listen": listen, "url": url}, FRESH_TABLES)
    return key.public
