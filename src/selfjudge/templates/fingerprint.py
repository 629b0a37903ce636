"""What tells tokenized texts apart that another tokenizer, chat template or template set would give."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.template import TemplateSet


def chat_fingerprint(chat: ChatEncoder) -> str:
    """Returns a hash of what decides the ids of a dialogue: vocabulary, chat template, its date, ends of turns."""
    rust = getattr(chat.tokenizer, "backend_tokenizer", None)
    vocabulary = rust.to_str() if rust is not None else sorted(chat.tokenizer.get_vocab().items())
    added = sorted((i, repr(token)) for i, token in chat.tokenizer.added_tokens_decoder.items())
    parts = [type(chat.tokenizer).__name__, vocabulary, added, chat.template.dated_source, chat.switch]
    return _hash([*parts, chat.form.lead, chat.end_ids, chat.tokenizer.eos_token_id])


def templates_fingerprint(templates: TemplateSet) -> str:
    """Returns a hash of the templates' texts."""
    return _hash([repr(template) for template in templates.templates])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
