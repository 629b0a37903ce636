"""What stands around answers and thoughts in chat templates of every structure. Expected texts are written by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pytest
from chat_templates import TEMPLATES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from selfjudge.errors import ModelError
from selfjudge.records import Message
from selfjudge.templates.chat import ChatEncoder, Reading
from selfjudge.templates.thinking import Thinking

ONE = [Message(role="user", content="One?")]
DIALOGUE = [
    *ONE,
    Message(role="assistant", content="First."),
    Message(role="user", content="Two?"),
    Message(role="assistant", content="Second."),
]


def spelling(template: str, tokens: str = "", eos: str = "<eos>", merges: str = "") -> PreTrainedTokenizerFast:
    """Makes a tokenizer that spells bytes, but for the given tokens, ``<bos>``, its end token and pairs of letters."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *merges.split()]
    vocab = {letter: i for i, letter in enumerate(letters)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[(pair[0], pair[1]) for pair in merges.split()]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    # In the order in which they are given, each once.
    specials = dict.fromkeys(["<bos>", eos, *tokens.split()])
    # The marks of thoughts are no special tokens in most vocabularies.
    core.add_tokens([AddedToken(token, special="think>" not in token, normalized=False) for token in specials])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token=eos, name_or_path="speller")
    tokenizer.chat_template = template
    return tokenizer


@dataclass(frozen=True)
class Form:
    """What a template is to give.

    ``prompt``: of the first question, thinking off; ``thinks``: the same with thinking on, None where there are no
    thoughts. ``end``: what follows both answers; ``space``: what stands before them, as a part of the answer.
    ``stops``: the tokens that end a sample. ``tokens``: of the vocabulary.
    """

    prompt: str
    end: str
    stops: str
    tokens: str = ""
    thinks: str | None = None
    rows: int = 1
    space: str = ""
    eos: str = "<eos>"


IM = "<|im_start|> <|im_end|>"
THINK = IM + " <think> </think>"
CHATML = "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n"
SWITCHED = Form(
    prompt=CHATML + "<think>\n\n</think>\n\n", end="<|im_end|>", stops="<|endoftext|> <|im_end|>", tokens=THINK,
    thinks=CHATML + "<think>\n", rows=2, eos="<|endoftext|>",
)  # fmt: skip
FORMS = {
    "chatml": Form(
        prompt=CHATML, end="<|im_end|>", stops="<|endoftext|> <|im_end|>", tokens=IM, eos="<|endoftext|>",
    ),
    "next role ends": Form(
        prompt="[head]<|user|>One?<|assistant|>\n", end="<|user|>", stops="<eos> <|user|>",
        tokens="[head] <|user|> <|assistant|>",
    ),
    "end in the middle only": Form(
        prompt="<bos><|user|>One?<|assistant|>", end="<|assistant_end|>", stops="<eos> <|assistant_end|>",
        tokens="<|user|> <|assistant|> <|assistant_end|>",
    ),
    "eos after all": Form(
        prompt="<|user|>\nOne?<|end|>\n<|assistant|>\n", end="<|end|>", stops="<eos> <|end|>",
        tokens="<|user|> <|assistant|> <|end|>",
    ),
    "two tokens end": Form(
        prompt="<bos><|turn|><|user|>One?<|/turn|><|turn|><|bot|><|response|>", end="<|/response|><|/turn|>",
        stops="<eos> <|/turn|>", tokens="<|turn|> <|/turn|> <|user|> <|bot|> <|response|> <|/response|>",
    ),
    "close tags": Form(
        prompt='<|open|>message role="user"<|sep|>One?<|close|>message<|sep|><|end_of_msg|>'
        '<|open|>message role="assistant"<|sep|><|open|>response<|sep|>',
        end="<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>", stops="<eos> <|end_of_msg|>",
        tokens="<|open|> <|close|> <|sep|> <|end_of_msg|>",
    ),
    "channels": Form(
        prompt="<|start|>system<|message|>Date: 2025-03-09<|end|><|start|>user<|message|>One?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>",
        end="<|return|>", stops="<eos> <|return|>", tokens="<|start|> <|message|> <|end|> <|channel|> <|return|>",
        thinks="<|start|>system<|message|>Date: 2025-03-09<|end|><|start|>user<|message|>One?<|end|><|start|>assistant",
        rows=2,
    ),
    "recipients": Form(
        prompt="<|start|>user<|message|>One?<|eot|><|start|>assistant to=user<|message|>", end="<|eot|>",
        stops="<eos> <|eot|>", tokens="<|start|> <|message|> <|eot|> <|eom|>",
        thinks="<|start|>user<|message|>One?<|eot|><|start|>assistant",
    ),
    "thought in the last turn": Form(
        prompt=CHATML + "<think>\n\n</think>\n\n", end="<|im_end|>", stops="<|endoftext|> <|im_end|>", tokens=THINK,
        thinks=CHATML, rows=2, eos="<|endoftext|>",
    ),
    "enable_thinking": SWITCHED,
    "thinking": SWITCHED,
    "thinking_mode": SWITCHED,
    "thinking_budget": SWITCHED,
    "reasoning_effort none": SWITCHED,
    "reasoning_effort no_think": SWITCHED,
    "opened": Form(
        prompt="<bos><|user|>One?<|assistant|><think>\n\n</think>\n\n", end="<eos>", stops="<eos>",
        tokens="<|user|> <|assistant|> <think> </think>", thinks="<bos><|user|>One?<|assistant|><think>\n", rows=2,
    ),
    "empty thought everywhere": Form(
        prompt="<|user|>One?<|assistant|><think></think>", end="<|end|>", stops="<eos> <|end|>",
        tokens="<|user|> <|assistant|> <think> </think> <|end|>", thinks="<|user|>One?<|assistant|>",
    ),
    "empty thought by a switch": Form(
        prompt="<|user|>One?<|assistant|><think></think>", end="<|end|>", stops="<eos> <|end|>",
        tokens="<|user|> <|assistant|> <think> </think> <|end|>", thinks="<|user|>One?<|assistant|><think>",
    ),
    "closing mark alone": Form(
        prompt="<|user|>One?<|assistant|></think>", end="<|end|>", stops="<eos> <|end|>",
        tokens="<|user|> <|assistant|> <think> </think> <|end|>", thinks="<|user|>One?<|assistant|><think>",
    ),
    "marks of words": Form(
        prompt="<|user|>One?<|assistant|>\nHere are my steps:\n\n[FINAL RESPONSE]\n", end="\n<|end|>",
        stops="<eos> <|end|>", tokens="<|user|> <|assistant|> <|end|>",
        thinks="<|user|>One?<|assistant|>\nHere are my steps:\n", rows=2,
    ),
    "prompt always": Form(
        prompt="<bos><|turn|><|user|>One?<|/turn|><|turn|><|assistant|>", end="<|/turn|>", stops="<eos> <|/turn|>",
        tokens="<|turn|> <|/turn|> <|user|> <|assistant|>",
    ),
    "strips": Form(prompt=CHATML, end="<|im_end|>", stops="<|im_end|>", tokens=IM, eos="<|im_end|>"),
    "no system": Form(prompt=CHATML, end="<|im_end|>", stops="<|im_end|>", tokens=IM, eos="<|im_end|>"),
    "alternating": Form(
        prompt="<bos><turn>user\nOne?<turn_end>\n<turn>model\n", end="<turn_end>", stops="<eos> <turn_end>",
        tokens="<turn> <turn_end>",
    ),
    "plain": Form(prompt="<bos>### User:\nOne?\n\n### Assistant:\n", end="<eos>", stops="<eos>"),
    # A space before the end token belongs to it.
    "llama-2": Form(prompt="<bos>[INST] One? [/INST]", end=" <eos>", stops="<eos>", space=" "),
    "mistral": Form(prompt="<bos>[INST] One? [/INST]", end="<eos>", stops="<eos>", space=" "),
    "vicuna": Form(prompt="<bos>USER: One? ASSISTANT:", end="<eos>", stops="<eos>", space=" "),
    "zephyr": Form(prompt="<|user|>\nOne?<eos>\n<|assistant|>\n", end="<eos>", stops="<eos>"),
    "gemma": Form(
        prompt="<bos><start_of_turn>user\nOne?<end_of_turn>\n<start_of_turn>model\n", end="<end_of_turn>",
        stops="<eos> <end_of_turn>", tokens="<start_of_turn> <end_of_turn>",
    ),
    # There is no token to end these: the tokenizer's is put behind each answer, which the history does not show.
    "text tags": Form(prompt="<user>\nOne?\n</user>\n<assistant>\n", end="<eos>", stops="<eos>", rows=2),
    "no end": Form(prompt="User: One?\n\nAssistant:", end="<eos>", stops="<eos>", rows=2, space=" "),
}  # fmt: skip


def encoder(name: str, thinking: Thinking = "off", eos_ids: tuple[int, ...] = ()) -> ChatEncoder:
    form = FORMS[name]
    tokenizer = spelling(TEMPLATES[name], form.tokens, form.eos)
    return ChatEncoder(tokenizer, thinking=thinking, eos_ids=eos_ids, today=date(2025, 3, 9))


def text(chat: ChatEncoder, ids: list[int] | tuple[int, ...]) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False))


def test_every_template_has_its_form() -> None:
    assert TEMPLATES.keys() == FORMS.keys()


@pytest.mark.parametrize("name", FORMS)
def test_prompts_and_targets(name: str) -> None:
    form, chat = FORMS[name], encoder(name)
    assert text(chat, chat.prompt_ids(ONE)) == form.prompt
    assert [text(chat, [i]) for i in chat.stop_ids] == form.stops.split()
    first, second = (form.space + answer + form.end for answer in ("First.", "Second."))
    (row,) = chat.dialogues(DIALOGUE[:2])
    assert text(chat, row.ids) == form.prompt + first
    assert sum(row.is_target) == len(first) - sum(len(t) - 1 for t in chat.tokens.pattern.findall(first))
    assert row.is_target == tuple(sorted(row.is_target))
    assert [text(chat, turn.answer) for turn in chat.turns(DIALOGUE)] == [first, second]
    assert len(chat.dialogues(DIALOGUE)) == form.rows


@pytest.mark.parametrize("name", FORMS)
def test_prompts_with_thinking_on(name: str) -> None:
    form = FORMS[name]
    if form.thinks is None:
        with pytest.raises(ModelError, match=r"knows no thoughts: set model\.thinking to off"):
            encoder(name, "on")
        return
    chat = encoder(name, "on")
    assert text(chat, chat.prompt_ids(ONE)) == form.thinks
    # Training rows never think.
    assert [text(chat, turn.answer) for turn in chat.turns(DIALOGUE)] == [f"First.{form.end}", f"Second.{form.end}"]
    assert text(chat, chat.turns(DIALOGUE)[0].prompt) == form.prompt


# What two turns are, where a row is shared.
ROWS = {
    "chatml": [
        CHATML + "[First.<|im_end|>]\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n[Second.<|im_end|>]"
    ],
    "next role ends": ["[head]<|user|>One?<|assistant|>\n[First.<|user|>]Two?<|assistant|>\n[Second.<|user|>]"],
    "end in the middle only": [
        "<bos><|user|>One?<|assistant|>[First.<|assistant_end|>]<|user|>Two?<|assistant|>[Second.<|assistant_end|>]"
    ],
    "eos after all": [
        "<|user|>\nOne?<|end|>\n<|assistant|>\n[First.<|end|>]\n<|user|>\nTwo?<|end|>\n<|assistant|>\n[Second.<|end|>]"
    ],
    "channels": [
        "<|start|>system<|message|>Date: 2025-03-09<|end|><|start|>user<|message|>One?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>[First.<|return|>]",
        "<|start|>system<|message|>Date: 2025-03-09<|end|><|start|>user<|message|>One?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>First.<|end|><|start|>user<|message|>Two?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>[Second.<|return|>]",
    ],
    "thought in the last turn": [
        CHATML + "<think>\n\n</think>\n\n[First.<|im_end|>]",
        CHATML + "First.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n[Second.<|im_end|>]",
    ],
    "empty thought everywhere": [
        "<|user|>One?<|assistant|><think></think>[First.<|end|>]<|user|>Two?<|assistant|><think></think>[Second.<|end|>]"
    ],
    "marks of words": [
        "<|user|>One?<|assistant|>\nHere are my steps:\n\n[FINAL RESPONSE]\n[First.\n<|end|>]",
        "<|user|>One?<|assistant|>\nFirst.\n<|end|>\n<|user|>Two?"
        "<|assistant|>\nHere are my steps:\n\n[FINAL RESPONSE]\n[Second.\n<|end|>]",
    ],
    "llama-2": ["<bos>[INST] One? [/INST][ First. <eos>]<bos>[INST] Two? [/INST][ Second. <eos>]"],
    "no end": ["User: One?\n\nAssistant:[ First.<eos>]",
               "User: One?\n\nAssistant: First.\n\nUser: Two?\n\nAssistant:[ Second.<eos>]"],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_two_turns(name: str) -> None:
    chat = encoder(name)
    found = []
    for row in chat.dialogues(DIALOGUE):
        pieces, before = "", False
        for i, is_target in zip(row.ids, row.is_target, strict=True):
            pieces += ("[" if is_target else "]") * (is_target != before) + text(chat, [i])
            before = is_target
        found.append(pieces + "]" * before)
    assert found == ROWS[name]


OFF: dict[str, list[tuple[str, Reading]]] = {
    "chatml": [
        ("Fine.<|im_end|>", Reading("Fine.")),
        ("Fine.<|endoftext|>", Reading("Fine.")),
        ("Fine.\n", Reading("Fine.\n")),
        ("", Reading("")),
        ("<|im_end|>", Reading("")),
    ],
    "next role ends": [("Fine.<|user|>", Reading("Fine.")), ("Fine.<eos>", Reading("Fine."))],
    "two tokens end": [
        ("Fine.<|/response|><|/turn|>", Reading("Fine.")),
        ("Fine.<|/turn|>", Reading("Fine.")),
        ("Fine.<|/response|>", Reading("Fine.")),
    ],
    "close tags": [
        ("Fine.<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>", Reading("Fine.")),
        # Cut off in the middle of the end: no word of the end is the answer's.
        ("Fine.<|close|>response<|sep|><|close|>mess", Reading("Fine.")),
        ("Fine.<|close|>", Reading("Fine.")),
        ("No close response", Reading("No close response")),
    ],
    "channels": [("Fine.<|return|>", Reading("Fine."))],
    "marks of words": [("Fine.\n<|end|>", Reading("Fine.")), ("Fine.<eos>", Reading("Fine."))],
    "llama-2": [(" Fine. <eos>", Reading("Fine.")), (" Fine.<eos>", Reading("Fine."))],
    "plain": [("Fine.<eos>", Reading("Fine.")), ("Fine.\n\n<eos>", Reading("Fine.\n\n"))],
    "enable_thinking": [
        ("Fine.<|im_end|>", Reading("Fine.")),
        ("Write </think> so.<|im_end|>", Reading("Write </think> so.")),
        # A model that thinks all the same.
        ("<think>\nHm.\n</think>\n\nFine.<|im_end|>", Reading("Fine.", "Hm.")),
    ],
}
ON: dict[str, list[tuple[str, Reading]]] = {
    "thought in the last turn": [
        ("<think>\nHm.\n</think>\n\nFine.<|im_end|>", Reading("Fine.", "Hm.")),
        ("<think>\nHm. And", Reading("", "Hm. And", complete=False)),
        ("<think>\nHm.<|im_end|>", Reading("", "Hm.", complete=False)),
        ("<think>\n\n</think>\n\nFine.<|im_end|>", Reading("Fine.")),
        ("Fine.<|im_end|>", Reading("Fine.")),
        ("The mark <think> is fine.<|im_end|>", Reading("The mark <think> is fine.")),
        ("<think>\nÄh 🙂\n</think>\n\n🙂 Ja.<|im_end|>", Reading("🙂 Ja.", "Äh 🙂")),
    ],
    **{
        name: [
            ("Hm.\n</think>\n\nFine.<|im_end|>", Reading("Fine.", "Hm.")),
            ("Hm.\n</think>Fine.<|endoftext|>", Reading("Fine.", "Hm.")),
            ("<think>\nHm.\n</think>\n\nFine.<|im_end|>", Reading("Fine.", "Hm.")),
            ("Hm. And", Reading("", "Hm. And", complete=False)),
            ("\n</think>\n\nFine.<|im_end|>", Reading("Fine.")),
            ("Hm.\n</think>\n\nFine </think> too.", Reading("Fine </think> too.", "Hm.")),
        ]
        for name, form in FORMS.items()
        if form is SWITCHED
    },
    "channels": [
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Fine.<|return|>",
         Reading("Fine.", "Hm.")),
        ("<|channel|>analysis<|message|>Hm. And", Reading("", "Hm. And", complete=False)),
        ("<|channel|>final<|message|>Fine.<|return|>", Reading("Fine.")),
        ("<|channel|>final<|message|>Fine.", Reading("Fine.")),
    ],
    "recipients": [
        (" to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Fine.<|eot|>", Reading("Fine.", "Hm.")),
        (" to=self<|message|>Hm. And", Reading("", "Hm. And", complete=False)),
        (" to=user<|message|>Fine.<|eot|>", Reading("Fine.")),
    ],
    "opened": [
        ("Hm.\n</think>\n\nFine.<eos>", Reading("Fine.", "Hm.")),
        ("Hm. And", Reading("", "Hm. And", complete=False)),
    ],
    "empty thought everywhere": [
        ("<think>Hm.</think>Fine.<|end|>", Reading("Fine.", "Hm.")),
        ("<think></think>Fine.<|end|>", Reading("Fine.")),
        ("Fine.<|end|>", Reading("Fine.")),
        ("<think>Hm. And", Reading("", "Hm. And", complete=False)),
    ],
    "empty thought by a switch": [
        ("Hm.</think>Fine.<|end|>", Reading("Fine.", "Hm.")),
        ("</think>Fine.<|end|>", Reading("Fine.")),
        ("Hm. And", Reading("", "Hm. And", complete=False)),
    ],
    "closing mark alone": [
        ("Hm.</think>Fine.<|end|>", Reading("Fine.", "Hm.")),
        ("</think>Fine.<|end|>", Reading("Fine.")),
        ("Hm. And", Reading("", "Hm. And", complete=False)),
    ],
    "marks of words": [
        ("Hm.\n[FINAL RESPONSE]\nFine.\n<|end|>", Reading("Fine.", "Hm.")),
        ("Hm. And", Reading("", "Hm. And", complete=False)),
    ],
}  # fmt: skip
SAMPLES = [
    (thinking, name, sample, reading)
    for thinking, table in (("off", OFF), ("on", ON))
    for name, samples in table.items()
    for sample, reading in samples
]


def test_what_thinks_is_read() -> None:
    assert ON.keys() == {name for name, form in FORMS.items() if form.thinks}


@pytest.mark.parametrize(("thinking", "name", "sample", "reading"), SAMPLES)
def test_samples_are_read(thinking: Thinking, name: str, sample: str, reading: Reading) -> None:
    chat = encoder(name, thinking)
    prompt = chat.prompt_ids(ONE)
    ids = chat.tokenizer(sample, add_special_tokens=False)["input_ids"]
    assert chat.read(ids, prompt) == reading


@pytest.mark.parametrize("name", FORMS)
def test_what_was_trained_is_read_back(name: str) -> None:
    for thinking in ("off", "on") if FORMS[name].thinks else ("off",):
        chat = encoder(name, thinking)
        for turn, answer in zip(chat.turns(DIALOGUE), ("First.", "Second."), strict=True):
            # The end of a sample is where the model stops.
            assert turn.answer[-1] in chat.stop_ids
            assert not set(turn.answer[:-1]) & set(chat.stop_ids)
            assert chat.read(turn.answer, turn.prompt) == Reading(answer)
