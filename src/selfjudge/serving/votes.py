"""Pairs that people were shown and how they voted, in a database."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from selfjudge.core.statistics import Rate, proportion
from selfjudge.core.verdict import agreement_score
from selfjudge.errors import RunError
from selfjudge.records import Preferred

_PAIRS = sa.Table(
    "pairs",
    sa.MetaData(),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("response_a", sa.Text, nullable=False),
    sa.Column("response_b", sa.Text, nullable=False),
    sa.Column("model_a", sa.Text, nullable=False),
    sa.Column("model_b", sa.Text, nullable=False),
    sa.Column("preferred", sa.String(3), nullable=False),
    sa.Column("strength", sa.Float, nullable=False),
    sa.Column("vote", sa.String(3)),
    sa.Column("voted", sa.Float),
)


@dataclass(frozen=True)
class ShownPair:
    """Two responses of two models as they are shown; ``preferred`` and ``strength`` are the judge's."""

    id: str
    prompt: str
    response_a: str
    response_b: str
    model_a: str
    model_b: str
    preferred: Preferred
    strength: float


@dataclass(frozen=True)
class Tally:
    """What came of all votes; ``agreement`` is the judge's with those that are no ties, None before the first."""

    wins: dict[str, int]
    ties: int
    agreement: Rate | None


class VoteStore:
    """The table ``pairs`` of a database; its calls block and may come from any thread."""

    def __init__(self, database: str) -> None:
        """Opens a database, a URL as SQLAlchemy takes it or a file of SQLite, and makes the table if it is not there.

        Raises:
            RunError: if it cannot be opened.
        """
        try:
            url = sa.make_url(database if "://" in database else f"sqlite:///{database}")
            shown = url.render_as_string(hide_password=True)
        except SQLAlchemyError:
            raise RunError("The database of votes is neither a file nor a URL such as sqlite:///votes.db.") from None
        try:
            self._engine = sa.create_engine(url)
            _PAIRS.metadata.create_all(self._engine)
        except (SQLAlchemyError, ImportError) as e:
            reason = str(e).splitlines()[0]
            raise RunError(f"The database {shown} cannot be opened ({reason}): check its URL or path.") from None

    def add(self, pair: ShownPair) -> None:
        """Keeps a pair that is about to be shown."""
        with self._engine.begin() as connection:
            connection.execute(_PAIRS.insert().values(**asdict(pair)))

    def vote(self, pair: str, vote: Preferred) -> ShownPair | None:
        """Writes down the vote on a pair and returns it; None if there is no such pair without a vote."""
        # One statement, so that of two votes at the same time only one is taken.
        taken = _PAIRS.update().where(_PAIRS.c.id == pair, _PAIRS.c.vote.is_(None)).values(vote=vote, voted=time.time())
        with self._engine.begin() as connection:
            if not connection.execute(taken).rowcount:
                return None
            row = connection.execute(_PAIRS.select().where(_PAIRS.c.id == pair)).one()._mapping
        return ShownPair(**{name: row[name] for name in ShownPair.__dataclass_fields__})

    def tally(self, models: tuple[str, ...]) -> Tally:
        """Returns what came of the votes on pairs of these models."""
        columns = (_PAIRS.c.model_a, _PAIRS.c.model_b, _PAIRS.c.vote, _PAIRS.c.preferred)
        query = sa.select(*columns, sa.func.count()).where(
            _PAIRS.c.vote.is_not(None), _PAIRS.c.model_a.in_(models), _PAIRS.c.model_b.in_(models)
        )
        wins = dict.fromkeys(models, 0)
        ties, decided, agreed = 0, 0, 0.0
        with self._engine.connect() as connection:
            for model_a, model_b, vote, preferred, n in connection.execute(query.group_by(*columns)):
                if vote == "tie":
                    ties += n
                    continue
                wins[model_a if vote == "A" else model_b] += n
                decided += n
                agreed += n * agreement_score(preferred, vote)
        return Tally(wins, ties, proportion(agreed, decided) if decided else None)

    def preferences(self) -> Iterator[dict[str, Any]]:
        """Yields every vote that is no tie as a preference of whole messages, in the order of the votes."""
        query = _PAIRS.select().where(_PAIRS.c.vote.in_(("A", "B"))).order_by(_PAIRS.c.voted, _PAIRS.c.id)
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                sides = (row.response_a, row.response_b) if row.vote == "A" else (row.response_b, row.response_a)
                chosen, rejected = ([{"role": "assistant", "content": text}] for text in sides)
                prompt = [{"role": "user", "content": row.prompt}]
                yield {"id": row.id, "prompt": prompt, "chosen": chosen, "rejected": rejected}
