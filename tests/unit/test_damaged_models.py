"""Models whose small files are damaged or unusual: they load and save, or one sentence says what to correct."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from selfjudge.cli.main import main
from selfjudge.engines.load import load_model, load_tokenizer, pretrained
from selfjudge.engines.save import save_model
from selfjudge.errors import ModelError
from selfjudge.recipes.schema import Recipe
from selfjudge.training.jsft import run_jsft

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
        with pytest.raises(
            ModelError, match=r"neither a token id nor a list of them: correct eos_token_id in generation_config\.json"
        ):
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


FILES = [
    ("config.json", b"[]"), ("config.json", b""), ("config.json", b"\xff\xfe"), ("config.json", b"{"),
    ("tokenizer_config.json", b"[]"), ("tokenizer.json", b"{"), ("tokenizer.json", b"\xff\xfe\x00"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), FILES)
def test_files_that_are_no_json(model: Path, name: str, content: bytes) -> None:
    (model / name).write_bytes(content)
    for load in (load_tokenizer, load_model):
        with pytest.raises(ModelError, match=rf"loaded: .*/model/{name} is not a JSON object: correct it"):
            load(model)


SIZES = [("num_attention_heads", 0), ("num_attention_heads", -1), ("max_position_embeddings", "x"), ("head_dim", 0)]


@pytest.mark.parametrize(("name", "value"), SIZES)
def test_sizes_that_are_none(model: Path, name: str, value: Any) -> None:
    edit(model / "config.json", **{name: value})
    with pytest.raises(
        ModelError, match=rf"{name} is {value!r}, not a number above 0: correct {name} in .*config\.json"
    ):
        load_model(model)


def test_a_value_that_transformers_refuses_is_named(model: Path) -> None:
    edit(model / "config.json", eos_token_id="abc")
    for load in (load_tokenizer, load_model):
        with pytest.raises(ModelError, match=r"eos_token_id.*abc.* \(correct its files, or fetch or save it again\)"):
            load(model)


def test_a_chat_template_of_a_model_that_is_no_text(model: Path) -> None:
    (model / "chat_template.jinja").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ModelError, match=r"/chat_template\.jinja is not UTF-8 text: correct it"):
        load_tokenizer(model)


BROKEN: list[Callable[[Path], Any]] = [
    lambda model: edit(model / SAMPLING, eos_token_id="abc"),
    lambda model: edit(model / "config.json", num_attention_heads=0),
    lambda model: edit(model / "config.json", num_attention_heads=-1),
    lambda model: (model / "tokenizer_config.json").write_bytes(b"[]"),
]


@pytest.mark.parametrize("breaks", BROKEN)
def test_commands_say_it_in_a_sentence(
    model: Path,
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
    breaks: Callable[[Path], Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaks(model)
    with pytest.raises(ModelError):
        run_jsft(on(tiny_recipe(), model), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["selfjudge", "model", "check", str(model), "--template", "world"])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2
    assert "correct " in said.err
    assert said.err.count("\n") == 1


class Failing:
    """Loads nothing, and raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def from_pretrained(self, *_: object, **__: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), KeyboardInterrupt(),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")],
)  # fmt: skip
def test_running_out_of_memory_is_no_damage(model: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        pretrained(Failing(error), str(model))
    assert caught.value is error


@pytest.mark.parametrize("error", [RuntimeError("odd"), struct.error("odd"), AssertionError("odd"), TypeError("odd")])
def test_whatever_else_a_library_raises_is_told(model: Path, error: Exception) -> None:
    with pytest.raises(ModelError, match=rf"loaded: {type(error).__name__}: odd \(correct its files"):
        pretrained(Failing(error), str(model))


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 5), ("vocab_size", 100), ("hidden_size", 128), ("model_type", "nonexist"),
     ("rope_parameters", {"rope_type": "nonsense"})],
)  # fmt: skip
def test_nothing_is_logged_before_the_sentence(model: Path, name: str, value: Any) -> None:
    edit(model / "config.json", **{name: value})
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    held = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    transformers_logging.add_handler(handler)
    try:
        with pytest.raises(ModelError):
            load_model(model)
        assert transformers_logging.get_verbosity() == transformers_logging.WARNING
    finally:
        transformers_logging.remove_handler(handler)
        transformers_logging.set_verbosity(held)
    assert logged == []


def header(tensors: int, version: int = 3) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, 1)


GGUF = [
    (b"", "could not be read as GGUF"), (b"GGUF\x03\x00\x00\x00", "could not be read as GGUF"),
    (b"PK\x03\x04" + b"\x00" * 40, "could not be read as GGUF"), (header(3), "could not be read as GGUF"),
    (header(3, 77), "could not be read as GGUF"), (header(2**63) + b"\xff" * 40, "could not be read as GGUF"),
    (header(0) + b"\x00" * 40, r"m\.gguf holds no weights, only a vocabulary: name a \.gguf file of a model\."),
]  # fmt: skip


@pytest.mark.parametrize(("content", "said"), GGUF)
def test_gguf_files_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str) -> None:
    monkeypatch.setenv("SELFJUDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(content)
    for load in (load_tokenizer, load_model):
        with pytest.raises(ModelError, match=said):
            load(tmp_path / "m.gguf")
    assert not (tmp_path / "cache").exists()


def test_memory_that_runs_out_at_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFJUDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.gguf").write_bytes(header(3))
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", Failing(MemoryError()).from_pretrained)
    with pytest.raises(MemoryError):
        load_tokenizer(tmp_path / "m.gguf")
