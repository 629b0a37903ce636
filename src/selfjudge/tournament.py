"""Self-rejection: sample N responses, play a single-elimination bracket with the model as its own judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selfjudge.core.bracket import BracketState, tie_winner
from selfjudge.engines.base import Engine, Progress, SamplingParams
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Bracket, Comparison, Match, Message, Verdict
from selfjudge.templates.chat import ChatEncoder


@dataclass(frozen=True)
class Answer:
    """The outcome of one prompt's tournament."""

    prompt: tuple[Message, ...]
    candidates: tuple[str, ...]
    bracket: Bracket

    @property
    def winner(self) -> str:
        """The text that won."""
        return self.candidates[self.bracket.winner]


def play(
    judge: Judge,
    prompts: Sequence[tuple[Message, ...]],
    candidates: Sequence[Sequence[str]],
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Bracket]:
    """Plays one bracket per prompt; prompts advance round by round together, so that batches stay full.

    A tied match is decided by a seeded coin, and its verdict says that it was a tie. The candidates are not changed.

    Args:
        judge: the judge.
        prompts: the prompts.
        candidates: at least one response for each prompt.
        seed: draws the brackets; prompt i uses ``seed + i``.
        progress: called with the number of judgment prompts just finished; there are
            2 x principles x (candidates - 1) for each prompt.

    Raises:
        ValueError: if a prompt has no candidates, or the two lists differ in length.
    """
    if len(prompts) != len(candidates):
        raise ValueError(f"{len(prompts)} prompts but {len(candidates)} lists of candidates")
    if not all(candidates):
        raise ValueError("a tournament needs at least one candidate for each prompt")
    brackets: list[Bracket] = []
    with judge.engine.reusing_prefixes() as tokens:
        for group in _groups(judge, prompts, candidates, tokens):
            brackets += _play(
                judge, [prompts[i] for i in group], [candidates[i] for i in group], seed + group.start, progress
            )
    return brackets


def _groups(
    judge: Judge, prompts: Sequence[tuple[Message, ...]], candidates: Sequence[Sequence[str]], tokens: int | None
) -> Iterator[range]:
    """Yields prompts that are played together: as many as the engine remembers the first round of.

    A prompt's first round has about as many judgments as candidates, each as long as that of its first two.
    """
    start, total = 0, 0
    for i, texts in enumerate(candidates):
        if tokens is not None and len(texts) > 1:
            pair = Comparison(id=str(i), prompt=prompts[i], response_a=texts[0], response_b=texts[1])
            size = len(texts) * judge.longest_prompt(pair)
            if total + size > tokens and i > start:
                yield range(start, i)
                start, total = i, 0
            total += size
    if candidates:
        yield range(start, len(candidates))


def _play(
    judge: Judge,
    prompts: Sequence[tuple[Message, ...]],
    candidates: Sequence[Sequence[str]],
    seed: int,
    progress: Progress | None,
) -> list[Bracket]:
    states = [BracketState(len(texts), seed + i) for i, texts in enumerate(candidates)]
    matches: list[list[Match]] = [[] for _ in prompts]
    while running := [i for i, state in enumerate(states) if not state.finished]:
        pairs = [(i, a, b) for i in running for a, b in states[i].pairings()]
        verdicts = judge.judge(
            [
                Comparison(
                    id=f"{i}:{a}-{b}", prompt=prompts[i], response_a=candidates[i][a], response_b=candidates[i][b]
                )
                for i, a, b in pairs
            ],
            progress,
        )
        for (i, a, b), verdict in zip(pairs, verdicts, strict=True):
            state = states[i]
            winner = _winner(verdict, a, b, state)
            matches[i].append(Match(round=state.round, a=a, b=b, winner=winner, verdict=verdict))
        for i in running:
            states[i].advance([m.winner for m in matches[i] if m.round == states[i].round])
    return [
        Bracket(seed=s.seed, order=s.order, matches=tuple(m), byes=tuple(s.byes), winner=s.alive[0])
        for s, m in zip(states, matches, strict=True)
    ]


def self_reject(
    engine: Engine,
    chat: ChatEncoder,
    judge: Judge,
    prompts: Sequence[str | Sequence[Message]],
    params: SamplingParams,
    progress: Progress | None = None,
) -> list[Answer]:
    """Samples ``params.n`` responses to each prompt and returns the tournament's answers.

    ``engine`` is the policy that is sampled from; ``judge`` may stand on the same engine or on its base weights.
    """
    dialogues = [as_messages(p) for p in prompts]
    samples = engine.sample([chat.prompt_ids(d) for d in dialogues], params, progress)
    candidates = [tuple(completion.text for completion in completions) for completions in samples]
    brackets = play(judge, dialogues, candidates, params.seed)
    return [Answer(*row) for row in zip(dialogues, candidates, brackets, strict=True)]


def _winner(verdict: Verdict, a: int, b: int, state: BracketState) -> int:
    if verdict.preferred == "tie":
        return tie_winner(a, b, state.seed, state.round)
    return a if verdict.preferred == "A" else b
