"""`selfjudge sample`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from selfjudge.cli.common import ColumnsOption, ModelOption, OverwriteOption, ThinkingOption, print_table, progress_bars
from selfjudge.cli.engines import EngineOptions, OpenedEngine, with_engine_options
from selfjudge.cli.resuming import ResumeOption, batches, beginning, digest_of, model_settings, resumable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from selfjudge.data.partial import PartialOutput
    from selfjudge.data.prompts import PromptRow
    from selfjudge.engines.base import Progress, SamplingParams
    from selfjudge.judge import Judge
    from selfjudge.records import Bracket, Completion


@with_engine_options
def sample(
    *,
    model: ModelOption,
    input: Annotated[Path, typer.Option(help="Prompts: prompt (text or messages), optional candidates and id.")],
    columns: ColumnsOption = None,
    output: Annotated[Path, typer.Option(help="Answers, one JSON line per prompt.")],
    n: Annotated[int, typer.Option(min=1, help="Candidates per prompt.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the samples and of the bracket's draw.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.001, max=1.0)] = 0.9,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a candidate at most.")] = 768,
    thinking: ThinkingOption = "off",
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    options: EngineOptions,
) -> None:
    """Answer prompts by a tournament among the model's own candidates (self-rejection).

    Draws N candidates per prompt, or takes those in the input, and plays a seeded single-elimination bracket with the
    model as judge. With --adapter the adapted model is sampled and the model without it judges. Writes per prompt:
    id, winner, winner_index, candidates and matches; where candidates thought, also their thoughts.
    """
    from selfjudge.engines.base import SamplingParams

    began = beginning([output], [input, *options.files(model)], overwrite=overwrite, resume=resume)
    rows = _prompts(input, columns)
    opened = replace(options, thinking=thinking).open(model, began)
    judge = opened.judge(opened.base)
    params = SamplingParams(n=n, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    needed = _check_lengths(judge, rows, max_new_tokens)
    asked = Asked.of(opened, rows)
    settings = {
        "--input": digest_of(rows),
        **model_settings(model, options, opened),
        "--n": n,
        "--seed": seed,
        "--temperature": temperature,
        "--top-p": top_p,
        "--max-new-tokens": max_new_tokens,
        "--thinking": thinking,
        "--template": digest_of(judge.encoder.principles[name].template for name in judge.encoder.principles),
        "--chat-template or tokenizer": digest_of([*asked.ids, needed]),
    }
    with resumable([output], settings, len(rows), overwrite=overwrite, began=began) as out:
        tokens = [length * len(row.candidates or range(n)) for length, row in zip(needed, rows, strict=True)]
        _sample_batches(opened, judge, asked, batches(tokens, opened, out.rows), params, out)
    _print_summary([Tally(*note) for note in out.notes], output)


def _prompts(input: Path, columns: str | None) -> tuple[PromptRow, ...]:
    """Returns the prompts of a file, and says which of its rows gave none."""
    from selfjudge.data.columns import parse_columns
    from selfjudge.data.prompts import load_prompts
    from selfjudge.data.sources import count_reasons

    loaded = load_prompts(input, columns=parse_columns(columns))
    for reason, count in count_reasons(loaded.dropped).items():
        print(f"{input}: {count} rows give no prompt: {reason}", file=sys.stderr)
    return loaded.prompts


class Tally(NamedTuple):
    """Counts of a batch's prompts, candidates without an answer, matches, and those of them that agree or tie."""

    prompts: int
    unanswered: int
    matches: int
    agree: int
    ties: int


@dataclass(frozen=True)
class Asked:
    """Prompts; ``ids``: as token ids, of those that brought no candidates; ``first``: each row's place among these."""

    rows: Sequence[PromptRow]
    ids: list[list[int]]
    first: list[int]

    @classmethod
    def of(cls, opened: OpenedEngine, rows: Sequence[PromptRow]) -> Asked:
        """Makes the ids. Raises DataError where the chat template refuses a prompt."""
        bare = [row.candidates is None for row in rows]
        ids = opened.chat.named_prompt_ids((row.id, row.prompt) for row in rows if row.candidates is None)
        return cls(rows, ids, [0, *accumulate(bare)])


def _sample_batches(
    opened: OpenedEngine, judge: Judge, asked: Asked, todo: list[range], params: SamplingParams, out: PartialOutput
) -> None:
    from selfjudge.data.io import json_line
    from selfjudge.tournament import play

    each = 2 * len(judge.encoder.principles)
    rows = [asked.rows[i] for batch in todo for i in batch]
    matches = sum(len(row.candidates or range(params.n)) - 1 for row in rows)
    totals = {"Sampling": sum(row.candidates is None for row in rows), "Judging": each * matches}
    with progress_bars(totals) as (sampled, judged):
        for batch in todo:
            candidates = _candidates(opened, asked, batch, params, sampled)
            answers = [[candidate.answer for candidate in drawn] for drawn in candidates]
            prompts = asked.rows[batch.start : batch.stop]
            brackets = play(judge, [row.prompt for row in prompts], answers, params.seed + batch.start, judged)
            tally = _tally(answers, brackets)
            judged(each * (sum(len(texts) - 1 for texts in answers) - tally.matches))  # those that had no answer
            found = [_answer(*row) for row in zip(prompts, candidates, brackets, strict=True)]
            out.add([[json_line(row) for row in found]], len(batch), tally)


def _tally(answers: Sequence[Sequence[str | None]], brackets: Sequence[Bracket]) -> Tally:
    verdicts = [match.verdict for bracket in brackets for match in bracket.matches]
    return Tally(
        prompts=len(answers),
        unanswered=sum(texts.count(None) for texts in answers),
        matches=len(verdicts),
        agree=sum(verdict.agree for verdict in verdicts),
        ties=sum(verdict.preferred == "tie" for verdict in verdicts),
    )


def _print_summary(tallies: Sequence[Tally], output: Path) -> None:
    total = Tally(*map(sum, zip(*tallies, strict=True)))
    summary: list[tuple[str, object]] = [("Prompts", total.prompts), ("Matches", total.matches)]
    if total.unanswered:
        summary.append(("Candidates cut off before an answer", f"{total.unanswered}: raise --max-new-tokens"))
    if total.matches:
        summary.append(("Both orders agree", f"{total.agree / total.matches:.1%}"))
        summary.append(("Ties", total.ties))
    print_table([*summary, ("Answers", output)])


def _check_lengths(judge: Judge, rows: Sequence[PromptRow], max_new_tokens: int) -> list[int]:
    """Returns the tokens that a judgment of each prompt's candidates can take.

    Raises:
        DataError: before anything is sampled, if some match would not fit the model's context.
    """
    from selfjudge.errors import DataError
    from selfjudge.records import Comparison

    found: list[int] = []
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
        found.append(needed)
    return found


def _candidates(
    opened: OpenedEngine, asked: Asked, rows: range, params: SamplingParams, advance: Progress
) -> list[list[Completion]]:
    """Returns the own candidates of these prompts, or ``params.n`` samples where a prompt brought none.

    The samples of a prompt depend on its place among all that are sampled from, and not on the batch.
    """
    from selfjudge.records import Completion

    places = range(asked.first[rows.start], asked.first[rows.stop])
    prompts = asked.ids[places.start : places.stop]
    samples = iter(opened.engine.sample(prompts, replace(params, places=tuple(places)), advance) if prompts else ())
    brought = (asked.rows[i].candidates for i in rows)
    given = ([Completion(ids=(), text=t, finish_reason="stop") for t in texts or ()] for texts in brought)
    return [own or next(samples) for own in given]


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
