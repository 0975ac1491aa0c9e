"""A machine's line to its node: dials, proves itself, knows the node by its key, and dials again when it is cut.

While it is down nothing new is started here; what runs goes on, and ends in the store by itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import structlog

from common.errors import EnvelopeRejected, HubspokeError, Malformed, Unavailable
from common.exchange import EnvelopeNotTaken
from common.keyring import PublicKey, SigningKey
from common.link import HANDSHAKE_S, read_answer
from common.websocket import GOING_AWAY, REPLACED, ClientSocket, NotOffered, dial, receive_first, send
from spoke.machines import frames
from spoke.machines.channel import Channel, Serve
from spoke.machines.frames import COPIED, HELLO_TYPE, LINK_PATH, SUBPROTOCOL, Hello, Session
from spoke.machines.words import Rules, read
from spoke.redial import NOT_OFFERED_S, Ending, Redial, redial

_RULES_S: Final = 2.0
_GOODBYE: Final = frozenset({1000, GOING_AWAY})
_SOON_S: Final = 2.0
_LEAST_S: Final = 0.5
_REFUSED: Final = {
    COPIED: "another process works with this machine's key: this directory is a copy; make one with spoke machine init"
}
"""What to do about a refusal; what the node says of it is not signed, so only its code is heeded."""
_log: Final = structlog.get_logger("machine")


class NodeAway(Unavailable):
    """There is no channel to the node now."""


@dataclass(frozen=True, slots=True)
class Parties:
    """Who dials whom: the machine `name` with its key, the spoke at `url`, which is known by `node_key`."""

    name: str
    key: SigningKey
    spoke: str
    url: str
    node_key: PublicKey


class Line:
    """`ask` the node; `welcomed` hears under which id it knows this machine, each time anew, and may refuse."""

    def __init__(
        self,
        parties: Parties,
        session: aiohttp.ClientSession,
        serve: Serve,
        welcomed: Callable[[str], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._parties = parties
        self._session = session
        self._serve = serve
        self._welcomed = welcomed
        self._jitter = jitter
        self._process = frames.fresh_nonce()
        self._channel: Channel | None = None
        self._rules: Rules | None = None
        self._up = asyncio.Event()

    @property
    def rules(self) -> Rules | None:
        """Whose agents may start here now; None while nobody can be asked."""
        return self._rules if self._channel is not None and self._channel.open else None

    async def ask(self, what: str, about: dict[str, Any], patience_s: float) -> dict[str, Any]:
        """Return the node's answer, waiting so long for a channel; raises what it refused with, or `NodeAway`."""
        give_up_at = time.monotonic() + patience_s
        while True:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + give_up_at - time.monotonic()):
                    await self._up.wait()
                if self._channel is not None:
                    left_s = max(_LEAST_S, give_up_at - time.monotonic())
                    return await self._channel.ask(what, about, left_s)
            except TimeoutError as error:
                raise NodeAway("the node cannot be asked now") from error
            except Unavailable as error:
                if time.monotonic() >= give_up_at:
                    raise NodeAway(error.message) from error
                _log.info("machine.asks_again", what=what, reason=error.message)
            await asyncio.sleep(_LEAST_S)

    async def run(self) -> None:
        """Keep the channel until cancelled."""
        failures = 0
        while True:
            ending, up_s = await self._try()
            following = redial(ending, up_s, failures, self._jitter())
            if following.pause_s >= NOT_OFFERED_S:
                following = Redial(_SOON_S, 0)
            failures = following.failures
            await asyncio.sleep(following.pause_s)

    async def _try(self) -> tuple[Ending, float]:
        started = time.monotonic()
        try:
            code = await self._dial()
        except EnvelopeNotTaken as error:
            _log.warning(
                "machine.refused",
                url=self._parties.url,
                code=error.code,
                reason=_REFUSED.get(error.code, error.message),
            )
            return Ending.LOST, 0.0
        except (HubspokeError, TimeoutError) as error:
            _log.warning("machine.cannot_reach_node", url=self._parties.url, reason=str(error))
            return (Ending.NOT_OFFERED if isinstance(error, NotOffered) else Ending.LOST), 0.0
        except Exception:
            # A mistake of ours about the channel must not end what runs here.
            _log.exception("machine.link_crashed")
            return Ending.LOST, 0.0
        up_s = time.monotonic() - started
        if code == REPLACED:
            reason = "another process dialed with this machine's key: if it is not ours, forget the machine"
            _log.error("machine.replaced", reason=reason)
            return Ending.REPLACED, up_s
        return (Ending.GOODBYE if code in _GOODBYE else Ending.LOST), up_s

    async def _dial(self) -> int:
        async with dial(self._session, self._parties.url + LINK_PATH, SUBPROTOCOL) as socket:
            async with asyncio.timeout(HANDSHAKE_S):
                session = await self._shake_hands(socket)
            channel = Channel(socket, session, self._serve, lambda: True)
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(self._keep_rules(channel))
                try:
                    await channel.run()
                finally:
                    self._channel = None
                    self._up.clear()
                    asking.cancel()
                    code, reason = channel.ending
                    _log.info("machine.link_down", code=code, reason=reason)
            return code

    async def _shake_hands(self, socket: ClientSocket) -> Session:
        """Prove who we are, and that the node is the one we know; raises `EnvelopeRejected`, `Unavailable`."""
        parties, challenge = self._parties, frames.fresh_nonce()
        nonce = frames.read_challenge(await receive_first(socket))
        hello = Hello(iss=parties.name, aud=parties.spoke, nonce=nonce, challenge=challenge, process=self._process)
        await send(socket, frames.seal_hello(parties.key, hello))
        raw = read_answer(await receive_first(socket))
        answer = frames.open_hello(frames.parse_signed(raw, HELLO_TYPE), parties.node_key, challenge)
        if (answer.iss, answer.aud) != (parties.spoke, parties.name):
            raise EnvelopeRejected("wrong_audience", f"the node is not {parties.spoke}, or answers another machine")
        if answer.machine is None:
            raise Malformed("the node's HELLO says under which id it knows us")
        self._welcomed(answer.machine)
        return Session(parties.key, parties.node_key, f"{nonce}.{challenge}")

    async def _keep_rules(self, channel: Channel) -> None:
        """Learn the rules, first of all, and again and again."""
        while channel.open:
            try:
                self._rules = read(Rules, await channel.ask("rules", {}))
                self._channel = channel
                if not self._up.is_set():
                    _log.info("machine.link_up", url=self._parties.url)
                    self._up.set()
            except (HubspokeError, TimeoutError) as error:
                _log.warning("machine.no_rules", reason=str(error))
            await asyncio.sleep(_RULES_S)
