"""A stand-in for the models' APIs on loopback: streams a script, one step for each turn of the agent's conversation.

Speaks Anthropic's Messages API (`POST /v1/messages`, SSE), OpenAI's Responses API (`POST /v1/responses`, SSE) and Chat
Completions (`POST /v1/chat/completions`), and Google's `streamGenerateContent`, as far as the programs ask for it.
Requests beside the conversation (titles, subjects of commits, token counts) get a short text and use up no step.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

INPUT_TOKENS: Final = 11
OUTPUT_TOKENS: Final = 7


@dataclass(frozen=True, slots=True)
class Say:
    """The model says this, which ends the turn."""

    text: str


@dataclass(frozen=True, slots=True)
class Use:
    """The model uses a tool of the program."""

    tool: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fail:
    """The API refuses the request."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Hang:
    """The API says nothing any more."""


Step = Say | Use | Fail | Hang


@dataclass
class ModelApi:
    """Answers with `script` and keeps the bodies of the conversation's requests in `asked`."""

    script: Sequence[Step]
    asked: list[dict[str, Any]] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the script has come to its last step."""
    url: str = ""
    elsewhere: list[str] = field(default_factory=list)
    """Paths that were asked for and belong to no API."""

    def _step(self, body: dict[str, Any]) -> Step:
        number = len(self.asked)
        self.asked.append(body)
        if number >= len(self.script) - 1:
            self.reached.set()
        return self.script[min(number, len(self.script) - 1)]

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Anthropic's Messages API."""
        body = await request.json()
        step = self._step(body) if body.get("tools") else Say("a title")
        if isinstance(step, Fail):
            error = {"type": "error", "error": {"type": "invalid_request_error", "message": step.message}}
            return web.json_response(error, status=step.status)
        if isinstance(step, Hang):
            await asyncio.Event().wait()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for event in _message_events(step, len(self.asked), str(body.get("model"))):
            await stream.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        await stream.write_eof()
        return stream

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's Responses API."""
        step = self._step(await request.json())
        if isinstance(step, Fail):
            error = {"error": {"message": step.message, "type": "invalid_request_error", "code": "invalid_prompt"}}
            return web.json_response(error, status=step.status)
        if isinstance(step, Hang):
            await asyncio.Event().wait()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        for event in _response_events(step, len(self.asked)):
            await stream.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        await stream.write_eof()
        return stream

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """OpenAI's Chat Completions API, without streaming."""
        body = await request.json()
        beside = "git commit message" in str(body["messages"][0]["content"]).lower()
        step = Say("Add a greeting") if beside else self._step(body)
        if isinstance(step, Fail):
            error = {"error": {"message": step.message, "type": "invalid_request_error", "code": "invalid_prompt"}}
            return web.json_response(error, status=step.status)
        if isinstance(step, Hang):
            await asyncio.Event().wait()
        return web.json_response(_completion(step, len(self.asked), str(body.get("model"))))

    async def nothing(self, request: web.Request) -> web.Response:
        """Whatever else is asked for."""
        self.elsewhere.append(request.path)
        return web.json_response({"input_tokens": INPUT_TOKENS} if "count_tokens" in request.path else {})

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Google's `streamGenerateContent`."""
        step = self._step(await request.json())
        if isinstance(step, Fail):
            error = {"code": step.status, "message": step.message, "status": "INVALID_ARGUMENT"}
            return web.json_response({"error": error}, status=step.status)
        if isinstance(step, Hang):
            await asyncio.Event().wait()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(f"data: {json.dumps(_generated(step))}\r\n\r\n".encode())
        await stream.write_eof()
        return stream


def _completion(step: Step, number: int, model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": step.text if isinstance(step, Say) else ""}
    usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {**usage, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS},
    }


def _generated(step: Step) -> dict[str, Any]:
    if isinstance(step, Use):
        part: dict[str, Any] = {"functionCall": {"name": step.tool, "args": step.arguments}}
    else:
        part = {"text": step.text if isinstance(step, Say) else ""}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": INPUT_TOKENS, "candidatesTokenCount": OUTPUT_TOKENS}
    return {"candidates": [candidate], "usageMetadata": {**usage, "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS}}


def _message_events(step: Step, number: int, model: str) -> list[dict[str, Any]]:
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": model, "content": []}
    if isinstance(step, Use):
        block: dict[str, Any] = {"type": "tool_use", "id": f"toolu_{number}", "name": step.tool, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(step.arguments)}
        reason = "tool_use"
    else:
        block, reason = {"type": "text", "text": ""}, "end_turn"
        delta = {"type": "text_delta", "text": step.text if isinstance(step, Say) else ""}
    return [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": {"output_tokens": OUTPUT_TOKENS},
        },
        {"type": "message_stop"},
    ]


def _response_events(step: Step, number: int) -> list[dict[str, Any]]:
    if isinstance(step, Use):
        item: dict[str, Any] = {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": f"call_{number}",
            "name": step.tool,
            "arguments": json.dumps(step.arguments),
        }
    else:
        text = step.text if isinstance(step, Say) else ""
        content = [{"type": "output_text", "text": text, "annotations": []}]
        item = {"type": "message", "id": f"msg_{number}", "role": "assistant", "content": content}
    usage = {
        "input_tokens": INPUT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": OUTPUT_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    }
    response = {"id": f"resp_{number}", "object": "response", "status": "completed", "output": [item], "usage": usage}
    return [
        {"type": "response.created", "response": {"id": f"resp_{number}"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": response},
    ]


@asynccontextmanager
async def serving(*script: Step) -> AsyncIterator[ModelApi]:
    """Serve a script on loopback; `url` is the base of the API."""
    api = ModelApi(script)
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/messages", api.messages)
    app.router.add_post("/v1/responses", api.responses)
    app.router.add_post("/v1/chat/completions", api.complete)
    app.router.add_post("/v1beta/models/{model}:streamGenerateContent", api.generate)
    app.router.add_route("*", "/{rest:.*}", api.nothing)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    api.url = f"http://{host}:{port}"
    try:
        yield api
    finally:
        await runner.cleanup()
