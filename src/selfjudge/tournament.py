"""Self-rejection: sample N responses, play a single-elimination bracket with the model as its own judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from selfjudge.core.bracket import BracketState, placing, tie_winner
from selfjudge.engines.base import Engine, Progress, SamplingParams
from selfjudge.judge import Judge, as_messages
from selfjudge.records import Bracket, Comparison, Match, Message, Verdict
from selfjudge.templates.chat import ChatEncoder


@dataclass(frozen=True)
class Answer:
    """The outcome of one prompt's tournament. ``thoughts``: of each candidate, None where it had none."""

    prompt: tuple[Message, ...]
    candidates: tuple[str, ...]
    bracket: Bracket
    thoughts: tuple[str | None, ...]

    @property
    def winner(self) -> str:
        """The text that won."""
        return self.candidates[self.bracket.winner]

    @property
    def placing(self) -> tuple[int, ...]:
        """All candidates, the best first: see :func:`core.bracket.placing`."""
        left_out = set(range(len(self.candidates))).difference(self.bracket.order)
        return placing([self.bracket.winner], self.bracket.matches, left_out)


class RunningBracket:
    """One prompt's tournament, round by round.

    Put :meth:`comparisons` to the judge and hand its verdicts to :meth:`take`, or one by one to :meth:`decide`, until
    :attr:`finished`.
    """

    def __init__(
        self, prompt: tuple[Message, ...], candidates: Sequence[str | None], seed: int, id_prefix: str = ""
    ) -> None:
        """Draws the bracket by ``seed``; ``id_prefix`` begins the ids of its comparisons.

        A candidate that is None has no answer: it takes no part. Where none has one, the first stands for all.
        ``state`` is there to be read.

        Raises:
            ValueError: if there are no candidates.
        """
        self._prompt = prompt
        self._candidates = [text or "" for text in candidates]
        self._id_prefix = id_prefix
        without = [place for place, text in enumerate(candidates) if text is None]
        self.state = BracketState(len(candidates), seed, frozenset(without[len(without) == len(candidates) :]))
        self._matches: list[Match] = []
        self._decided: dict[int, Match] = {}  # of this round, by their place in it

    @property
    def matches(self) -> list[Match]:
        """All matches so far, round by round in the order of their pairings."""
        return [*self._matches, *(self._decided[place] for place in sorted(self._decided))]

    @property
    def finished(self) -> bool:
        """True when one candidate is left."""
        return self.state.finished

    def comparisons(self) -> list[Comparison]:
        """Returns the matches of this round."""
        return [
            Comparison(
                id=f"{self._id_prefix}{a}-{b}",
                prompt=self._prompt,
                response_a=self._candidates[a],
                response_b=self._candidates[b],
            )
            for a, b in self.state.pairings()
        ]

    def take(self, verdicts: Sequence[Verdict]) -> list[Match]:
        """Takes the verdicts on :meth:`comparisons` and returns the matches they make; the next round begins."""
        places = range(len(self.state.pairings()))
        return [self.decide(place, verdict) for place, verdict in zip(places, verdicts, strict=True)]

    def decide(self, place: int, verdict: Verdict) -> Match:
        """Takes the verdict on one of :meth:`comparisons`, in any order, and returns the match it makes.

        The next round begins when all have theirs.
        """
        pairings = self.state.pairings()
        match = self._decided[place] = self._match(*pairings[place], verdict)
        if len(self._decided) == len(pairings):
            self._matches = self.matches
            self._decided = {}
            self.state.advance([m.winner for m in self._matches[-len(pairings) :]])
        return match

    def placing(self) -> tuple[int, ...]:
        """Returns all candidates, the best first, as far as they are known: see :func:`core.bracket.placing`."""
        lost = {m.a + m.b - m.winner for m in self._decided.values()}
        alive = [candidate for candidate in self.state.alive if candidate not in lost]
        return placing(alive, self.matches, self.state.left_out)

    def bracket(self) -> Bracket:
        """Returns the whole tournament.

        Raises:
            ValueError: if it is not finished.
        """
        if not self.finished:
            raise ValueError("the tournament is not finished")
        state = self.state
        return Bracket(
            seed=state.seed,
            order=state.order,
            matches=tuple(self.matches),
            byes=tuple(state.byes),
            winner=state.alive[0],
        )

    def _match(self, a: int, b: int, verdict: Verdict) -> Match:
        round_ = self.state.round
        if verdict.preferred == "tie":
            winner = tie_winner(a, b, self.state.seed, round_)
        else:
            winner = a if verdict.preferred == "A" else b
        return Match(round=round_, a=a, b=b, winner=winner, verdict=verdict)


def play(
    judge: Judge,
    prompts: Sequence[tuple[Message, ...]],
    candidates: Sequence[Sequence[str | None]],
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Bracket]:
    """Plays one bracket per prompt; prompts advance round by round together, so that batches stay full.

    A tied match is decided by a seeded coin, and its verdict says that it was a tie. The candidates are not changed.

    Args:
        judge: the judge.
        prompts: the prompts.
        candidates: at least one response for each prompt. One that is None has no answer, as its thought did not
            end: it takes no part. Where none has one, the first stands for all.
        seed: draws the brackets; prompt i uses ``seed + i``.
        progress: called with the number of judgment prompts just finished; there are
            2 x principles x (candidates with an answer - 1) for each prompt.

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
    judge: Judge,
    prompts: Sequence[tuple[Message, ...]],
    candidates: Sequence[Sequence[str | None]],
    tokens: int | None,
) -> Iterator[range]:
    """Yields prompts that are played together: as many as the engine remembers the first round of.

    A prompt's first round has about as many judgments as candidates, each as long as that of its first two.
    """
    start, total = 0, 0
    if tokens is not None:
        answers = [[text for text in texts if text is not None] for texts in candidates]
        contested = [(i, texts[0], texts[1]) for i, texts in enumerate(answers) if len(texts) > 1]
        pairs = [Comparison(id=str(i), prompt=prompts[i], response_a=a, response_b=b) for i, a, b in contested]
        for (i, _, _), length in zip(contested, judge.longest_prompts(pairs), strict=True):
            size = len(answers[i]) * length
            if total + size > tokens and i > start:
                yield range(start, i)
                start, total = i, 0
            total += size
    if candidates:
        yield range(start, len(candidates))


def _play(
    judge: Judge,
    prompts: Sequence[tuple[Message, ...]],
    candidates: Sequence[Sequence[str | None]],
    seed: int,
    progress: Progress | None,
) -> list[Bracket]:
    running = [
        RunningBracket(prompt, texts, seed + i, f"{i}:")
        for i, (prompt, texts) in enumerate(zip(prompts, candidates, strict=True))
    ]
    while todo := [bracket for bracket in running if not bracket.finished]:
        rounds = [bracket.comparisons() for bracket in todo]
        verdicts = iter(judge.judge([c for comparisons in rounds for c in comparisons], progress))
        for bracket, comparisons in zip(todo, rounds, strict=True):
            bracket.take(list(islice(verdicts, len(comparisons))))
    return [bracket.bracket() for bracket in running]


def self_reject(
    engine: Engine,
    chat: ChatEncoder,
    judge: Judge,
    prompts: Sequence[str | Sequence[Message]],
    params: SamplingParams,
    progress: Progress | None = None,
) -> list[Answer]:
    """Samples ``params.n`` responses to each prompt and returns the tournament's answers.

    ``engine`` is the policy that is sampled from; ``judge`` may stand on the same engine or on its base weights. Where
    the policy thinks, what follows the thought is judged.
    """
    dialogues = [as_messages(p) for p in prompts]
    asked = chat.named_prompt_ids((str(i), dialogue) for i, dialogue in enumerate(dialogues))
    samples = engine.sample(asked, params, progress)
    brackets = play(judge, dialogues, [[c.answer for c in completions] for completions in samples], params.seed)
    texts = [tuple(c.text for c in completions) for completions in samples]
    thoughts = [tuple(c.reasoning_content for c in completions) for completions in samples]
    return [Answer(*row) for row in zip(dialogues, texts, brackets, thoughts, strict=True)]
