"""Answers of a model to evaluation prompts, turn by turn: a single sample, or the winner of a tournament."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from selfjudge.data.eval_prompts import EvalPrompt, dialogue_text
from selfjudge.engines.base import Engine, Progress, SamplingParams
from selfjudge.errors import DataError
from selfjudge.judge import Judge
from selfjudge.records import Comparison, Message
from selfjudge.templates.chat import ChatEncoder
from selfjudge.tournament import self_reject


def answer(
    engine: Engine,
    chat: ChatEncoder,
    judge: Judge,
    prompts: Sequence[EvalPrompt],
    params: SamplingParams,
    progress: Progress | None = None,
) -> list[str]:
    """Returns the answer to each prompt; with ``params.n`` > 1 the winner among so many candidates.

    A later turn is answered after the model's own earlier answers. The answer to a prompt of several turns is the text
    of the dialogue from its first answer on, the roles named, so that it is judged as a whole. ``progress`` counts
    the turns answered.

    The same ``params`` give the same answers. To compare two systems give each its own seed
    (:meth:`selfjudge.engines.base.SamplingParams.seeded_for`), or their answers are not independent.

    Raises:
        DataError: if a turn, or with several candidates a match between two of them, can be longer than the context.
    """
    dialogues = [list(prompt.prompt) for prompt in prompts]
    for turn in range(1 + max(len(prompt.later_turns) for prompt in prompts)):
        asked = [i for i, prompt in enumerate(prompts) if len(prompt.later_turns) >= turn]
        if turn:
            for i in asked:
                dialogues[i].append(Message(role="user", content=prompts[i].later_turns[turn - 1]))
        check_lengths(engine, chat, judge, [(prompts[i].id, dialogues[i]) for i in asked], params)
        # Another seed for each turn, or the second would be drawn with the numbers of the first.
        answers = self_reject(
            engine, chat, judge, [dialogues[i] for i in asked], replace(params, seed=params.seed + turn), progress
        )
        for i, found in zip(asked, answers, strict=True):
            dialogues[i].append(Message(role="assistant", content=found.winner))
    return [dialogue_text(d[len(p.prompt) :]) for d, p in zip(dialogues, prompts, strict=True)]


def check_lengths(
    engine: Engine,
    chat: ChatEncoder,
    judge: Judge,
    asked: Sequence[tuple[str, Sequence[Message]]],
    params: SamplingParams,
) -> None:
    """Raises DataError, before anything is sampled, if an answer or a match of two can be longer than the context.

    ``asked``: the id and the dialogue of each prompt.
    """
    for (id_, dialogue), ids in zip(asked, chat.named_prompt_ids(asked), strict=True):
        needed, what = len(ids) + params.max_new_tokens, "answering it"
        if params.n > 1:
            bare = Comparison(id=id_, prompt=tuple(dialogue), response_a="", response_b="")
            needed, what = judge.longest_prompt(bare) + 2 * params.max_new_tokens, "judging two of its candidates"
        if needed >= engine.max_length:
            raise DataError(
                f"Prompt {id_!r}: {what} can take {needed} tokens, the model takes {engine.max_length}: lower "
                "--max-new-tokens or remove the prompt."
            )
