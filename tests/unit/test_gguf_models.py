"""A .gguf file with all weights becomes a model folder; one without some of them is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFWriter

from selfjudge.engines.load import load_model
from selfjudge.errors import ModelError

HIDDEN, INNER, LAYERS, HEADS = 16, 32, 2, 2
LETTERS = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]
TOKENS = [*LETTERS, "th", "an", "<|begin|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def weights() -> dict[str, np.ndarray]:
    """Random weights of a small Llama, by llama.cpp's names."""
    rng = np.random.default_rng(0)
    inner = {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
    attention = {f"attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")}
    norms = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    shapes["output.weight"] = (len(TOKENS), HIDDEN)
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {**inner, **attention, **norms}.items()}
    return {name: rng.normal(size=shape, scale=0.1).astype(np.float32) for name, shape in shapes.items()}


def write(file: Path, found: dict[str, np.ndarray]) -> Path:
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(TOKENS) - 2) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["t h", "a n"])
    writer.add_bos_token_id(len(TOKENS) - 2)
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_chat_template(TEMPLATE)
    for name, weight in found.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFJUDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_all_weights_come_from_the_file(tmp_path: Path) -> None:
    found = weights()
    loaded = load_model(write(tmp_path / "m.gguf", found))
    here = loaded.model.state_dict()
    np.testing.assert_array_equal(here["model.embed_tokens.weight"], found["token_embd.weight"])
    np.testing.assert_array_equal(here["lm_head.weight"], found["output.weight"])
    names = {"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_v": "self_attn.v_proj"}
    for layer in range(LAYERS):
        for theirs, ours in names.items():
            name = f"model.layers.{layer}.{ours}.weight"
            np.testing.assert_array_equal(here[name], found[f"blk.{layer}.{theirs}.weight"])


@pytest.mark.parametrize(
    ("missing", "named"),
    [("blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight"), ("output_norm.weight", "model.norm.weight")],
)
def test_a_file_without_all_weights(tmp_path: Path, cache: Path, missing: str, named: str) -> None:
    found = weights()
    del found[missing]
    file = write(tmp_path / "m.gguf", found)
    with pytest.raises(ModelError, match=r"1 of its weights are not in its files and would be random \(" + named):
        load_model(file)
    assert not cache.exists()


def test_a_file_without_an_output_has_that_of_its_embeddings(tmp_path: Path) -> None:
    found = weights()
    del found["output.weight"]
    loaded = load_model(write(tmp_path / "m.gguf", found))
    here = loaded.model.state_dict()
    np.testing.assert_array_equal(here["lm_head.weight"], found["token_embd.weight"])
