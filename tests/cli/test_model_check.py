"""`selfjudge model check` as a user runs it: a yes, or a no with its reasons."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import TEMPLATES
from families import tiny_config, tiny_model
from test_plan_command import words
from transformers import PreTrainedTokenizerFast

from selfjudge.world.model import build_tokenizer


@pytest.fixture
def bare(tmp_path: Path, chatml_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with tokenizer and config alone."""
    folder = tmp_path / "bare"
    chatml_tokenizer.save_pretrained(folder)
    tiny_config("mistral", len(chatml_tokenizer), max_position_embeddings=2048).save_pretrained(folder)
    return folder


def checked(run: Any, *args: str | Path) -> tuple[int, dict[str, Any], str, str]:
    """Exit code, JSON, what was printed and what was complained about."""
    file = Path(args[0]).parent / "check.json"
    result = run("model", "check", *args, "--json", file, "--overwrite")
    return result.code, json.loads(file.read_text()), words(result.out), result.err


def test_without_weights_tokenizer_and_config_are_enough(run, bare: Path) -> None:
    code, report, out, err = checked(run, bare)
    assert (code, err) == (0, "")
    assert report["ok"]
    assert report["problems"] == []
    assert report["policy_target"] == "The oak.<|im_end|>"
    assert report["two_turn_targets"] == ["The oak.<|im_end|>", "The owl, of course.<|im_end|>"]
    assert report["generation_prompt"] == "<|im_start|>user\nName a tree.<|im_end|>\n<|im_start|>assistant\n"
    assert report["stop_tokens"] == {
        "<|endoftext|>": "the tokenizer's end token",
        "<|im_end|>": "what follows an answer in the chat template",
    }
    assert set(report["label_tokens"]) == {"A", "B"}
    assert {label.strip() for label in report["label_tokens"].values()} == {"A", "B"}
    assert (report["thinking"], report["can_think"]) == ("off", False)
    assert report["cache"] == "sliding window of 8 tokens"
    assert (report["context_length"], report["context_source"]) == (2048, "max_position_embeddings")
    assert "»The oak.<|im_end|>«" in out
    assert "– Sampling not tried: there are no weights here" in out
    assert out.endswith("It can be trained and sampled.")


def test_a_context_that_holds_no_judgment_is_a_no(run, bare: Path) -> None:
    config = json.loads((bare / "config.json").read_text()) | {"max_position_embeddings": 40}
    (bare / "config.json").write_text(json.dumps(config))
    code, _, _, err = checked(run, bare)
    assert code == 2
    assert "The context has 40 tokens, of which a judgment takes" in err


def test_stop_tokens_of_the_generation_config_count(run, bare: Path) -> None:
    (bare / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    _, report, *_ = checked(run, bare)
    assert report["stop_tokens"] == {
        "<|endoftext|>": "the tokenizer's end token",
        "<|im_end|>": "what follows an answer in the chat template, generation_config.eos_token_id",
        "<|im_start|>": "generation_config.eos_token_id",
    }


def test_with_weights_sampling_is_tried(run, tmp_path: Path, world_tokenizer: PreTrainedTokenizerFast) -> None:
    folder = tmp_path / "hybrid"
    tiny_model("minimax", len(world_tokenizer), eos_token_id=world_tokenizer.eos_token_id).save_pretrained(folder)
    world_tokenizer.save_pretrained(folder)
    code, report, out, _ = checked(run, folder)
    assert code == 0, report["problems"]
    assert report["cache"] == "hybrid: 2 linear-attention, 2 full-attention layers"
    assert report["sampling"].startswith("with the model's own cache, prompts of one length at a time")
    assert "✓ Weights fine ✓ Sampling with the model's own cache" in out


def test_a_template_that_needs_tools_is_a_no(run, bare: Path) -> None:
    (bare.parent / "tools.jinja").write_text("{% for t in tools %}{% endfor %}x")
    code, report, out, err = checked(run, bare, "--chat-template", bare.parent / "tools.jinja")
    assert code == 2
    assert not report["ok"]
    assert report["policy_target"] is None
    assert len(report["problems"]) == 1
    assert "cannot render a question and its answer" in report["problems"][0]
    assert "'tools' is undefined" in err or "not iterable" in err
    assert "set model.chat_template to a Jinja file" in err
    assert "✗ Tokenizer and chat template" in out


def test_a_thought_is_shown_where_it_stands(run, bare: Path) -> None:
    template = bare.parent / "thinks.jinja"
    template.write_text(TEMPLATES["thought in the last turn"])
    _, off, out, _ = checked(run, bare, "--chat-template", template)
    assert off["generation_prompt"].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert off["two_turn_targets"] == ["The oak.<|im_end|>", "The owl, of course.<|im_end|>"]
    assert "2 rows, a turn each (the template rewrites earlier turns)" in out
    _, on, out, _ = checked(run, bare, "--chat-template", template, "--thinking", "on")
    assert on["thinking"] == "on"
    assert "</think>" not in on["generation_prompt"]
    assert on["policy_target"] == off["policy_target"]


def test_thinking_without_thoughts_is_a_no(run, bare: Path) -> None:
    code, _, _, err = checked(run, bare, "--thinking", "on")
    assert code == 2
    assert "knows no thoughts: set model.thinking to off" in err


def test_labels_that_are_no_single_tokens_are_a_no(
    run, bare: Path, spelling_tokenizer: Callable[..., PreTrainedTokenizerFast]
) -> None:
    # The text before the label and one of the labels are one token.
    spelling_tokenizer([(":", "A")], TEMPLATES["plain"]).save_pretrained(bare)
    (bare.parent / "glued").mkdir()
    (bare.parent / "glued" / "overall.txt").write_text(
        "[user]\n{context}\n{response_a}\n{response_b}\n[assistant]\nBetter:{label}\n"
    )
    code, report, _, err = checked(run, bare, "--template", bare.parent / "glued")
    assert code == 2
    assert report["label_tokens"] == {}
    assert "The labels A and B are not single tokens after 'Better:'" in err
    assert report["policy_target"].startswith("The oak.")


def test_weights_of_another_tokenizer_are_a_no(run, tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(tiny_model_folder, folder)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([f"more{i}" for i in range(9)])
    tokenizer.save_pretrained(folder)
    code, report, _, err = checked(run, folder)
    assert code == 2
    assert "9 of its tokenizer's ids have no embedding" in err
    assert [check["passed"] for check in report["checks"] if check["name"] == "Weights"] == [False]


def test_a_tokenizer_alone_says_what_is_missing(run, bare: Path) -> None:
    (bare / "config.json").unlink()
    code, report, _, err = checked(run, bare)
    assert code == 2
    assert report["policy_target"] == "The oak.<|im_end|>"
    assert err == f"Error: {bare} holds no model (no config.json): name a model folder or a finished run folder.\n"


def test_the_file_is_not_overwritten_unasked(run, bare: Path) -> None:
    file = bare.parent / "there.json"
    file.write_text("mine")
    result = run("model", "check", bare, "--json", file)
    assert result.code == 2
    assert file.read_text() == "mine"
