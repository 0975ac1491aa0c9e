"""`hub webhook`: programs elsewhere that are told what happens; asks the running node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

from common.command_line import complain, parse_duration, print_facts, print_json, print_table
from hub.cli.frame import node_options
from hub.cli.output import invocation, show_text, show_time

if TYPE_CHECKING:
    from hub.answers import Webhook
    from hub.client import HubClient

T = TypeVar("T")
_EVENTS: Final = ("pending", "queued", "spawning", "running", "completed", "failed", "killed", "refused", "expired")


def _check_id(_context: click.Context, _parameter: click.Parameter, webhook_id: str) -> str:
    from common.ids import is_uuid7

    if not is_uuid7(webhook_id):
        # It becomes part of a path.
        raise click.BadParameter("a webhook's id is a UUIDv7 in lower case; see hub webhook list")
    return webhook_id


_id_argument = click.argument("webhook_id", metavar="WEBHOOK", callback=_check_id)


def _ask(question: Callable[[HubClient], Awaitable[T]]) -> T:
    from hub.cli.local import ask, client

    async def converse() -> T:
        async with client() as hub:
            return await question(hub)

    return ask(converse())


@click.group()
def webhook() -> None:
    """Programs that are told what happens: signed messages, delivered at least once."""


@webhook.command()
@click.argument("url", metavar="URL")
@click.option("--event", "events", multiple=True, type=click.Choice(_EVENTS),
              help="Only when an agent becomes this; may be repeated. Default: every change.")  # fmt: skip
@click.option("--spoke", "spokes", metavar="ID", multiple=True, help="Only agents of this spoke; may be repeated.")
@node_options
def add(url: str, events: tuple[str, ...], spokes: tuple[str, ...]) -> None:
    """Have URL told of changes from now on; prints the secret, which nobody can see again."""
    view = _ask(lambda hub: hub.add_webhook(url, events, spokes))
    if invocation().as_json:
        print_json(view)
        return
    print_facts({"webhook": view["id"], "url": show_text(view["url"]), "secret": view["secret"]})
    click.echo(f"\nGive the secret to the receiver, then: hub webhook test {view['id']}")


@webhook.command(name="list")
@node_options
def list_webhooks() -> None:
    """List all webhooks."""
    views = _ask(lambda hub: hub.webhooks())
    if invocation().as_json:
        print_json(views)
        return
    rows = [
        [view["id"], view["state"], _filter(view), show_text(view["url"]), show_time(view["lastDeliveryAt"])]
        for view in views
    ]
    print_table(["WEBHOOK", "STATE", "WANTS", "URL", "LAST DELIVERY"], rows)


@webhook.command()
@_id_argument
@node_options
def show(webhook_id: str) -> None:
    """Show one webhook, and how it goes."""
    _print(_ask(lambda hub: hub.webhook(webhook_id)))


@webhook.command()
@_id_argument
@node_options
def test(webhook_id: str) -> None:
    """Send a message now; exit 1 when it is not taken."""
    answer = _ask(lambda hub: hub.test_webhook(webhook_id))
    if invocation().as_json:
        print_json(answer)
    elif answer["error"] is None:
        click.echo(f"{webhook_id} took it in {answer['durationMs']} ms")
    else:
        complain(answer["error"]["code"], answer["error"]["detail"])
    if not answer["delivered"]:
        click.get_current_context().exit(1)


@webhook.command()
@_id_argument
@node_options
def resume(webhook_id: str) -> None:
    """Try it again at once, also when it was given up; it goes on where it was."""
    _print(_ask(lambda hub: hub.resume_webhook(webhook_id)))


def _parse_overlap(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    if text == "0":
        return 0
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; or 0") from error


@webhook.command()
@_id_argument
@click.option("--overlap", default="24h", show_default=True, callback=_parse_overlap,
              help="How long former secrets sign, too: 90s, 24h, 7d; 0 ends them at once.")  # fmt: skip
@node_options
def rotate(webhook_id: str, overlap: int) -> None:
    """Give it a new secret, printed only now; meanwhile messages are signed by the former one, too."""
    view = _ask(lambda hub: hub.rotate_webhook(webhook_id, overlap))
    if invocation().as_json:
        print_json(view)
        return
    print_facts({"webhook": view["id"], "secret": view["secret"], "former until": show_time(view["formerSecretUntil"])})
    click.echo(f"\nGive the secret to the receiver, then: hub webhook test {view['id']}")


@webhook.command()
@_id_argument
@node_options
def remove(webhook_id: str) -> None:
    """Tell it nothing more."""
    answer = _ask(lambda hub: hub.remove_webhook(webhook_id))
    if invocation().as_json:
        print_json(answer)
    else:
        click.echo(f"{webhook_id} is told nothing more")


def _filter(view: Webhook) -> str:
    of = f" of {', '.join(view['spokes'])}" if view["spokes"] else ""
    return (", ".join(view["events"]) or "everything") + of


def _print(view: Webhook) -> None:
    if invocation().as_json:
        print_json(view)
        return
    error = view["lastError"]
    print_facts(
        {
            "webhook": view["id"],
            "state": view["state"],
            "url": show_text(view["url"]),
            "wants": _filter(view),
            "since": show_time(view["createdAt"]),
            "former secret": show_time(view["formerSecretUntil"]),
            "last delivery": show_time(view["lastDeliveryAt"]),
            "last attempt": show_time(view["lastAttemptAt"]),
            "failing": f"{view['failures']} in a row, since {show_time(view['failingSince'])}"
            if view["failures"]
            else "-",
            "next attempt": show_time(view["nextAttemptAt"]),
            "given up": show_time(view["disabledAt"]),
            "last error": "-" if error is None else show_text(f"{error['code']}: {error['detail']}"),
        }
    )
