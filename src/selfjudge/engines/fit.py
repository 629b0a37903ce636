"""Whether parts belong together: weights and architecture, model and tokenizer. Problems come as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfjudge.errors import ModelError
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder

_UNUSED_EMBEDDINGS = 4096
"""More than any model known to us has beyond its tokenizer; DeepSeek has 2400."""
_OTHER_TASKS = ("Classification", "QuestionAnswering", "RewardModel")
_SHOWN = 3


def refuse(path: object, problems: Sequence[str]) -> None:
    """Raises ModelError with the first of the problems of the model at ``path``, if there is one."""
    if problems:
        raise ModelError(f"The model {str(path)!r} cannot be used: {problems[0]}")


def weight_problems(model: PreTrainedModel, loading: Mapping[str, Any]) -> list[str]:
    """Returns the faults of the weights that a model was loaded from, a sentence for each.

    Args:
        model: as loaded.
        loading: what ``from_pretrained(..., output_loading_info=True)`` gives beside it, of a load with
            ``ignore_mismatched_sizes=True``: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
    """
    problems = []
    saved_as = (getattr(model.config, "architectures", None) or ["?"])[0]
    if saved_as != type(model).__name__ and saved_as.endswith(_OTHER_TASKS):
        problems.append(f"it is a {saved_as}, which has no output over a vocabulary: name a causal language model.")
    mismatched = sorted(loading["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        problems.append(
            f"its config.json does not fit its weights ({name} is {list(found)} in the file and {list(wanted)} by the "
            "config): fetch or save the model again."
        )
    missing = sorted({*loading["missing_keys"]} - {name for name, *_ in mismatched})
    if missing:
        problems.append(
            f"{len(missing)} of its weights are not in its files and would be random ({_first(missing)}): fetch or "
            "save the model again."
        )
    unread = [name for name in sorted(loading["unexpected_keys"]) if _belongs_to(model, name)]
    if unread:
        problems.append(
            f"{len(unread)} weights in its files have no place in the model of its config.json ({_first(unread)}): "
            "fetch or save the model again."
        )
    return problems


def tokenizer_problems(chat: ChatEncoder, model: PreTrainedModel | PeftModel) -> list[str]:
    """Returns what shows that a model and a tokenizer do not belong together, as sentences.

    Embeddings beyond the tokenizer's ids are usual, as sizes are rounded up. So are special tokens without an embedding
    that no chat contains (an image's in a model of text alone).
    """
    embeddings = model.get_input_embeddings().weight.shape[0]
    vocabulary = chat.tokenizer.get_vocab()
    known = {*vocabulary.values()}
    problems = []
    outside = sorted({i for i in _usable_ids(chat, vocabulary) if i >= embeddings})
    if outside:
        token = chat.tokenizer.convert_ids_to_tokens(outside[0])
        problems.append(
            f"{len(outside)} of its tokenizer's ids have no embedding (first {token!r}, id {outside[0]}, of "
            f"{embeddings} embeddings): save it with the tokenizer it was trained with, or resize its embeddings with "
            "resize_token_embeddings and save it again."
        )
    strange = sorted(i for i in _configured_ends(model) if i not in known and i < embeddings)
    if strange:
        problems.append(
            f"it ends texts with id {strange[0]}, which its tokenizer of {len(known)} tokens does not have: save it "
            "with the tokenizer it was trained with."
        )
    if len(known) < embeddings / 2 and embeddings - len(known) > _UNUSED_EMBEDDINGS:
        problems.append(
            f"its tokenizer has {len(known)} tokens and it has {embeddings} embeddings: save it with the tokenizer it "
            "was trained with."
        )
    return problems


def _usable_ids(chat: ChatEncoder, vocabulary: Mapping[str, int]) -> Iterable[int]:
    """Returns the ids that rows can have: those of text, of padding, and of what a chat template writes."""
    tokenizer: PreTrainedTokenizerBase = chat.tokenizer
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    turns = [Message(role="user", content="u"), Message(role="assistant", content="a")]
    yield from (i for i in vocabulary.values() if i not in special)
    yield from (i for row in chat.dialogues(turns) for i in row.ids)
    yield from chat.prompt_ids([Message(role="system", content="s"), *turns[:1]])
    yield from chat.stop_ids
    if tokenizer.pad_token_id is not None:
        yield tokenizer.pad_token_id


def _configured_ends(model: PreTrainedModel | PeftModel) -> set[int]:
    """Returns the ids with which the model ends a text by its own configuration."""
    configs = (model.config.get_text_config(), getattr(model, "generation_config", None))
    found: set[int] = set()
    for config in configs:
        ends = getattr(config, "eos_token_id", None)
        found |= {ends} if isinstance(ends, int) else set(ends or ())
    return found


def _belongs_to(model: PreTrainedModel, name: str) -> bool:
    """Returns whether a weight is of a part that the model has, such as one layer more; not an image encoder's."""
    part = ".".join(name.split(".")[:2])  # `model.layers`, `transformer.h`
    return name.endswith(".weight") and part in {found for found, _ in model.named_modules()}


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
