"""Files of preferences under templates made as those of published models: what a policy row trains, turn by turn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_templates import TEMPLATES
from transformers import PreTrainedTokenizerFast

from selfjudge.data.load import load_source
from selfjudge.data.rows import build_policy_rows
from selfjudge.engines.load import load_tokenizer
from selfjudge.recipes.schema import DataSection

CASES = Path(__file__).parents[2].parent / "shared" / "cases"
MARKS = (
    "<|start|> <|end|> <|message|> <|channel|> <|return|> <|user|> <|assistant|> <|system|> <think> </think> "
    "<|assistant_end|> [head]"
)
SINGLE = [{"prompt": "Name two primes.", "chosen": "Eleven, thirteen.", "rejected": "Twelve."}]
HELLO = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]
MULTI = [
    {
        "prompt": [*HELLO, {"role": "user", "content": "Name two primes."}],
        "chosen": [{"role": "assistant", "content": "Eleven, thirteen."}],
        "rejected": [{"role": "assistant", "content": "Twelve."}],
    }
]


def trained(file: Path, template: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> list[list[str]]:
    """The texts of each policy row's targets, one for each turn, as the command line reads file and model."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *MARKS.split()]})
    tokenizer.save_pretrained(folder / "model")
    (folder / "template.jinja").write_text(TEMPLATES[template])
    chat = load_tokenizer(folder / "model", str(folder / "template.jinja"))
    section = DataSection.model_validate({"sources": [{"path": str(file)}]})
    built = build_policy_rows(load_source(section.sources[0], section, 0).records, chat, 9999)
    assert built.dropped == ()
    rows = []
    for row in built.rows:
        text = "".join(
            chat.tokenizer.decode([i]) if target else "\0" for i, target in zip(row.ids, row.is_target, strict=True)
        )
        rows.append([part for part in text.split("\0") if part])
    return rows


def written(rows: list[dict[str, object]], folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# What ends a turn; the first turn's of two where it is another.
SINGLE_ENDS = {"channels": "<|return|>", "next role ends": "<|user|>", "empty thought everywhere": "<|end|>"}


@pytest.mark.parametrize("template", SINGLE_ENDS)
def test_one_turn(template: str, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    found = trained(written(SINGLE, tmp_path), template, chatml_tokenizer, tmp_path)
    assert found == [["Eleven, thirteen." + SINGLE_ENDS[template]]]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("thought in the last turn", [["Hi.<|im_end|>"], ["Eleven, thirteen.<|im_end|>"]]),
        ("eos after all", [["Hi.<|end|>", "Eleven, thirteen.<|end|>"]]),
        ("opened", [["Hi.<|endoftext|>"], ["Eleven, thirteen.<|endoftext|>"]]),
        ("channels", [["Hi.<|return|>"], ["Eleven, thirteen.<|return|>"]]),
    ],
)
def test_two_turns(
    template: str, expected: list[list[str]], chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    assert trained(written(MULTI, tmp_path), template, chatml_tokenizer, tmp_path) == expected


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize(("case", "turns"), [("07/single", 1), ("08/multi", 2)])
@pytest.mark.parametrize("template", [*SINGLE_ENDS, "thought in the last turn", "eos after all", "opened"])
def test_the_shared_cases(
    case: str, turns: int, template: str, chatml_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = CASES / f"{case}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = trained(file, template, chatml_tokenizer, tmp_path)
    targets = [target for row in found for target in row]
    assert len(targets) == turns * len(rows)
    for row, target in zip(rows, targets[turns - 1 :: turns], strict=True):
        assert target.startswith(row["chosen"][0]["content"] + "<|")
    if turns == 2:
        assert all(target.startswith("Hi, what can I do?<|") for target in targets[::2])
