"""Epochs for several processes, their measures, and the shipped configurations of accelerate."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler
from transformers.integrations import deepspeed

from selfjudge.cli import main
from selfjudge.engines.base import SamplingParams, prompt_seed
from selfjudge.engines.load import load_model
from selfjudge.errors import DataError, ElsewhereError, RecipeError, RunError
from selfjudge.recipes.load import load_recipe
from selfjudge.training import measures, processes
from selfjudge.training.even import NO_ROW, EvenCollator, EvenRows, EvenSampler, even_sampler
from selfjudge.training.measures import Measures
from selfjudge.training.processes import leave, main_first, on_main, spread
from selfjudge.training.whole_weights import check_layout

LAYOUTS = Path(__file__).parents[2] / "examples" / "accelerate"


def test_every_row_once_and_full_batches_for_all() -> None:
    sampler = EvenSampler(SequentialSampler(range(5)), 4)
    assert (len(sampler), [*sampler]) == (8, [0, 1, 2, 3, 4, NO_ROW, NO_ROW, NO_ROW])
    assert [*EvenSampler(SequentialSampler(range(4)), 4)] == [0, 1, 2, 3]
    # Two processes with batches of two: the last batch of the second one has no row.
    batches = [*BatchSampler(sampler, 2, drop_last=False)]
    assert (batches[0::2], batches[1::2]) == ([[0, 1], [4, NO_ROW]], [[2, 3], [NO_ROW, NO_ROW]])


def trainer(count: int, *, drop_last: bool = False) -> Any:
    args = SimpleNamespace(dataloader_drop_last=drop_last, data_seed=7)
    return SimpleNamespace(args=args, accelerator=SimpleNamespace(num_processes=count), _train_batch_size=2)


def test_only_several_processes_need_an_even_epoch() -> None:
    plain = RandomSampler(range(5))
    assert even_sampler(trainer(1), plain) is plain
    assert even_sampler(trainer(2, drop_last=True), plain) is plain
    assert len(even_sampler(trainer(2), plain)) == 8


def test_processes_draw_one_order_and_another_in_each_epoch() -> None:
    first, second = (even_sampler(trainer(3), RandomSampler(range(50))) for _ in range(2))
    torch.manual_seed(0)
    one = [*first]
    torch.manual_seed(1)  # what else a process has drawn does not matter
    assert [*second] == one
    assert sorted(one) == [NO_ROW] * 4 + [*range(50)]
    first.set_epoch(1)
    second.set_epoch(0)
    assert [*second] == one
    assert [*first] != one


def test_a_batch_without_rows_weighs_nothing() -> None:
    rows = EvenRows([3.0, 4.0])
    assert (len(rows), rows[1], rows[NO_ROW]) == (2, 4.0, None)

    def collate(features: list[float]) -> dict[str, Any]:
        return {"x": torch.tensor(features), "w": torch.ones(len(features))}

    collator = EvenCollator(collate, 3.0, "w")
    assert collator([4.0, None, 5.0])["x"].tolist() == [4.0, 5.0]
    empty = collator([None, None])
    assert (empty["x"].tolist(), empty["w"].tolist()) == ([3.0], [0.0])


def test_measures_of_all_processes_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*noted: tuple[str, Any, float]) -> Measures:
        found = Measures()
        for note in noted:
            found.note(*note)
        return found

    one = measured(("a", torch.tensor(1.0), 3), ("a", torch.tensor(3.0), 1), ("b", 2.0, 1), ("c", math.nan, 4))
    two = measured(("a", torch.tensor(7.0), 2), ("d", 0.5, 2), ("e", 1.0, 0))
    other = two._on_host()
    monkeypatch.setattr(measures, "gather_objects", lambda mine: [mine, other])
    # a: (1 · 3 + 3 · 1 + 7 · 2) / 6
    assert one.take() == {"a": pytest.approx(20 / 6), "b": 2.0, "d": 0.5}
    assert one.take().keys() == {"a", "d"}  # begun anew, but for the other process


def test_alone_work_is_just_done() -> None:
    assert on_main(lambda: 1) == main_first(lambda: 1) == 1
    assert spread([5, 6, 7], lambda items, places: [i + 10 * p for i, p in zip(items, places, strict=True)]) == [
        5,
        16,
        27,
    ]


def test_who_leaves_is_alone() -> None:
    leave()  # nothing to leave yet
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    leave()
    assert not dist.is_initialized()


def test_shares_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "process_count", lambda: 3)
    seen: dict[int, list[int]] = {}
    results: dict[int, list[str]] = {}

    def work(items: list[str], places: list[int]) -> list[str]:
        seen[index] = places
        results[index] = [item.upper() for item in items]
        return results[index]

    monkeypatch.setattr(processes, "_raise_any", lambda error: None)
    monkeypatch.setattr(processes, "gather_objects", lambda mine: [results.get(i, ["?"] * 2) for i in range(3)])
    for index in range(3):
        monkeypatch.setattr(processes, "process_index", lambda index=index: index)
        found = spread([*"abcde"], work)
    assert seen == {0: [0, 3], 1: [1, 4], 2: [2]}
    assert found == [*"ABCDE"]


def test_an_error_of_one_process_is_one_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["", "RunError: full", "DataError: bad"]
    monkeypatch.setattr(processes, "process_count", lambda: 3)
    monkeypatch.setattr(processes, "gather_objects", lambda mine: said)
    own = {1: RunError("full"), 2: DataError("bad")}
    for index, kind in ((0, ElsewhereError), (1, RunError), (2, ElsewhereError)):
        monkeypatch.setattr(processes, "process_index", lambda index=index: index)
        with pytest.raises(kind, match="full"):  # the first one's, said by that process
            processes._raise_any(own.get(index))
    monkeypatch.setattr(processes, "gather_objects", lambda mine: [None] * 3)
    processes._raise_any(None)


def test_a_process_that_others_stopped_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise ElsewhereError("Process 0 stopped (RunError: full).")

    monkeypatch.setattr(main, "app", stopped)
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == ""


def test_a_prompts_seed_goes_with_its_place() -> None:
    assert [SamplingParams(seed=3).prompt_seed(i) for i in range(2)] == [prompt_seed(3, 0), prompt_seed(3, 1)]
    assert SamplingParams(seed=3, places=(4, 9)).prompt_seed(1, bits=63) == prompt_seed(3, 9, 63)


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED")]
)
def test_accelerate_loads_the_shipped_configurations(name: str, kind: str) -> None:
    config = load_config_from_file(str(LAYOUTS / f"{name}.yaml"))
    assert (config.distributed_type.value, config.num_machines, config.use_cpu) == (kind, 1, False)
    assert {p.stem for p in LAYOUTS.glob("*.yaml")} == {"ddp", "fsdp2", "zero2", "zero3"}


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gets_the_stage_that_the_file_is_named_for(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    section = yaml.safe_load((LAYOUTS / f"zero{stage}.yaml").read_text(encoding="utf-8"))["deepspeed_config"]
    monkeypatch.setattr("accelerate.utils.dataclasses.is_deepspeed_available", lambda: True, raising=False)
    for key, name in (("zero3_init_flag", "ZERO3_INIT"), ("zero3_save_16bit_model", "ZERO3_SAVE_16BIT_MODEL")):
        monkeypatch.setenv(f"ACCELERATE_DEEPSPEED_{name}", str(section.get(key, False)).lower())
    plugin = DeepSpeedPlugin(zero_stage=section["zero_stage"], gradient_accumulation_steps="auto")
    zero = plugin.deepspeed_config["zero_optimization"]
    assert zero["stage"] == stage
    assert zero["stage3_gather_16bit_weights_on_model_save"] == (stage == 3)
    assert plugin.zero3_init_flag is False


def layout(**fsdp: Any) -> Any:
    plugin = SimpleNamespace(**{"fsdp_version": 2, "cpu_ram_efficient_loading": False, **fsdp})
    return SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))


def test_layouts_that_would_go_wrong_are_refused() -> None:
    check_layout(layout())
    check_layout(SimpleNamespace(state=SimpleNamespace()))
    with pytest.raises(RecipeError, match="FSDP 1 is not supported"):
        check_layout(layout(fsdp_version=1))
    with pytest.raises(RecipeError, match="fsdp_cpu_ram_efficient_loading leaves all processes but one"):
        check_layout(layout(cpu_ram_efficient_loading=True))


def test_weights_are_loaded_whole_under_zero_3(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # accelerate leaves this behind whatever zero3_init_flag says, and transformers would then shard what it loads.
    config = SimpleNamespace(is_zero3=lambda: True, config={})
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: config)
    model = load_model(tiny_model_folder).model
    assert all(weight.numel() and not hasattr(weight, "ds_id") for weight in model.parameters())
    assert deepspeed.is_deepspeed_zero3_enabled()


OPENAI = ["self_training.engine=openai", "self_training.lora={r: 8}"]
SERVERS = "self_training.servers.url=[http://a/v1, http://b/v1]"


def test_rollouts_of_shared_servers_need_them_and_an_adapter() -> None:
    recipe = load_recipe("demo", [*OPENAI, SERVERS, "self_training.rollout.async=1"])
    assert recipe.self_training.servers.url == ["http://a/v1", "http://b/v1"]
    for settings, said in [
        (OPENAI, "go together: set both"),
        ([SERVERS], "go together: set both"),
        (["self_training.engine=openai", SERVERS, "self_training.lora=null"], "hands over adapters"),
        ([*OPENAI, "self_training.servers.url=http://u:p@a/v1"], "http://.*@a/v1 has a password"),
        (["self_training.rollout.async=1"], "engine=vllm or openai"),
    ]:
        with pytest.raises(RecipeError, match=said):
            load_recipe("demo", settings)
