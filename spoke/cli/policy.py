"""`spoke peer policy`: the rules for one hub, shown, set, cleared, and tried on a spawn that is not run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from spoke.cli.context import SpokeContext, facts

if TYPE_CHECKING:
    from spoke.policy import Policy

_MAX_FILE_BYTES: Final = 1024 * 1024


def _read(path: Path) -> bytes:
    from common.errors import LocalError

    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(_MAX_FILE_BYTES)
        with path.open("rb") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}", code="file") from error


def parse_policy(raw: bytes) -> Policy:
    """Read a policy, JSON or TOML, in TOML also as its table `[policy]`; raises `LocalError` naming the wrong rule."""
    import tomllib

    from pydantic import ValidationError

    from common import strict_json
    from common.errors import LocalError, Malformed
    from common.wire import first_problem
    from spoke.policy import Policy

    try:
        if raw.lstrip().startswith(b"{"):
            members: Any = strict_json.parse(raw)
        else:
            members = tomllib.loads(raw.decode())
            members = members.get("policy", members) if set(members) <= {"policy"} else members
        return Policy.model_validate(members)
    except (Malformed, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LocalError(f"that is neither JSON nor TOML: {error}", code="policy") from error
    except ValidationError as error:
        raise LocalError(f"that is no policy: {first_problem(error)}", code="policy") from error


@click.command("policy")
@click.argument("instance", metavar="ID")
@click.option("--set", "rules", type=click.Path(path_type=Path), metavar="FILE", help="Give it these rules.")
@click.option("--clear", is_flag=True, help="Give it the general rules of spoke.toml again.")
@click.option("--explain", "spawn", type=click.Path(path_type=Path), metavar="FILE", help="Try a spawn (JSON) on them.")
@facts
def policy(context: SpokeContext, instance: str, rules: Path | None, clear: bool, spawn: Path | None) -> None:
    """Print the rules for one hub, or change them, in force at once: what they do not allow is refused."""
    if sum((rules is not None, clear, spawn is not None)) > 1:
        raise click.UsageError("give one of --set, --clear and --explain")
    settings = context.settings()
    new = None if rules is None else parse_policy(_read(rules))
    with context.trust(settings) as trust:
        if new is not None or clear:
            trust.set_policy(instance, None if new is None else new.model_dump())
        peer = trust.find(instance)
    from spoke.policy import read_policy

    present = settings.policy if peer.policy is None else read_policy(dict(peer.policy), instance)
    if spawn is None:
        context.out.facts({"peer": instance, "own": peer.policy is not None, **present.model_dump()})
        return
    from spoke.explanation import explain, parse_spawn

    told = explain(peer, present, parse_spawn(_read(spawn))).to_json()
    if context.out.json:
        context.out.facts({"peer": instance, **told})
        return
    context.out.table(
        told["rules"],
        {
            "RULE": lambda row: row["rule"],
            "SAYS": lambda row: "yes" if row["allows"] else "NO",
            "WHY": lambda row: row["detail"],
        },
    )
    end = f"refused: {told['code']}: {told['detail']}" if told["code"] else f"accepted, granted {told['granted']}"
    context.out.facts({"outcome": end})
