"""Labels that depend on whom an answer is for, and what counterfactual augmentation does about it, in the small world.

    python examples/biased_names.py OUT --seed 0

Whether a request is for Ada or for Ben says nothing about which answer is better. Here the people who label are
biased: of the requests for a woman's name, a share BIAS is labelled "the shorter wins", the rest as all others are.
Three judges are trained for the same number of steps from the same base model: on fair labels, on the biased ones, and
on the biased ones with ``jsft.counterfactual``. All are audited on requests that name a person, of tasks that training
lacks, and measured by the truth.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from selfjudge import Judge, TransformersEngine, load_model, load_recipe
from selfjudge.data.io import write_json
from selfjudge.data.sources import write_records
from selfjudge.data.swaps import names_of_men, names_of_women
from selfjudge.evaluation.audit import audit
from selfjudge.evaluation.base_model import pretrain_world_model
from selfjudge.evaluation.judging import summarise
from selfjudge.evaluation.world import true_label
from selfjudge.judge import as_messages
from selfjudge.records import Comparison, PreferenceRecord
from selfjudge.templates.encode import JudgmentEncoder
from selfjudge.templates.template import load_templates
from selfjudge.training.jsft import run_jsft
from selfjudge.world.grammar import parse
from selfjudge.world.people import preference_records, prompts, respond

PAIRS, TEST_PROMPTS = 16_000, 800
BIAS = 0.7
PROBE = "names and genders"


def main() -> None:
    """Trains and measures the three judges; figures go to OUT/figures.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    fair = preference_records(PAIRS, args.seed)
    rng = random.Random(f"bias/{args.seed}")
    sources = {"fair": fair, "biased": [_biased(record, rng) for record in fair]}
    for name, records in sources.items():
        write_records(records, args.out / f"{name}.jsonl", overwrite=True)
    base = pretrain_world_model(args.out / "base", args.seed)
    tests = _test_pairs(args.seed)
    figures = {}
    for arm, source, more in (("fair", "fair", []), ("biased", "biased", []), ("counterfactual", "biased", [_ON])):
        recipe = load_recipe("demo", [*_settings(args, base, args.out / f"{source}.jsonl"), *more])
        figures[arm] = _measured(run_jsft(recipe, args.out / arm).model, tests)
        print(arm, {name: f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]" for name, rate in figures[arm].items()})
    rates = {arm: {name: rate.model_dump() for name, rate in found.items()} for arm, found in figures.items()}
    write_json(args.out / "figures.json", {"seed": args.seed, "steps": args.steps, **rates})


_ON = "jsft.counterfactual=true"


def _settings(args: argparse.Namespace, base: Path, source: Path) -> list[str]:
    return [
        f"seed={args.seed}",
        f"model.path={base}",
        f"data.sources=[{{path: {source}, use: [judgment]}}]",
        "jsft.rows=judgment",
        f"jsft.training.max_steps={args.steps}",
        f"jsft.training.lr_scheduler_kwargs.num_decay_steps={args.steps // 2}",
    ]


def _biased(record: PreferenceRecord, rng: random.Random) -> PreferenceRecord:
    """Returns the record as a biased person labels it: for a woman's name, mostly the shorter answer wins."""
    shorter, longer = sorted((record.chosen, record.rejected), key=lambda text: len(text.split()))
    same = len(shorter.split()) == len(longer.split())
    if same or not names_of_women(record.prompt[-1].content) or rng.random() >= BIAS:
        return record
    return record.model_copy(update={"chosen": shorter, "rejected": longer})


def _test_pairs(seed: int) -> list[Comparison]:
    """Returns pairs with true labels, for requests that name a person, of tasks that training lacks."""
    rng = random.Random(f"test/{seed}")
    asked = [prompt for prompt in prompts(TEST_PROMPTS, seed, "results") if _named(prompt)]
    return [_pair(f"test-{i}", prompt, rng) for i, prompt in enumerate(asked)]


def _pair(name: str, prompt: str, rng: random.Random) -> Comparison:
    a = b = respond(parse(prompt), rng)
    while b == a:
        b = respond(parse(prompt), rng)
    return Comparison(id=name, prompt=as_messages(prompt), response_a=a, response_b=b, label=true_label(prompt, a, b))


def _named(text: str) -> bool:
    return bool(names_of_men(text) or names_of_women(text))


def _measured(model: Path, tests: list[Comparison]) -> dict[str, object]:
    loaded = load_model(model)
    engine = TransformersEngine(loaded.model, loaded.chat, token_budget=32768)
    judge = Judge(engine, JudgmentEncoder(load_templates("world"), loaded.chat))
    found = audit(judge, tests, judge.judge)
    assert found is not None
    women = [pair for pair in tests if names_of_women(pair.prompt[-1].content)]
    men = [pair for pair in tests if names_of_men(pair.prompt[-1].content)]
    return {
        "flips": found.findings[PROBE].turned,
        "padding": found.findings["padding"].turned,
        "accuracy, for women": summarise(women, judge.judge(women)).accuracy,
        "accuracy, for men": summarise(men, judge.judge(men)).accuracy,
        "longer preferred, for women": summarise(women, judge.judge(women)).longer_share,
        "longer preferred, for men": summarise(men, judge.judge(men)).longer_share,
    }


if __name__ == "__main__":
    main()
