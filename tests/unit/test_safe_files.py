"""Of a model, an adapter and a checkpoint nothing is read that can run code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from selfjudge.baselines.scorer import load_scorer
from selfjudge.data.sources import load_preferences
from selfjudge.engines.load import adapter_folder, load_model, load_tokenizer
from selfjudge.engines.safe_files import check_weights
from selfjudge.engines.save import save_model
from selfjudge.errors import DataError, ModelError
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.template import load_templates
from selfjudge.training.checkpoints import MANIFEST
from selfjudge.training.jsft import run_jsft
from selfjudge.training.plan.shape import read_config


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def plant(mark: Path) -> Callable[[Path], None]:
    """Writes a bomb as a file of any kind."""

    def _plant(file: Path) -> None:
        file.unlink(missing_ok=True)
        if file.suffix in (".pt", ".bin", ".pth"):
            torch.save({"weight": Bomb(mark)}, file)
        elif file.suffix == ".npz":
            np.savez(file, allow_pickle=True, a=np.array([Bomb(mark)], dtype=object))
        else:
            file.write_bytes(pickle.dumps(Bomb(mark)))

    return _plant


@pytest.fixture
def model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def test_the_bomb_would_go_off(plant: Callable[[Path], None], tmp_path: Path, mark: Path) -> None:
    plant(tmp_path / "a.pkl")
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert mark.is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_model_whose_weights_are_a_pickle(model: Path, plant: Callable[[Path], None], mark: Path, name: str) -> None:
    (model / "model.safetensors").unlink()
    plant(model / name)
    with pytest.raises(ModelError, match=rf"no weights as safetensors, and {name} is not read, .* run code"):
        load_model(model)
    assert not mark.exists()


def test_without_any_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights as safetensors: fetch"):
        load_model(model)


def test_pickles_beside_are_left_alone(model: Path, plant: Callable[[Path], None], mark: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "vocab.pkl", "extra.npz", "merges.pickle"):
        plant(model / name)
    assert load_model(model).model.num_parameters() > 0
    assert not mark.exists()


@pytest.mark.parametrize(
    "elsewhere", ["../outside.safetensors", "/outside.safetensors", "shard.bin", "a/b.safetensors"]
)
def test_an_index_that_leads_elsewhere(model: Path, plant: Callable[[Path], None], mark: Path, elsewhere: str) -> None:
    shutil.copy(model / "model.safetensors", model.parent / "outside.safetensors")
    plant(model / "shard.bin")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors", "x": elsewhere}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json names '.*', which is no safetensors file in its folder"):
        load_model(model)
    assert not mark.exists()


def test_an_index_of_shards_in_the_folder(model: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    (model / "model.safetensors").unlink()
    loaded.save_pretrained(model, max_shard_size="20KB")
    assert (model / "model.safetensors.index.json").is_file()
    check_weights(model)
    assert load_model(model).model.num_parameters() == loaded.num_parameters()


@given(st.one_of(st.binary(max_size=40), st.sampled_from([b"[]", b'{"weight_map": 1}', b'{"weight_map": {"a": 1}}'])))
def test_a_damaged_index(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "indexed"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").touch()
    (folder / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ModelError, match="is no index of weights"):
        check_weights(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, struct.pack("<Q", 2**60) + b"{}", b"PK\x03\x04junk"])
def test_damaged_safetensors(model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="could not be loaded"):
        load_model(model)


def test_an_adapter_whose_weights_are_a_pickle(
    model: Path, tmp_path: Path, plant: Callable[[Path], None], mark: Path
) -> None:
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    plant(tmp_path / "adapter" / "adapter_model.bin")
    assert load_model(model, adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    for load in (lambda: load_model(model, adapter=tmp_path / "adapter"), lambda: adapter_folder(tmp_path / "adapter")):
        with pytest.raises(ModelError, match=r"no adapter_model\.safetensors, and adapter_model\.bin is not read"):
            load()
    assert not mark.exists()


CODE = "from pathlib import Path\nPath({!r}).mkdir()\n"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_run(model: Path, mark: Path, file: str) -> None:
    (model / "theirs.py").write_text(CODE.format(str(mark)))
    config = json.loads((model / file).read_text())
    own = {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M", "AutoTokenizer": ["theirs.T", "theirs.T"]}
    config |= {"auto_map": own, "model_type": "theirs", "tokenizer_class": "TheirTokenizer"}
    (model / file).write_text(json.dumps(config))
    loaders: dict[str, list[Callable[[Path], Any]]] = {
        "config.json": [load_model, load_scorer, read_config], "tokenizer_config.json": [load_model, load_tokenizer]
    }  # fmt: skip
    for load in loaders[file]:
        with pytest.raises(ModelError, match="trust_remote_code"):
            load(model)
    assert not mark.exists()


@pytest.mark.parametrize("signed", [False, True])
def test_a_checkpoint_with_a_bomb(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, plant: Callable[[Path], None], mark: Path, signed: bool
) -> None:
    recipe = tiny_recipe(jsft={"training": {"max_steps": 2, "save_steps": 1}})
    run = run_jsft(recipe, tmp_path / "run")
    shutil.rmtree(run.model)
    info = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(info | {"status": "running"}))
    shutil.rmtree(run.checkpoints / "checkpoint-2")  # after which nothing is left to train
    for checkpoint in run.checkpoints.glob("checkpoint-*"):
        names = [file.name for file in checkpoint.iterdir() if file.suffix in (".pt", ".pth", ".bin")]
        assert set(names) == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
        for name in names:
            plant(checkpoint / name)
        if signed:  # by one who knows of the checksums
            manifest = json.loads((checkpoint / MANIFEST).read_text())
            for name in names:
                content = (checkpoint / name).read_bytes()
                manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    if signed:
        with pytest.raises(Exception, match=r"[Ww]eights.only"):
            run_jsft(recipe, tmp_path / "run", resume=True)
    else:  # it is damaged, so the run begins anew
        assert run_jsft(recipe, tmp_path / "run", resume=True).info["status"] == "finished"
    assert not mark.exists()


@pytest.mark.parametrize("name", ["d.pkl", "d.pt", "d.npz", "d.jsonl", "d.jsonl.gz", "d.json", "d.parquet"])
def test_data_that_is_a_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path], None], mark: Path, name: str
) -> None:
    plant(tmp_path / name)
    with pytest.raises(DataError):
        load_preferences(tmp_path / name)
    folder = tmp_path / "pandas"  # also the name of one of the library's readers
    folder.mkdir()
    shutil.move(tmp_path / name, folder / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        load_preferences("pandas")
    assert not mark.exists()


def test_only_templates_are_copied_beside_a_model(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "deeper"
    own.mkdir(parents=True)
    shutil.copy(load_templates("general").folder / "overall.txt", own.parent)
    (own.parent / "secret.key").write_text("k")
    (own / "secret.txt").write_text("k")
    loaded = load_model(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(own)
        save_model(loaded.model, loaded.chat.tokenizer, tmp_path / "saved", load_templates(".."))
    kept = [str(f.relative_to(tmp_path / "saved")) for f in (tmp_path / "saved/judgment_templates").rglob("*.*")]
    assert kept == ["judgment_templates/own/overall.txt"]
