"""`selfjudge sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfjudge.cli.common import (
    AdapterOption,
    BatchSizeOption,
    ChatTemplateOption,
    DeviceOption,
    DtypeOption,
    ModelOption,
    OverwriteOption,
    TemplatesOption,
    TokenBudgetOption,
    check_outputs,
    load,
    print_table,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfjudge.data.prompts import PromptRow
    from selfjudge.engines.base import SamplingParams
    from selfjudge.engines.hf import TransformersEngine
    from selfjudge.records import Bracket


def sample(
    model: ModelOption,
    input: Annotated[Path, typer.Option(help="Prompts: prompt (text or messages), optional candidates and id.")],
    output: Annotated[Path, typer.Option(help="Answers, one JSON line per prompt.")],
    n: Annotated[int, typer.Option(min=1, help="Candidates per prompt.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the samples and of the bracket's draw.")] = 0,
    adapter: AdapterOption = None,
    template: TemplatesOption = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.001, max=1.0)] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a candidate at most.")] = 768,
    chat_template: ChatTemplateOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    token_budget: TokenBudgetOption = 8192,
    batch_size: BatchSizeOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Answer prompts by a tournament among the model's own candidates (self-rejection).

    Draws N candidates per prompt, or takes those in the input, and plays a seeded single-elimination bracket with the
    model as judge. With --adapter the adapted model is sampled and the model without it judges. Writes per prompt:
    id, winner, winner_index, candidates and matches.
    """
    from selfjudge.data.io import write_jsonl
    from selfjudge.data.prompts import load_prompts

    check_outputs(output, overwrite=overwrite)
    rows = load_prompts(input).prompts
    loaded = load(model, adapter, dtype, chat_template, device)

    from selfjudge.engines.base import SamplingParams
    from selfjudge.engines.hf import TransformersEngine
    from selfjudge.judge import Judge
    from selfjudge.templates.encode import JudgmentEncoder
    from selfjudge.templates.template import load_templates
    from selfjudge.tournament import play

    batching: dict[str, Any] = {"token_budget": token_budget, "batch_size": batch_size}
    policy = TransformersEngine(loaded.model, loaded.chat, **batching)
    base = TransformersEngine(loaded.model, loaded.chat, adapter=False, **batching)
    judge = Judge(base, JudgmentEncoder(load_templates(template or loaded.templates), loaded.chat))
    params = SamplingParams(n=n, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    candidates = _candidates(policy, rows, params)
    prompts = 2 * len(judge.encoder.principles) * sum(len(c) - 1 for c in candidates)
    with progress_bar("Judging", prompts) as advance:
        brackets = play(judge, [row.prompt for row in rows], candidates, seed, advance)
    write_jsonl(output, (_answer(*row) for row in zip(rows, candidates, brackets, strict=True)), overwrite)
    matches = [match for bracket in brackets for match in bracket.matches]
    summary: list[tuple[str, object]] = [("Prompts", len(rows)), ("Matches", len(matches))]
    if matches:
        summary.append(("Both orders agree", f"{sum(m.verdict.agree for m in matches) / len(matches):.1%}"))
        summary.append(("Ties", sum(m.verdict.preferred == "tie" for m in matches)))
    print_table([*summary, ("Answers", output)])


def _candidates(policy: TransformersEngine, rows: Sequence[PromptRow], params: SamplingParams) -> list[tuple[str, ...]]:
    """Returns each prompt's own candidates, or ``params.n`` samples where it brought none."""
    from selfjudge.errors import DataError

    bare = [row for row in rows if row.candidates is None]
    ids = [policy.chat.prompt_ids(row.prompt) for row in bare]
    for row, prompt in zip(bare, ids, strict=True):
        if len(prompt) + params.max_new_tokens > policy.max_length:
            raise DataError(
                f"Prompt {row.id!r} has {len(prompt)} tokens; with {params.max_new_tokens} new ones it is over the "
                f"model's {policy.max_length}: lower --max-new-tokens or shorten the prompt."
            )
    with progress_bar("Sampling", len(bare)) as advance:
        samples = iter(policy.sample(ids, params, advance))
    return [row.candidates or tuple(completion.text for completion in next(samples)) for row in rows]


def _answer(row: PromptRow, candidates: tuple[str, ...], bracket: Bracket) -> dict[str, Any]:
    return {
        "id": row.id,
        "prompt": [message.model_dump() for message in row.prompt],
        "winner": candidates[bracket.winner],
        "winner_index": bracket.winner,
        "candidates": candidates,
        "matches": [match.model_dump() for match in bracket.matches],
    }
