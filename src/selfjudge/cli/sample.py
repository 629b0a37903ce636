"""`selfjudge sample`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from selfjudge.cli.common import (
    ModelOption,
    OverwriteOption,
    ThinkingOption,
    check_outputs,
    print_table,
    progress_bar,
)
from selfjudge.cli.engines import EngineOptions, OpenedEngine, with_engine_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfjudge.data.prompts import PromptRow
    from selfjudge.engines.base import SamplingParams
    from selfjudge.judge import Judge
    from selfjudge.records import Bracket, Completion


@with_engine_options
def sample(
    *,
    model: ModelOption,
    input: Annotated[Path, typer.Option(help="Prompts: prompt (text or messages), optional candidates and id.")],
    output: Annotated[Path, typer.Option(help="Answers, one JSON line per prompt.")],
    n: Annotated[int, typer.Option(min=1, help="Candidates per prompt.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the samples and of the bracket's draw.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.001, max=1.0)] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a candidate at most.")] = 768,
    thinking: ThinkingOption = "off",
    overwrite: OverwriteOption = False,
    options: EngineOptions,
) -> None:
    """Answer prompts by a tournament among the model's own candidates (self-rejection).

    Draws N candidates per prompt, or takes those in the input, and plays a seeded single-elimination bracket with the
    model as judge. With --adapter the adapted model is sampled and the model without it judges. Writes per prompt:
    id, winner, winner_index, candidates and matches; where candidates thought, also their thoughts.
    """
    from selfjudge.data.io import write_jsonl
    from selfjudge.data.prompts import load_prompts

    check_outputs(output, overwrite=overwrite)
    rows = load_prompts(input).prompts
    opened = replace(options, thinking=thinking).open(model)

    from selfjudge.engines.base import SamplingParams
    from selfjudge.tournament import play

    judge = opened.judge(opened.base)
    params = SamplingParams(n=n, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    _check_lengths(judge, rows, max_new_tokens)
    candidates = _candidates(opened, rows, params)
    answers = [[candidate.answer for candidate in drawn] for drawn in candidates]
    matches_to_play = sum(max(len(texts) - texts.count(None) - 1, 0) for texts in answers)
    with progress_bar("Judging", 2 * len(judge.encoder.principles) * matches_to_play) as advance:
        brackets = play(judge, [row.prompt for row in rows], answers, seed, advance)
    write_jsonl(output, (_answer(*row) for row in zip(rows, candidates, brackets, strict=True)), overwrite)
    matches = [match for bracket in brackets for match in bracket.matches]
    summary: list[tuple[str, object]] = [("Prompts", len(rows)), ("Matches", len(matches))]
    if unanswered := sum(texts.count(None) for texts in answers):
        summary.append(("Candidates cut off before an answer", f"{unanswered}: raise --max-new-tokens"))
    if matches:
        summary.append(("Both orders agree", f"{sum(m.verdict.agree for m in matches) / len(matches):.1%}"))
        summary.append(("Ties", sum(m.verdict.preferred == "tie" for m in matches)))
    print_table([*summary, ("Answers", output)])


def _check_lengths(judge: Judge, rows: Sequence[PromptRow], max_new_tokens: int) -> None:
    """Raises DataError, before anything is sampled, if some match would not fit the model's context."""
    from selfjudge.errors import DataError
    from selfjudge.records import Comparison

    for row in rows:
        *_, a, b = sorted(("", "", *(row.candidates or ())), key=len)
        match = judge.longest_prompt(Comparison(id=row.id, prompt=row.prompt, response_a=a, response_b=b))
        needed = match if row.candidates else match + 2 * max_new_tokens
        if needed >= judge.engine.max_length:
            hint = "shorten its candidates" if row.candidates else "lower --max-new-tokens or shorten the prompt"
            raise DataError(
                f"Prompt {row.id!r}: judging two of its candidates can take {needed} tokens, the model takes "
                f"{judge.engine.max_length}: {hint}."
            )


def _candidates(opened: OpenedEngine, rows: Sequence[PromptRow], params: SamplingParams) -> list[list[Completion]]:
    """Returns each prompt's own candidates, or ``params.n`` samples where it brought none."""
    from selfjudge.records import Completion

    bare = [row for row in rows if row.candidates is None]
    with progress_bar("Sampling", len(bare)) as advance:
        prompts = opened.chat.named_prompt_ids((row.id, row.prompt) for row in bare)
        samples = iter(opened.engine.sample(prompts, params, advance))
    brought = ([Completion(ids=(), text=t, finish_reason="stop") for t in row.candidates or ()] for row in rows)
    return [given or next(samples) for given in brought]


def _answer(row: PromptRow, candidates: Sequence[Completion], bracket: Bracket) -> dict[str, Any]:
    thoughts = [candidate.reasoning_content for candidate in candidates]
    told = {"reasoning_content": thoughts[bracket.winner], "candidates_reasoning_content": thoughts}
    return {
        "id": row.id,
        "prompt": [message.model_dump() for message in row.prompt],
        "winner": candidates[bracket.winner].text,
        "winner_index": bracket.winner,
        "candidates": [candidate.text for candidate in candidates],
        **(told if any(thought is not None for thought in thoughts) else {}),
        "matches": [match.model_dump() for match in bracket.matches],
    }
