"""Answers as server-sent events: progress as comments, which OpenAI's clients pass over, and then the answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from selfjudge.replies import ChatReply, TextReply
from selfjudge.serving.errors import as_api_error
from selfjudge.serving.flights import cancel_when_gone

KEEP_ALIVE = 15.0
"""Seconds of silence after which a comment is sent, so that nothing between client and server gives up."""

T = TypeVar("T")
Chunk = dict[str, Any]


class Progress:
    """What has happened, from the work to the stream."""

    def __init__(self, *, whole: bool) -> None:
        """Tells the texts and matches where ``whole``, else their numbers only."""
        self.events: asyncio.Queue[Chunk | None] = asyncio.Queue()
        self._whole = whole

    def report(self, prompt: int, event: Chunk) -> None:
        """Takes what has just happened to a prompt of the request."""
        told = event if self._whole else {name: _numbers(value) for name, value in event.items() if name != "text"}
        self.events.put_nowait({"prompt": prompt, **told})


def _numbers(value: Any) -> int:
    return value if isinstance(value, int) else len(value)


def stream(
    task: asyncio.Task[T], progress: Progress, request: Request, chunks: Callable[[T], Iterable[Chunk]]
) -> StreamingResponse:
    """Returns a response that tells the progress of a task, and then what ``chunks`` makes of its result."""
    task.add_done_callback(lambda _: progress.events.put_nowait(None))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(task, progress, request, chunks), media_type="text/event-stream", headers=headers)


async def _events(
    task: asyncio.Task[T], progress: Progress, request: Request, chunks: Callable[[T], Iterable[Chunk]]
) -> AsyncIterator[str]:
    gone = cancel_when_gone(task, request)
    try:
        async for event in _reported(progress):
            yield f": {json.dumps(event)}\n\n"
        if task.cancelled():
            return
        if error := task.exception():
            yield _data(as_api_error(error).reply.model_dump())
            return
        for chunk in chunks(task.result()):
            yield _data(chunk)
        yield "data: [DONE]\n\n"
    finally:
        gone.cancel()
        task.cancel()


async def _reported(progress: Progress) -> AsyncIterator[Chunk]:
    while True:
        try:
            event = await asyncio.wait_for(progress.events.get(), KEEP_ALIVE)
        except TimeoutError:
            event = {"waiting": True}
        if event is None:
            return
        yield event


def chat_chunks(reply: ChatReply, *, usage: bool) -> Iterable[Chunk]:
    """Yields ``chat.completion.chunk`` objects: each thought and each answer whole, then how it ended."""
    for choice in reply.choices:
        yield _chat_chunk(reply, choice.index, {"role": "assistant", "content": ""}, None)
        if choice.message.reasoning_content is not None:
            yield _chat_chunk(reply, choice.index, {"reasoning_content": choice.message.reasoning_content}, None)
        yield _chat_chunk(reply, choice.index, {"content": choice.message.content}, None)
        yield _chat_chunk(reply, choice.index, {}, choice.finish_reason)
    yield from _last(reply, {**_head(reply), "object": "chat.completion.chunk"}, usage)


def text_chunks(reply: TextReply, *, usage: bool) -> Iterable[Chunk]:
    """Yields ``text_completion`` objects, one for each answer."""
    for choice in reply.choices:
        yield {**_head(reply), "object": reply.object, "choices": [choice.model_dump(exclude_unset=True)]}
    yield from _last(reply, {**_head(reply), "object": reply.object}, usage)


def _chat_chunk(reply: ChatReply, index: int, delta: Chunk, finish_reason: str | None) -> Chunk:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {**_head(reply), "object": "chat.completion.chunk", "choices": [choice]}


def _last(reply: ChatReply | TextReply, head: Chunk, usage: bool) -> Iterable[Chunk]:
    """Yields the tournament where it is told, and the tokens where they are asked for: chunks without choices."""
    if reply.selfjudge is not None:
        yield {**head, "choices": [], "selfjudge": reply.model_dump(mode="json")["selfjudge"]}
    if usage:
        yield {**head, "choices": [], "usage": reply.usage.model_dump()}


def _head(reply: ChatReply | TextReply) -> Chunk:
    return {"id": reply.id, "created": reply.created, "model": reply.model}


def _data(value: Chunk) -> str:
    return f"data: {json.dumps(value)}\n\n"
