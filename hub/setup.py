"""Setting up a hub's directory. Safe to repeat after a failure: a key or token that is there already is kept."""

from __future__ import annotations

from common.configuration import ConfigError, make_directory, write_settings
from common.ids import is_instance_id
from common.keyfiles import create_signing_key, create_token, load_signing_key
from common.keyring import PublicKey
from common.listen_address import parse_listen
from common.peer_url import UrlRefused, check_peer_url
from hub.settings import FRESH_TABLES, HubDirectory


def set_up(directory: HubDirectory, instance: str, listen: str, url: str | None) -> PublicKey:
    """Write configuration, key and token of the hub `instance`; returns its public key.

    Raises `ConfigError`, `KeyFileError`, `UrlRefused`. The configuration comes last: with it the hub is set up.
    """
    if not is_instance_id(instance):
        raise ConfigError("an id has 1 to 63 of a-z, 0-9, '.', '-', and begins and ends with a letter or a digit")
    checked_url = check_peer_url(url) if url else _url_of(listen)
    if directory.settings_file.exists():
        raise ConfigError(f"{directory.settings_file} exists already; this hub was set up before")
    make_directory(directory.path)
    key_file = directory.key_file(instance)
    key = load_signing_key(key_file) if key_file.exists() else create_signing_key(key_file)
    if not directory.token_file.exists():
        create_token(directory.token_file)
    write_settings(directory.settings_file, {"id": instance, "listen": listen, "url": checked_url}, FRESH_TABLES)
    return key.public


def _url_of(listen: str) -> str | None:
    """Return the URL that goes with an address, None for a free port; raises `ConfigError` where nobody can dial it."""
    _, port = parse_listen(listen)
    try:
        return check_peer_url(f"http://{listen}") if port else None
    except UrlRefused as error:
        raise ConfigError(f"spokes cannot dial {listen}: say with --url how they reach this hub") from error
