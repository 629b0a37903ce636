"""A tokenizer that notes what it is asked to encode."""

from __future__ import annotations

from typing import Any

from selfjudge.templates.chat import ChatEncoder


class CountingTokenizer:
    """Stands before a tokenizer; ``calls`` are the texts of each call."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.calls: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: list[str], **options: Any) -> Any:
        self.calls.append(texts)
        return self._tokenizer(texts, **options)


def counting(chat: ChatEncoder) -> CountingTokenizer:
    """Puts one before the tokenizer of an encoder."""
    chat.tokens._rust = None  # asked directly it would pass the counter by
    chat.tokens.tokenizer = counter = CountingTokenizer(chat.tokenizer)  # type: ignore[assignment]
    return counter
