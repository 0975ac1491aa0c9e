"""Every `code` that an error of hubspoke can carry: with which HTTP status, what it means, what to do. The one table.

A problem document's `type` leads here: `/problems/CODE` on the node that answered. docs/problems.md is made from it,
and a test holds it beside the source: a code that is missing here fails it, and so does one that nothing raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

PATH: Final = "/problems"
UNKNOWN_TYPE: Final = "about:blank"
"""RFC 9457: nothing is said beyond the status. For a code that a peer of another make gave us."""


@dataclass(frozen=True, slots=True)
class Code:
    """`statuses` are those of HTTP answers; none where the code is seen in a command line, a log or an item only."""

    meaning: str
    remedy: str
    statuses: tuple[int, ...] = ()


_REPEAT: Final = "Try again after `Retry-After` seconds; nothing was changed."


def label_of(code: str) -> str:
    """Return the code for a metric's label: a peer that makes codes up makes no new time series."""
    return code if code in CODES else "other"


CODES: Final[Mapping[str, Code]] = MappingProxyType(
    {
        # --- a whole envelope is refused (PROTOCOL section 3)
        "malformed": Code(
            "It is not an envelope, or not JSON, of the form that is asked for.", "Mend the sender.", (400,)
        ),
        "bad_signature": Code(
            "No key that is known for the sender verifies it: wrong signature, unknown, retired or revoked key.",
            "Compare fingerprints: `keys show` there, `peer show` here. After a rotation wait for its acknowledgement.",
            (401,),
        ),
        "wrong_audience": Code("The envelope is for another instance.", "Check the URL of the peer.", (403,)),
        "expired": Code(
            "The envelope's time is over; or a spawn's `deadlineS` passed before its spoke answered.",
            "Compare the clocks (`now` in the problem is ours) and sign a fresh one; or spawn again.",
            (403,),
        ),
        "not_yet_valid": Code(
            "The envelope was signed in the future.", "Run a time service on both machines; `now` is ours.", (403,)
        ),
        "connection_inactive": Code(
            "The connection is pending, suspended or revoked.",
            "`peer show`, then `peer approve` or `peer resume`; a revoked peer joins again.",
            (403, 409),
        ),
        "wrong_direction": Code(
            "This place does not take envelopes of that type or from that kind of node.", "Mend the sender.", (403,)
        ),
        "replayed": Code("This envelope was accepted before.", "Send the same commands in a fresh envelope.", (409,)),
        "too_large": Code("The body, the envelope or one of its items is too long.", "Send less at once.", (413,)),
        "unsupported_media_type": Code(
            "The body has another media type, or is compressed.",
            "Send the type that `detail` names, uncompressed.",
            (415,),
        ),
        "too_slow": Code(
            "The body, or a link's greeting, did not come in time.", "Look at the network between.", (408,)
        ),
        "rate_limited": Code("Too much in too short a time.", "Wait `Retry-After` seconds.", (429,)),
        "unavailable": Code(
            "The store, the audit or the peer cannot be relied on now, so that nothing is promised.",
            f"{_REPEAT} If it stays: `doctor` on that node.",
            (503,),
        ),
        # --- one command is refused (PROTOCOL section 2.2)
        "conflict": Code(
            "The id is in use for something else, or the thing is not in a state for this.",
            "Look at it first; choose another id for other content.",
            (409,),
        ),
        "stale": Code(
            "The id, or the epoch, is older than what is remembered.", "Ask again under a fresh one.", (409,)
        ),
        "killed": Code(
            "The agent was killed before its spawn came.", "Spawn another if it is wanted after all.", (409,)
        ),
        "not_found": Code(
            "There is no such agent, peer, webhook, profile or path here.", "List what there is.", (404, 409)
        ),
        "not_allowed": Code(
            "The spoke's policy, or a rule that `detail` names, refuses it.",
            "Ask the spoke's operator; there `spoke peer policy HUB --explain` shows the rule.",
            (403,),
        ),
        "quota_exceeded": Code(
            "The policy's bound for this hub is reached.", "Try again when some of it has ended.", (409,)
        ),
        "queue_full": Code(
            "Too many wait already, at the hub for this spoke or at the spoke.", f"{_REPEAT}", (409, 503)
        ),
        "frozen": Code("This hub froze the spoke.", "`hub thaw SPOKE`.", (409,)),
        "draining": Code("The spoke takes no new agents for now.", "Try again later, or another spoke.", (409,)),
        "invalid": Code(
            "A field or parameter breaks its form; `errors` names each.",
            "Mend the request; the same one fails again.",
            (400, 409),
        ),
        # --- requests of the APIs
        "unauthorized": Code(
            "No token, or none that opens anything here.",
            "Send `Authorization: Bearer TOKEN`; `hub token list` shows which are good.",
            (401,),
        ),
        "forbidden": Code(
            "The token does not reach that far.", "Use one of a wider scope: `hub token create NAME --scope …`.", (403,)
        ),
        "foreign_form": Code("A form of the page came from elsewhere or is too old.", "Load the page anew.", (403,)),
        "method_not_allowed": Code("The path takes other methods.", "Use one that the `Allow` header names.", (405,)),
        "upgrade_required": Code("A link is a WebSocket.", "Dial it as docs/link.md says.", (426,)),
        "all_refused": Code("Of many agents none was taken.", "`agents` says why for each.", (409,)),
        "not_delivered": Code(
            "No spoke has taken the agent, so that it cannot be told anything.",
            "Wait for `delivery.state` `delivered`.",
            (409,),
        ),
        "no_spoke": Code("No active spoke fits.", "`hub peer list`; ask for fewer labels.", (409,)),
        "peer_refused": Code(
            "The peer cannot be added or brought into that state.",
            "`peer show`; `detail` says what stands against it.",
            (409,),
        ),
        "invite_refused": Code(
            "The invite is used, expired, withdrawn or none.", "`hub invite` makes a new one.", (403,)
        ),
        "key_refused": Code(
            "The key is no good Ed25519 key, or its text is none.", "`keys show` prints the right one.", (400,)
        ),
        "url_refused": Code(
            "The URL is none that nodes may be reached at.", "Follow the rule that `detail` names.", (400,)
        ),
        "webhook_refused": Code("The webhook is there already, or there are too many.", "`hub webhook list`.", (409,)),
        "unreachable": Code(
            "The spoke, or the node itself, did not answer in time.",
            "Ask again; `peer show` tells since when. What runs there goes on.",
            (503, 504),
        ),
        "bad_reply": Code(
            "What answered in the peer's place is no peer, or breaks the protocol.",
            "Look at what stands between, such as a proxy; then at the peer's version.",
            (502,),
        ),
        "internal": Code("The node has a fault.", "Its log has the details; please report it.", (500,)),
        "local": Code("Something of the node's own is not as it should be.", "`doctor` on that node.", (500,)),
        # --- of this node: its configuration, keys, stores and programs
        "config": Code(
            "The configuration, or something that it names, is no good.",
            "Mend what `detail` names in `hub.toml` or `spoke.toml`, or in `profiles/` and `skills/`.",
            (500,),
        ),
        "directory": Code("The node's directory cannot be used.", "`init` makes one; `--dir` names another."),
        "already_running": Code("A node runs on this directory.", "Stop that one first."),
        "listen": Code("The address cannot be listened on.", "Stop who has it, or change `[node] listen`."),
        "log_file": Code("The log cannot be written.", "Check disk and rights of the file that `[log]` names."),
        "tls": Code("Certificate, key or authorities cannot be used.", "Mend the files that `[tls]` names."),
        "plain_http": Code(
            "Plain HTTP beyond this machine is not spoken.",
            "Use `https://`, or see `insecure_plain_http` in docs/operations.md.",
            (503,),
        ),
        "key_file": Code(
            "The node's key file is missing, readable by others, or another one.", "`doctor` says which.", (500,)
        ),
        "rotation_open": Code(
            "The last rotation is not known to all peers.", "`keys show` tells which; wait, or revoke them."
        ),
        "rotation": Code("A peer does not take the new key.", "`hub keys show` says why."),
        "trust_store": Code(
            "`trust.db` cannot be read or written.", "Check disk and rights; restore it from a backup.", (500,)
        ),
        "newer_data": Code(
            "The node's directory was used by a newer release.",
            "Install that one again, or restore the backup from before the upgrade.",
        ),
        "audit": Code("The audit cannot be read.", "Check disk and rights of `audit/`."),
        "store_mark": Code(
            "The node cannot remember which store is its own.", "Check disk and rights of its directory."
        ),
        "valkey_missing": Code(
            "There is no Valkey server program.", "Install hubspoke again, or name one in `[valkey] url`."
        ),
        "valkey_not_started": Code("The node's own Valkey did not start.", "`detail` has the end of its log."),
        "valkey_locked": Code("Another Valkey runs in this directory.", "Stop it first."),
        "valkey_url": Code("The URL of Valkey cannot be used.", "Mend `[valkey] url`."),
        "valkey_open": Code("The Valkey is open to everybody.", "Give it a password, or a socket of its own."),
        "valkey_rights": Code(
            "The user of the Valkey may not do all that the node needs.",
            "Add the rights that `detail` names by ACL SETUSER; docs/operations.md has the whole rule.",
        ),
        "valkey_not_durable": Code(
            "The Valkey may lose what it acknowledged.", "Configure it as `detail` says, or see `allow_data_loss`."
        ),
        "telemetry_missing": Code(
            "Traces are configured, and OpenTelemetry is not installed.",
            "`pip install 'hubspoke[otel]'` or `make install-otel`; or leave the endpoint out (docs/tracing.md).",
        ),
        "scripts_missing": Code("Files of the installation are missing.", "Install hubspoke again."),
        "webhook_secret": Code(
            "`webhook.key` is gone, or another one: receivers would not believe what is sent.",
            "Restore it from a backup, or remove the webhooks and add them again.",
            (500,),
        ),
        "webhooks": Code("A webhook fails or was given up.", "`hub webhook show`, then `hub webhook resume`."),
        "token_refused": Code("The token cannot be made or revoked.", "`hub token list`; choose another name."),
        "tampered": Code(
            "A record in Valkey is not as this node wrote it.", "See who else writes to this Valkey.", (500,)
        ),
        # --- of an agent, a peer or a receiver, seen in items and command lines
        "workspace_failed": Code("The agent's workspace could not be prepared.", "`detail` has git's last lines."),
        "git_failed": Code("A git command failed.", "`detail` has its last lines.", (500,)),
        "push_failed": Code("The branch could not be pushed.", "`detail` has git's last lines; the work is kept here."),
        "spawn_failed": Code("The agent's program could not be started.", "`spoke profile test NAME`; `spoke doctor`."),
        "already_started": Code("This attempt of the agent was started before.", "Nothing: it is not started twice."),
        "never_started": Code("The agent's program never ran.", "Nothing: it is tried again if an attempt is left."),
        "lost": Code(
            "The agent was lost with its keeper or machine.", "Nothing: it is tried again if an attempt is left."
        ),
        "http_status": Code("A webhook's receiver did not answer 2xx.", "Look at the receiver; it is tried again."),
        "link_not_offered": Code("The hub has no link for this spoke now.", "Nothing: it is dialed again."),
        "another_hub": Code(
            "Another hub answers than the one that was meant.", "Check URL and fingerprint with its admin."
        ),
        # --- of a command line alone
        "usage": Code("The command is not written like that.", "`--help` shows how."),
        "system": Code("The operating system refused something.", "`detail` names what."),
        "file": Code("A file cannot be read.", "Check its path and rights."),
        "backup": Code(
            "The backup cannot be made, or is not restored: damaged, or of something else; or the place is taken.",
            "`detail` says which; `restore --check FILE` looks without writing.",
        ),
        "backup_running": Code("Another backup of this node is being made.", "Wait for it."),
        "id": Code("The text is no id of an instance.", "1 to 63 of a-z, 0-9, `.` and `-`."),
        "policy": Code("The text is no policy.", "docs/operations.md has all rules."),
        "node_unreachable": Code("The node does not answer at its address.", "Start it, or see its log."),
        "still_running": Code("Agents still run after the time that was given.", "Wait longer, or kill them."),
    }
)
