"""What Prometheus is told: of all apps in the process together."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from selfjudge.core.verdict import first_shown_scores
from selfjudge.records import Verdict

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Counter("selfjudge_requests", "Requests answered", ("path", "status"))
SECONDS = Histogram("selfjudge_request_seconds", "Time to answer a request, streams to their end", ("path",),
                    buckets=_SECONDS)  # fmt: skip
ACCEPTED = Gauge("selfjudge_accepted_requests", "Requests accepted and not answered yet, waiting ones included")
TOKENS = Counter("selfjudge_tokens", "Tokens spent on answered requests", ("kind",))
CANDIDATES = Counter("selfjudge_candidates", "Candidates drawn")
MATCHES = Counter("selfjudge_matches", "Matches judged")
JUDGMENTS = Counter("selfjudge_judgments", "Judgments made: one order of a pair under one principle")
FIRST_SHOWN = Counter("selfjudge_judgments_first_shown", "Judgments won by the response shown first, a tie one half")
JUDGE_FAILURES = Counter("selfjudge_judge_failures", "Tournaments broken off because judging failed")
CALLS = Histogram("selfjudge_engine_call_requests", "Requests that shared a call of the engine in process", ("kind",),
                  buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256))  # fmt: skip
FAILOVERS = Counter("selfjudge_backend_failures", "Calls that a backend failed", ("backend",))


def count_judgments(verdicts: Iterable[Verdict]) -> None:
    """Counts the judgments of verdicts that have just been made, and those won by the response shown first."""
    scores = [score for verdict in verdicts for score in first_shown_scores(verdict)]
    JUDGMENTS.inc(len(scores))
    FIRST_SHOWN.inc(sum(scores))
