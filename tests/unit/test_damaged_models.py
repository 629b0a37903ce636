"""Models whose small files are damaged or unusual: they load and save, or one sentence says what to correct."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selfjudge.engines.load import load_model, load_tokenizer, save_model
from selfjudge.errors import ModelError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft import run_jsft
from transformers import AutoTokenizer, GenerationConfig

SAMPLING = "generation_config.json"


@pytest.fixture
def model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def on(recipe: Recipe, model: Path) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": str(model)})})


FLAGS = [
    ({"temperature": 0.6, "top_p": 0.9, "do_sample": False}, True),
    ({"top_k": 20}, True),
    ({"temperature": 0.0, "do_sample": False}, False),
    ({"temperature": "hot"}, False),
    ({"temperature": 0.6, "length_penalty": 0.5}, False),  # a flag of beams without any
    ({"temperature": 0.6, "do_sample": True}, True),
]


@pytest.mark.parametrize(("flags", "samples"), FLAGS)
def test_flags_of_sampling_can_be_saved(model: Path, tmp_path: Path, flags: dict[str, Any], samples: bool) -> None:
    edit(model / SAMPLING, pad_token_id=1, **flags)
    loaded = load_model(model)
    save_model(loaded.model, loaded.chat.tokenizer, tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    saved.validate(strict=True)
    assert (saved.do_sample or False, saved.pad_token_id) == (samples, 1)
    assert saved.eos_token_id == list(loaded.chat.stop_ids)
    assert again.chat.stop_ids == loaded.chat.stop_ids
    if samples:
        assert {name: getattr(saved, name) for name in flags if name != "do_sample"} == {
            name: value for name, value in flags.items() if name != "do_sample"
        }


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_model_with_flags_of_sampling_is_trained_and_kept(
    model: Path, tmp_path: Path, tiny_recipe: Callable[..., Recipe], lora: dict[str, Any] | None
) -> None:
    edit(model / SAMPLING, temperature=0.6, top_p=0.9, do_sample=False)
    recipe = on(tiny_recipe(jsft={"training": {"max_steps": 1}, "lora": lora}), model)
    run = run_jsft(recipe, tmp_path / "run")
    kept = GenerationConfig.from_pretrained(run.model)
    assert (kept.temperature, kept.top_p, kept.do_sample) == (0.6, 0.9, True)


ENDS = ["abc", "2", 2.5, {}, {"a": 1}, [[1]], ["a"], -1, [-1], True, [2, None]]


@pytest.mark.parametrize("value", ENDS, ids=repr)
def test_an_end_that_is_no_id(model: Path, value: Any) -> None:
    edit(model / SAMPLING, eos_token_id=value)
    for load in (load_tokenizer, load_model):
        with pytest.raises(ModelError, match=r"no id of a token.*: correct eos_token_id in generation_config\.json"):
            load(model)


@pytest.mark.parametrize("value", [10**12, [2, 10**30], 100_000], ids=repr)
def test_an_end_that_the_tokenizer_lacks(model: Path, value: Any) -> None:
    edit(model / SAMPLING, eos_token_id=value)
    with pytest.raises(ModelError, match=r"ends texts with id 10+, .* does not have: correct eos_token_id in gen"):
        load_tokenizer(model)


DAMAGED = [b"[1, 2]", b'"x"', b"", b"{nope", b"\xff\x00\x80", b"[" * 100_000, b'{"max_new_tokens": -3}']


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:9]))
def test_a_generation_config_that_cannot_be_read(model: Path, content: bytes) -> None:
    (model / SAMPLING).write_bytes(content)
    for load in (load_tokenizer, load_model):
        with pytest.raises(ModelError, match=r"model/generation_config\.json cannot be read \(.*correct it, or remove"):
            load(model)


def test_ends_that_are_fine(model: Path) -> None:
    plain = load_tokenizer(model).stop_ids
    for value in (None, [], plain[0], [*plain]):
        edit(model / SAMPLING, eos_token_id=value)
        assert load_model(model).chat.stop_ids == plain
    added = AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("fox")
    edit(model / SAMPLING, eos_token_id=[added])
    assert load_model(model).chat.stop_ids == (*plain, added)
    (model / SAMPLING).unlink()
    assert load_model(model).chat.stop_ids == plain
