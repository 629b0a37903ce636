"""Several rows in one sequence: the same loss and the same gradient, and no row sees another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from selfjudge.data import collate
from selfjudge.data.collate import JsftCollator, pack
from selfjudge.data.rows import Row
from selfjudge.engines.load import load_model
from selfjudge.engines.target_logprobs import target_logprobs
from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import Recipe, SourceSection
from selfjudge.training.arguments import training_arguments
from selfjudge.training.jsft import run_jsft
from selfjudge.training.jsft_trainer import JsftTrainer
from selfjudge.training.packing import check_packing

VOCAB = 60
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def llama(attention: str = "sdpa") -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation=attention))


def mistral() -> PreTrainedModel:
    """With a window that is shorter than the rows."""
    return MistralForCausalLM(MistralConfig(**LLAMA, sliding_window=3))


def gpt2() -> PreTrainedModel:
    """Its absolute positions show positions that do not begin anew."""
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    )


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "sdpa": llama,
    "eager": lambda: llama("eager"),
    "sliding window": mistral,
    "absolute positions": gpt2,
}


def row(name: str, n: int, target_from: int, seed: int = 0) -> Row:
    ids = torch.randint(1, VOCAB, (n,), generator=torch.Generator().manual_seed(100 * n + seed)).tolist()
    kind = "judgment" if name.startswith("j") else "policy"
    return Row(kind, name, tuple(ids), tuple(i >= target_from for i in range(n)))


# The last row's first token is a target: nothing of its sequence may predict it.
ROWS = [row("p1", 11, 4), row("j1", 7, 6), row("p2", 4, 2), row("j2", 5, 4), row("p3", 3, 0)]


def features(rows: list[Row]) -> list[dict[str, object]]:
    return [{"rows": (row,)} for row in rows]


def test_first_fit_longest_first() -> None:
    assert pack([4, 11, 7, 3, 5]) == [[1], [2, 0], [4, 3]]
    assert pack([5]) == [[0]]
    assert pack([2, 2, 2]) == [[0], [1], [2]]  # no sequence is longer than the longest row


def test_packed_batches_by_hand() -> None:
    rows = [
        Row("policy", "a", (5, 6), (False, True)),
        Row("judgment", "b", (7, 8, 9, 10, 11), (False, False, False, False, True)),
        Row("policy", "c", (12, 13), (True, True)),
    ]
    batch = JsftCollator(pad_id=0, judgment_weight=8.0, packing=True)(features(rows))
    assert batch["input_ids"].tolist() == [[7, 8, 9, 10, 11], [5, 6, 12, 13, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]]
    assert batch["targets"].tolist() == [4, 6, 8]
    assert batch["target_weights"].tolist() == [8, 1, 1]


def loss_and_gradients(model: PreTrainedModel, folder: Path, *, packing: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    batch = JsftCollator(0, 8.0, packing)(features(ROWS))
    model.zero_grad()
    collator = JsftCollator(0, 8.0, packing)
    args = training_arguments("jsft", {"use_cpu": True}, folder, 0)
    trainer = JsftTrainer(model, args, train_dataset=features(ROWS), data_collator=collator)
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, batch["input_ids"].numel()


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_are_those_of_padded_rows(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    padded, wanted, padded_tokens = loss_and_gradients(model, tmp_path, packing=False)
    packed, found, packed_tokens = loss_and_gradients(model, tmp_path, packing=True)
    assert (padded_tokens, packed_tokens) == (55, 33)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-4, atol=1e-5 * float(wanted[key].abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_see_its_neighbour(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    neighbour = ROWS[1]
    changed = [replace(r, ids=row("j1", 7, 6, seed=1).ids) if r is neighbour else r for r in ROWS]
    collator = JsftCollator(0, packing=True)
    one, other = collator(features(ROWS)), collator(features(changed))
    assert one["input_ids"][1, :7].tolist() == list(neighbour.ids)
    assert one["input_ids"][1, 7:].tolist() == other["input_ids"][1, 7:].tolist() == list(ROWS[2].ids)
    values = []
    for batch in (one, other):
        inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
        with torch.no_grad():
            values.append(target_logprobs(model, inputs, torch.tensor([11 + 6, 11 + 8, 11 + 9, 11 + 10])))
    assert values[0][0] != values[1][0]  # the neighbour's own
    assert torch.equal(values[0][1:], values[1][1:])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_can(name: str, dtype: torch.dtype) -> None:
    check_packing(MODELS[name]().to(dtype).eval())


def mamba() -> PreTrainedModel:
    return MambaForCausalLM(
        MambaConfig(vocab_size=VOCAB, hidden_size=32, state_size=4, num_hidden_layers=2, initializer_range=0.3)
    )


def hybrid() -> PreTrainedModel:
    """Attention and recurrence in each layer."""
    sizes = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
    return FalconH1ForCausalLM(FalconH1Config(**LLAMA, **sizes))


@pytest.mark.parametrize("make", [mamba, hybrid])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_that_cannot(make: Callable[[], PreTrainedModel], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = make().to(dtype).eval()
    with pytest.raises(RecipeError, match=rf"jsft.packing.*\({model.config.model_type}.*jsft.packing=false"):
        check_packing(model)


def test_a_model_that_takes_no_part_in_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As flash attention of several sequences: no mask is made, and attention is causal over the whole sequence."""
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(RecipeError, match="sdpa"):
        check_packing(llama().eval())


def test_jsft_with_packing_ends_where_it_ends_without(
    tmp_path: Path,
    tiny_recipe: Callable[..., Recipe],
    distance: Callable[[PreTrainedModel, PreTrainedModel], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed: list[list[list[int]]] = []
    monkeypatch.setattr(collate, "pack", lambda lengths: packed.append(pack(lengths)) or packed[-1])
    sgd = {"optim": "sgd", "learning_rate": 0.05, "save_strategy": "no", "max_steps": 3}
    source, models = tmp_path / "pairs.jsonl", []
    records = [
        {"prompt": f"Name {i} of the sea.", "chosen": "coral, tide, " * (8 * (i % 4 == 0)) + "coral", "rejected": "oak"}
        for i in range(24)
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    for packing in (False, True):
        assert not packed
        recipe = tiny_recipe(jsft={"packing": packing, "rows": "policy", "training": sgd})
        recipe.data.sources = [SourceSection(path=str(source))]
        models.append(load_model(run_jsft(recipe, tmp_path / str(packing)).model).model)
    assert len(packed) == 3
    assert all(len(sequences) < 8 for sequences in packed)
    assert distance(models[0], models[1]) < 1e-5
    assert distance(models[0], load_model(recipe.model.path).model) > 1e-3


def test_a_model_that_cannot_leaves_no_run_folder(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    with pytest.raises(RecipeError, match=r"jsft\.packing"):
        run_jsft(tiny_recipe(7, jsft={"packing": True}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
