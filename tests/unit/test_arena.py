"""The arena: blind pairs, one vote each, and preferences that training takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from score_server import AnswerEngine, ScoreEngine, app_on, arena_app_on, judge_on, judgments

from selfjudge.data.load import load_source
from selfjudge.errors import RunError
from selfjudge.recipes.schema import DataSection, SourceSection
from selfjudge.records import Preferred
from selfjudge.serving.app import create_app
from selfjudge.serving.backend import NamedBackend
from selfjudge.serving.in_process import InProcessBackend
from selfjudge.serving.rival import EngineBeside, JudgedBy
from selfjudge.serving.settings import ServeSettings
from selfjudge.serving.votes import ShownPair, VoteStore
from selfjudge.templates.chat import ChatEncoder

ANSWERS = {"weak": "score 3", "strong": "score 8"}
PAIRS, VOTES = "/v1/arena/pairs", "/v1/arena/votes"


@pytest.fixture
def arena(world_chat: ChatEncoder, tmp_path: Path) -> Callable[..., TestClient]:
    def start(answers: dict[str, str] = ANSWERS, **settings: Any) -> TestClient:
        limits = ServeSettings(max_new_tokens=8, **settings)
        return TestClient(arena_app_on(ScoreEngine(world_chat), str(tmp_path / "votes.db"), answers, limits))

    return start


def draw(client: TestClient) -> dict[str, Any]:
    answer = client.post(PAIRS, json={"prompt": "Name a fox."})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def vote(client: TestClient, pair: dict[str, Any], side: str) -> Any:
    return client.post(VOTES, json={"pair": pair["id"], "vote": side})


def test_a_pair_is_blind_until_it_has_a_vote(arena: Callable[..., TestClient]) -> None:
    with arena() as client:
        sides, before = set(), judgments(client)
        for _ in range(20):
            pair = draw(client)
            assert set(pair) == {"id", "prompt", "response_a", "response_b"}
            assert {pair["response_a"], pair["response_b"]} == set(ANSWERS.values())
            told = vote(client, pair, "A").json()
            assert ANSWERS[told["model_a"]] == pair["response_a"]
            assert ANSWERS[told["model_b"]] == pair["response_b"]
            # The judge of these tests prefers the larger score, with 0.9.
            better = "A" if pair["response_a"] == "score 8" else "B"
            assert told["preferred"] == better
            assert told["strength"] == pytest.approx(0.9 if better == "A" else 0.1)
            sides.add(told["model_a"])
        assert sides == set(ANSWERS)  # each is shown on either side
        assert judgments(client) == (before[0] + 40, before[1] + 20)


def test_two_models_are_drawn_from_with_random_numbers_of_their_own(world_chat: ChatEncoder, tmp_path: Path) -> None:
    one, other = AnswerEngine(world_chat, "score 8"), AnswerEngine(world_chat, "score 3")
    backend = InProcessBackend(one, judge_on(one, world_chat), world_chat)
    rival = NamedBackend("other", JudgedBy(EngineBeside(backend, other, world_chat), backend))
    settings = ServeSettings(n=2, max_new_tokens=8)
    app = create_app(backend, "one", settings, rival=rival, votes=VoteStore(str(tmp_path / "votes.db")))
    with TestClient(app) as client:
        draw(client)
        for model in ("one", "other"):  # as the page compares them: one request for each, without a seed
            body = {"model": model, "messages": [{"role": "user", "content": "Name a fox."}]}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
    seeds = [[params.seed for _, params in engine.samples] for engine in (one, other)]
    assert [len(of) for of in seeds] == [2, 2]
    assert len({seed for of in seeds for seed in of}) == 4


def test_a_pair_takes_one_vote(arena: Callable[..., TestClient]) -> None:
    with arena() as client:
        pair = draw(client)
        assert vote(client, pair, "tie").status_code == 200
        again = vote(client, pair, "A")
        assert (again.status_code, again.json()["error"]["param"]) == (404, "pair")
        assert vote(client, {"id": "nothing"}, "A").status_code == 404
        assert vote(client, draw(client), "C").status_code == 400
        state = client.get("/v1/arena").json()
        assert (state["ties"], state["wins"], state["agreement"]) == (1, {"weak": 0, "strong": 0}, None)


def test_votes_count_for_the_model_that_wrote_the_response(arena: Callable[..., TestClient]) -> None:
    with arena() as client:
        for prefers in ("score 8", "score 8", "score 3"):
            pair = draw(client)
            vote(client, pair, "A" if pair["response_a"] == prefers else "B")
        state = client.get("/v1/arena").json()
        assert (state["models"], state["wins"], state["needed"]) == (["weak", "strong"], {"weak": 1, "strong": 2}, None)
        assert (state["agreement"]["rate"], state["agreement"]["n"]) == (pytest.approx(2 / 3), 3)


def test_equal_answers_are_nothing_to_vote_on(arena: Callable[..., TestClient]) -> None:
    with arena({"one": "score 1", "other": "score 1"}) as client:
        answer = client.post(PAIRS, json={"prompt": "Name a fox."})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "identical")
        assert client.get("/v1/arena/votes.jsonl").text == ""


def test_without_two_models_it_says_what_is_needed(world_chat: ChatEncoder) -> None:
    with TestClient(app_on(ScoreEngine(world_chat))) as client:
        state = client.get("/v1/arena").json()
        assert state["models"] == []
        assert all(option in state["needed"] for option in ("--arena", "--adapter", "--rival"))
        pair, file = client.post(PAIRS, json={"prompt": "x"}), client.get("/v1/arena/votes.jsonl")
        for answer in (pair, vote(client, {"id": "x"}, "A"), file):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "arena_closed")


def test_keys_and_limits_hold_for_the_arena(arena: Callable[..., TestClient]) -> None:
    with arena(key_hashes=frozenset({"0" * 64})) as client:
        for path in ("/v1/arena", "/v1/arena/votes.jsonl"):
            assert client.get(path).status_code == 401
        assert client.post(PAIRS, json={"prompt": "x"}).status_code == 401
    with arena() as client:
        assert client.post(PAIRS, json={"prompt": "fox " * 300}).json()["error"]["code"] == "context_length_exceeded"
        assert client.post(PAIRS, json={"prompt": " "}).status_code == 400


def shown(name: str, preferred: Preferred, text: str = "better") -> ShownPair:
    return ShownPair(name, f"Prompt {name}.", text, "other", "m", "n", preferred, 0.5)


def test_the_agreement_is_over_votes_for_a_side_and_counts_half_for_a_tie_of_the_judge(tmp_path: Path) -> None:
    store = VoteStore(f"sqlite:///{tmp_path / 'votes.db'}")
    votes: list[tuple[Preferred, Preferred]] = [("A", "A"), ("B", "B"), ("A", "B"), ("A", "tie"), ("tie", "A")]
    for i, (people, judge) in enumerate(votes):
        store.add(shown(str(i), judge))
        assert store.vote(str(i), people) == shown(str(i), judge)
    store.add(shown("waiting", "A"))
    tally = store.tally(("m", "n"))
    # 1 + 1 + 0 + 1/2 of 4. Wilson, z² = 3.8415: centre (0.625 + 0.4802) / 1.9604,
    # half 1.96 √(0.0586 + 0.0600) / 1.9604.
    assert tally.agreement is not None
    assert (tally.agreement.rate, tally.agreement.n) == (0.625, 4)
    assert (tally.agreement.low, tally.agreement.high) == pytest.approx((0.2194, 0.9081), abs=1e-4)
    assert (tally.wins, tally.ties) == ({"m": 3, "n": 1}, 1)
    assert store.tally(("m", "someone")).agreement is None  # pairs of other models do not count


def test_of_many_votes_at_once_one_is_taken(tmp_path: Path) -> None:
    store = VoteStore(str(tmp_path / "votes.db"))
    store.add(shown("0", "A"))
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: store.vote("0", "A"), range(16)))
    assert sum(pair is not None for pair in taken) == 1


def test_votes_outlive_the_server_and_are_preferences_that_training_takes(tmp_path: Path) -> None:
    database = str(tmp_path / "votes.db")
    store = VoteStore(database)
    nasty = '\n\nHuman: <b>who</b>?\n\nAssistant: é {braces} "quotes"\n'
    for i, side in enumerate(("A", "tie", "B")):
        store.add(shown(str(i), "A", nasty))
        store.vote(str(i), side)  # type: ignore[arg-type]
    store.add(shown("waiting", "A"))
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in VoteStore(database).preferences()))
    source = SourceSection.model_validate({"path": str(path)})
    loaded = load_source(source, DataSection.model_validate({"sources": [{"path": str(path)}]}), seed=0)
    assert loaded.dropped == ()
    found = [(r.id, r.prompt[0].content, r.chosen, r.rejected) for r in loaded.records]
    assert found == [("0", "Prompt 0.", nasty, "other"), ("2", "Prompt 2.", "other", nasty)]


@pytest.mark.parametrize(
    ("database", "sentence"),
    [
        ("/nowhere/at/all/votes.db", "The database sqlite:////nowhere/at/all/votes.db cannot be opened"),
        ("nothing://user:secret@host/db", "The database nothing://***@host/db cannot be opened"),
        ("://", "neither a file nor a URL"),
    ],
)
def test_a_database_that_cannot_be_opened_ends_in_a_sentence(database: str, sentence: str) -> None:
    with pytest.raises(RunError) as caught:
        VoteStore(database)
    assert re.match(f".*{re.escape(sentence)}", str(caught.value))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
