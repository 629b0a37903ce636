"""What single parts take on a GPU, with and without what this package does about them: python gpu_parts.py SHAPE.

Prints one line of JSON each: attention's first call with a new shape and the calls after it, with cuDNN's kernels and
without; milliseconds of a sampled token with the norms and the LoRA of transformers and PEFT, and with ours; and where
the host's time goes in an on-policy step, by function.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention

from selfjudge.benchmarks.inputs import prompt_ids, random_model
from selfjudge.benchmarks.measure import synchronise
from selfjudge.benchmarks.sampling import endless
from selfjudge.benchmarks.task import Settings
from selfjudge.benchmarks.tasks import make_task
from selfjudge.cli.common import quiet
from selfjudge.engines.base import SamplingParams
from selfjudge.engines.fast_kernels import FastKernels
from selfjudge.engines.hf import TransformersEngine
from selfjudge.engines.load import LoadedModel
from selfjudge.engines.static_lora import StaticLora


def main() -> None:
    """Measures one part after another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--functions", type=int, default=40, help="of the host's profile")
    args = parser.parse_args()
    quiet()
    attention(args.device)
    loaded = random_model(args.shape, args.device, torch.float32 if args.device == "cpu" else torch.bfloat16)
    tokens(loaded, args.new_tokens)
    host(loaded, args.new_tokens, args.functions)


def attention(device: str) -> None:
    """Prints seconds of attention with four new lengths, each called once and then twenty times."""
    length = 301
    for masked in (False, True):
        for cudnn in (True, False):
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            found = []
            for _ in range(4):
                length += 1
                q = torch.randn(16, 9, length, 64, device=device, dtype=torch.bfloat16)
                mask = torch.ones(16, 1, length, length, device=device, dtype=torch.bool).tril() if masked else None

                def call(q: Any = q, mask: Any = mask) -> None:
                    scaled_dot_product_attention(q, q, q, mask, is_causal=mask is None)

                found.append([_seconds(call), _seconds(lambda call=call: [call() for _ in range(20)]) / 20])
            print(
                json.dumps(
                    {"attention": "cuDNN's too" if cudnn else "not cuDNN's", "masked": masked, "first_then_s": found}
                )
            )
    torch.backends.cuda.enable_cudnn_sdp(True)


def tokens(loaded: LoadedModel, new_tokens: int) -> None:
    """Prints the milliseconds of a sampled token: 8 prompts, two samples each."""
    chat = endless(loaded)
    prompts = prompt_ids(chat, 8)

    def took(name: str, model: Any, top_p: float = 0.9) -> None:
        engine = TransformersEngine(model, chat)

        def sample(n: int) -> float:
            params = SamplingParams(n=2, max_new_tokens=n, top_p=top_p)
            return min(_seconds(lambda: engine.sample(prompts, params)) for _ in range(3))

        ms = (sample(new_tokens) - sample(2)) / (new_tokens - 2) * 1e3
        print(json.dumps({"sampling": name, "ms_a_token": round(ms, 3)}), flush=True)

    took("plain", loaded.model)
    took("plain, top_p 1", loaded.model, top_p=1.0)
    with _unused(FastKernels):
        took("plain, norms of transformers", loaded.model)
    policy = get_peft_model(loaded.model, LoraConfig(r=8, target_modules="all-linear"))
    took("LoRA", policy)
    with _unused(StaticLora):
        took("LoRA of PEFT", policy)
    policy.unload()


def host(loaded: LoadedModel, new_tokens: int, functions: int) -> None:
    """Prints the functions in which the host spends most of an on-policy step, each with what it calls."""
    with TemporaryDirectory() as folder:
        task = make_task("step", loaded, Settings(8, "world", Path(folder), new_tokens=new_tokens))
        task.ours()
        print(json.dumps({"step_s": _seconds(task.ours)}))
        profile = cProfile.Profile()
        profile.runcall(task.ours)
    pstats.Stats(profile).strip_dirs().sort_stats("cumulative").print_stats(functions)


@contextmanager
def _unused(kernels: type[FastKernels] | type[StaticLora]) -> Iterator[None]:
    with patch.object(kernels, "in_use", lambda self: nullcontext()):
        yield


def _seconds(run: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
