"""What goes wrong while a model is trained, row by row of docs/interruptions.md, and what the run does then."""

from __future__ import annotations

import errno
import json
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from served_model import ServedModel
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from selfjudge.engines import openai_connection
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import load_model
from selfjudge.engines.save import save_model
from selfjudge.errors import RunError
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.chat import ChatEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training import served_judge
from selfjudge.training.checkpoints import check
from selfjudge.training.jsft import run_jsft
from selfjudge.training.run_folder import RunFolder
from selfjudge.training.self_judge_trainer import SelfJudgeTrainer
from selfjudge.training.self_training import run_self_training

Distance = Callable[[PreTrainedModel, PreTrainedModel], float]
STEPS = {"max_steps": 5, "save_steps": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Callable[..., Recipe]) -> Recipe:
    return tiny_recipe(24, self_training={"lora": {"r": 4, "dropout": 0.1}, "training": STEPS})


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_self_training(recipe, tmp_path_factory.mktemp("whole") / "run")


def weights(run: Path) -> bytes:
    return (run / "final" / "model.safetensors").read_bytes()


class At(TrainerCallback):
    """Calls a function at the end of a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.action()


def stops(recipe: Recipe, folder: Path, said: str, *callbacks: TrainerCallback) -> None:
    """Runs until the fault, which must be said in one sentence."""
    with pytest.raises(RunError, match=said) as caught:
        run_self_training(recipe, folder, callbacks=callbacks)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert not (folder / "final").exists()
    assert json.loads((folder / "run.json").read_text())["status"] == "running"


def goes_on(recipe: Recipe, folder: Path, whole: RunFolder) -> None:
    run_self_training(recipe, folder, resume=True)
    assert weights(folder) == weights(whole.path)


def checkpoints(folder: Path) -> list[str]:
    """The checkpoints, all of which must be whole."""
    found = sorted(p.name for p in (folder / "checkpoints").iterdir() if p.name != "partial")
    assert not any(isinstance(check(folder / "checkpoints" / name), str) for name in found)
    return found


@contextmanager
def small_files(size: int) -> Iterator[Callable[[], None]]:
    """Gives a function after which this process can write no larger file: what a quota does, and like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The adapter takes 24 KB and the optimiser 50 KB, so that each writer of a checkpoint gets its turn to fail.
@pytest.mark.parametrize("size", [1_000, 40_000])
def test_no_room_for_a_checkpoint(tmp_path: Path, recipe: Recipe, whole: RunFolder, size: int) -> None:
    with small_files(size) as limit:
        said = r"cut cannot be written \(.+\): make room for it .*; step 2 is in its checkpoint, and --resume goes on"
        stops(recipe, tmp_path / "cut", said, At(3, limit))
    assert checkpoints(tmp_path / "cut") == ["checkpoint-2"]
    goes_on(recipe, tmp_path / "cut", whole)


def test_no_room_for_the_result(tmp_path: Path, recipe: Recipe, whole: RunFolder) -> None:
    # The model has more bytes than its adapter and the optimiser's state for that.
    with small_files(100_000) as limit:
        limit()
        with pytest.raises(RunError, match=r"final cannot be written \(.+\): make room .* --resume\."):
            run_self_training(recipe, tmp_path / "cut")
    assert checkpoints(tmp_path / "cut") == ["checkpoint-4", "checkpoint-5"]
    goes_on(recipe, tmp_path / "cut", whole)


def test_a_run_that_its_rule_had_ended(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last checkpoint is of the step after which the rule said stop: nothing is left but to write the result."""
    stop = {"window": 2, "max_kl": 1e-6}
    training = {**STEPS, "save_steps": 1, "max_steps": 9}
    recipe = tiny_recipe(24, self_training={"lora": None, "stop": stop, "training": training})
    whole = run_self_training(recipe, tmp_path / "whole")
    assert whole.info["steps"] < 9

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("selfjudge.training.self_training.save_trained", killed)
        with pytest.raises(KeyboardInterrupt):
            run_self_training(recipe, tmp_path / "cut")
    run = run_self_training(recipe, tmp_path / "cut", resume=True)
    assert weights(run.path) == weights(whole.path)
    assert (run.info["steps"], run.info["stopped"]) == (whole.info["steps"], whole.info["stopped"])
    assert "KL to the reference" in run.info["stopped"]


def test_a_folder_that_becomes_read_only(
    tmp_path: Path, recipe: Recipe, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunFolder.append

    def read_only(self: RunFolder, name: str, row: dict[str, Any]) -> None:
        if row["step"] == 4:
            raise OSError(errno.EROFS, "Read-only file system", str(self.path / name))
        append(self, name, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", read_only)
        stops(recipe, tmp_path / "cut", r"cannot be written \(Read-only file system\).*; step 2 is in its checkpoint")
    goes_on(recipe, tmp_path / "cut", whole)


def test_the_loss_is_no_number(
    tmp_path: Path, recipe: Recipe, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = SelfJudgeTrainer.compute_loss

    def broken(self: SelfJudgeTrainer, *args: Any, **kwargs: Any) -> Any:
        return compute(self, *args, **kwargs) * (float("nan") if self.state.global_step == 3 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(SelfJudgeTrainer, "compute_loss", broken)
        stops(recipe, tmp_path / "cut", "loss of step 4 .* not a finite number.*lower learning_rate.*step 3 is in its")
    assert checkpoints(tmp_path / "cut") == ["checkpoint-2", "checkpoint-3"]
    goes_on(recipe, tmp_path / "cut", whole)


def test_a_gradient_is_no_number(
    tmp_path: Path, tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(12, jsft={"training": {**STEPS, "max_grad_norm": 0}})
    step = Trainer.training_step

    def broken(self: Trainer, model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        loss = step(self, model, *args, **kwargs)
        if self.state.global_step == 1:
            next(model.parameters()).grad[0, 0] = float("inf")
        return loss

    monkeypatch.setattr(Trainer, "training_step", broken)
    with pytest.raises(RunError, match=r"step 2 or its gradient is not a finite number.*step 1 is in its checkpoint"):
        run_jsft(recipe, tmp_path / "cut")
    saved = load_model(tmp_path / "cut" / "checkpoints" / "checkpoint-1").model
    assert all(p.isfinite().all() for p in saved.parameters())


def test_memory_runs_out_in_training(
    tmp_path: Path, recipe: Recipe, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = SelfJudgeTrainer.compute_loss

    def full(self: SelfJudgeTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SelfJudgeTrainer, "compute_loss", full)
        stops(recipe, tmp_path / "cut", "Memory ran out: lower per_device_train_batch_size.*; step 3 is in its")
    goes_on(recipe, tmp_path / "cut", whole)


@contextmanager
def memory_for(tokens: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Judging larger batches than this fails as on a full GPU; gives the sizes that were tried."""
    tried: list[int] = []
    judge, forward, judging = TransformersEngine.label_probabilities, LlamaForCausalLM.forward, []

    def label_probabilities(self: TransformersEngine, *args: Any, **kwargs: Any) -> Any:
        judging.append(1)
        try:
            return judge(self, *args, **kwargs)
        finally:
            judging.pop()

    def checked(self: LlamaForCausalLM, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if judging:
            tried.append(input_ids.numel())
            if input_ids.numel() > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, input_ids=input_ids, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "label_probabilities", label_probabilities)
        patch.setattr(LlamaForCausalLM, "forward", checked)
        yield tried


def test_memory_runs_out_in_judging(
    tmp_path: Path, recipe: Recipe, whole: RunFolder, distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory_for(200, monkeypatch) as tried:
        run = run_self_training(recipe, tmp_path / "small")
    assert max(tried) > 200
    assert max(tried[-4:]) <= 200  # the smaller size is kept
    assert distance(*(load_model(r.model).model for r in (run, whole))) < 1e-5


def test_memory_does_not_do_for_one_judgment(
    tmp_path: Path, recipe: Recipe, whole: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory_for(0, monkeypatch):
        stops(recipe, tmp_path / "cut", r"Memory ran out: .*; there was no checkpoint yet, so --resume begins anew\.")
    goes_on(recipe, tmp_path / "cut", whole)


class Server:
    """A served judge that can be stopped, and started again where it was."""

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        self._running, self._port = ExitStack(), 0

    def start(self) -> str:
        self._running.enter_context(self.served.running(self._port))
        self._port = int(urlsplit(self.served.url).port or 0)
        return self.served.url

    def stop(self) -> None:
        self._running.close()

    def move(self) -> str:
        self._port = 0
        return self.start()


@pytest.fixture
def server(
    world_chat: ChatEncoder, world_tokenizer: PreTrainedTokenizerBase, tiny_llama: Callable[..., LlamaForCausalLM]
) -> Iterator[Server]:
    server = Server(ServedModel(tiny_llama(world_tokenizer, seed=7, context=256), world_chat))
    yield server
    server.stop()


@pytest.fixture
def served(tmp_path: Path, tiny_recipe: Callable[..., Recipe], server: Server) -> Recipe:
    # With the small world's templates: the general ones do not fit into so short a context.
    tokenizer = server.served.chat.tokenizer
    save_model(server.served.engine.model, tokenizer, tmp_path / "judge", load_templates("world"))
    judge = {"kind": "external", "url": server.start(), "model": str(tmp_path / "judge")}
    return tiny_recipe(24, self_training={"lora": {"r": 4}, "judge": judge, "training": {**STEPS, "max_steps": 3}})


def test_a_server_that_comes_back_is_waited_for(
    tmp_path: Path, served: Recipe, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run_self_training(served, tmp_path / "whole")
    monkeypatch.setattr(openai_connection, "_FIRST_PAUSE", 0.1)

    def die() -> None:
        server.stop()
        threading.Timer(4.0, server.start).start()

    run_self_training(served, tmp_path / "cut", callbacks=[At(2, die)])
    assert weights(tmp_path / "cut") == weights(whole.path)
    assert caplog.text.count("Waiting for it, 1800 s at most.") == 1


def test_a_server_that_stays_away_ends_the_run(
    tmp_path: Path, served: Recipe, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_self_training(served, tmp_path / "whole")
    monkeypatch.setattr(served_judge, "PATIENCE", 0.5)
    said = "cannot be reached .*: start it, or correct the URL; step 1 is in its checkpoint, and --resume goes on"
    stops(served, tmp_path / "cut", said, At(1, server.stop))
    served.self_training.judge.url = server.move()
    goes_on(served, tmp_path / "cut", whole)
