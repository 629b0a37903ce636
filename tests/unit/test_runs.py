"""The run folders under a directory: what is told of them, and that nothing else is."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from run_folders import judged, log, make_run
from score_server import ScoreEngine, app_on

from selfjudge.recipes.schema import StopSection
from selfjudge.serving import run_state, runs, tail, watched_run
from selfjudge.serving.run_state import Metrics, Thinned, Verdicts
from selfjudge.serving.runs import RunDirectory
from selfjudge.serving.runs_app import create_runs_app
from selfjudge.serving.settings import ServeSettings
from selfjudge.templates.chat import ChatEncoder


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_FRESH", 0.0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def client(root: Path) -> TestClient:
    return TestClient(create_runs_app(RunDirectory(root), ServeSettings()))


def view(client: TestClient, name: str) -> dict[str, Any]:
    answer = client.get("/v1/run", params={"name": name})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def names(client: TestClient) -> list[str]:
    return [run["name"] for run in client.get("/v1/runs").json()["runs"]]


def series(told: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (line for chart in told["charts"] for line in chart["series"] if line["name"] == name)
    return dict(found)


def test_the_runs_of_nested_folders_the_latest_first(client: TestClient, root: Path) -> None:
    assert client.get("/v1/runs").json() == {"needed": None, "runs": [], "left_out": 0}
    for age, name in enumerate(("demo", "demo/soft", "mixed/train/round-1")):
        folder = make_run(root / name, [{"step": 1, "loss": 1.0}], status="finished" if age else "running")
        for file in folder.glob("*.*"):
            os.utime(file, (1000 - age, 1000 - age))
    for hidden in ("demo/checkpoints/x", "demo/final", ".trash/run"):
        make_run(root / hidden)
    assert names(client) == ["demo", "demo/soft", "mixed/train/round-1"]
    os.utime(root / "mixed/train/round-1/metrics.jsonl", (2000, 2000))
    assert names(client) == ["mixed/train/round-1", "demo", "demo/soft"]
    assert view(client, "demo")["nested"] == ["demo/soft"]
    make_run(root)
    assert names(client)[0] == "."
    assert view(client, ".")["nested"] == ["demo", "demo/soft", "mixed/train/round-1"]


def test_what_the_list_says_of_a_run(client: TestClient, root: Path) -> None:
    rows = [{"step": i + 1, "loss": 2.0 - i, "kl": 3.0 * i, "grad_norm": 1.0} for i in range(4)]
    stop = "name: r\nself_training: {stop: {window: 2, max_kl: 5}}\n"
    folder = make_run(root / "one", [*rows, {"step": 4, "train_loss": 0.5}], stop, stopped=None)
    os.utime(folder / "metrics.jsonl", (1_700_000_000, 1_700_000_000))
    (run,) = client.get("/v1/runs").json()["runs"]
    assert run == {
        "name": "one", "status": "running", "problem": None, "stage": "train", "recipe": "r",
        "started": "2026-01-02T03:04:05+00:00", "finished": None, "stopped": None,
        "updated": "2023-11-14T22:13:20+00:00", "step": 4.0, "last": {"loss": -1.0, "kl": 9.0},
        "alarms": ["kl"], "unread": 0,
    }  # fmt: skip
    make_run(root / "one", status="finished", finished="2026-01-02T04:00:00+00:00", stopped="kl")
    (run,) = client.get("/v1/runs").json()["runs"]
    assert (run["status"], run["updated"], run["stopped"]) == ("finished", "2026-01-02T04:00:00+00:00", "kl")


def test_what_is_shown_of_a_run(client: TestClient, root: Path) -> None:
    held_out = {"accuracy": {"rate": 0.75, "low": 0.5, "high": 0.9, "n": 8}, "kappa": 3, "note": {"rate": "x"}}
    metrics = [{"step": i, "loss": 1.0 / i, "kl": float(i), "own/metric": 2.0, "epoch": 0.1} for i in (1, 2, 3)]
    folder = make_run(root / "one", metrics, "name: r # <b>\n", held_out=held_out)
    log(folder, *(judged(i, "a" * i, "b") for i in (1, 2, 3)), name="rollouts.jsonl")
    told = view(client, "one")
    # Known metrics in the order of the report, then others; what is no curve is left out.
    assert [chart["title"] for chart in told["charts"]] == [
        "loss", "KL to the reference, nats per response", "own/metric"
    ]  # fmt: skip
    assert series(told, "kl") == {"name": "kl", "steps": [1.0, 2.0, 3.0], "values": [1.0, 2.0, 3.0], "each": 1}
    assert told["judge"] == {"accuracy": held_out["accuracy"]}
    assert told["recipe"] == "name: r # <b>\n"
    assert [pair["step"] for pair in told["pairs"]] == [3, 2, 1]
    assert told["pairs"][0] == {
        "step": 3.0, "prompt": "Prompt 3", "response_a": "aaa", "response_b": "b", "preferred": "A", "strength": 0.8,
        "agree": True,
    }  # fmt: skip
    assert (told["signs"], told["damaged_lines"]) == ([], 0)


def test_the_judge_of_a_round_is_shown(client: TestClient, root: Path) -> None:
    rate = {"rate": 0.5, "low": 0.25, "high": 0.75, "n": 10}
    make_run(root / "round-1", judge={"accuracy": rate, "former_agreement": rate})
    make_run(root / "round-2", judge=None)
    assert view(client, "round-1")["judge"] == {"accuracy": rate, "former_agreement": rate}
    assert view(client, "round-2")["judge"] == {}


def test_a_run_that_is_written_to_goes_on(client: TestClient, root: Path) -> None:
    folder = make_run(root / "one", [{"step": 1, "loss": 3.0}])
    assert view(client, "one")["charts"] == []  # a point is no curve
    with (folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    assert series(view(client, "one"), "loss")["values"] == [3.0, 2.0]
    with (folder / "metrics.jsonl").open("a") as handle:
        handle.write('ss": 1.0}\n')
    assert series(view(client, "one"), "loss")["values"] == [3.0, 2.0, 1.0]
    assert client.get("/v1/runs").json()["runs"][0]["step"] == 3.0


def test_a_resumed_run_does_not_show_what_was_cut_off(client: TestClient, root: Path) -> None:
    folder = make_run(root / "one", [{"step": i, "loss": float(i)} for i in range(1, 6)])
    log(folder, judged(1, "a", "bb"), judged(5, "a", "bb"), name="rollouts.jsonl")
    view(client, "one")
    for name, rows in (("metrics.jsonl", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 8.0}]),
                       ("rollouts.jsonl", [judged(1, "a", "bb")])):  # fmt: skip
        log(folder, *rows, name=f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)
    told = view(client, "one")
    assert series(told, "loss") == {"name": "loss", "steps": [1.0, 2.0], "values": [1.0, 8.0], "each": 1}
    assert ([pair["step"] for pair in told["pairs"]], told["verdicts"]["judged"]) == ([1], 1)


def test_the_same_is_not_sent_again(client: TestClient, root: Path) -> None:
    folder = make_run(root / "one", [{"step": i, "loss": 1.0} for i in (1, 2)])
    for path in ("/v1/runs", "/v1/run?name=one"):
        first = client.get(path)
        assert first.headers["cache-control"] == "private, no-cache"
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    log(folder, {"step": 3, "loss": 1.0})
    assert client.get(path, headers={"If-None-Match": first.headers["etag"]}).status_code == 200


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"status": "running"' + b" " * 2**18 + b"}"]
)
def test_a_damaged_run_is_shown_as_such(client: TestClient, root: Path, content: bytes) -> None:
    folder = make_run(root / "one", [{"step": i, "loss": 1.0} for i in (1, 2)])
    assert client.get("/v1/runs").json()["runs"][0]["status"] == "running"
    (folder / "run.json").write_bytes(content)
    (run,) = client.get("/v1/runs").json()["runs"]
    assert (run["status"], run["stage"]) == ("damaged", None)
    assert "run.json cannot be read" in run["problem"]
    told = view(client, "one")
    assert told["run"] == run
    assert series(told, "loss")["steps"] == [1.0, 2.0]


def test_no_content_of_its_files_breaks_the_answer(client: TestClient, root: Path) -> None:
    odd = (
        '{"stage": 7, "recipe": "\\ud800", "started": [], "stopped": {}, "held_out": [1], "judge": "x", "status": null}'
    )
    folder = make_run(root / "one", recipe="self_training: [stop: {")
    (folder / "run.json").write_text(odd)
    (folder / "recipe.yaml").write_bytes(b"\xff name: x")
    lines = [
        '{"step": 1, "loss": NaN, "kl": 1, "\\udc00": 1, "rollout/length": Infinity}',
        f'{{"step": 2, "loss": 1.0, "kl": 1{"0" * 400}}}',
        f'{{"step": 3, "kl": 1{"0" * 5000}}}', '{"step": "4", "loss": 1}', '{"loss": 1}', '{"step": true, "loss": 9}',
        '{"step": 5, "loss": "much", "kl": null, "\\udc00": 2}', "nothing",
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    log(
        folder, {}, {"step": 1}, {**judged(1, "a", "b"), "prompt": 3}, judged(1, "a", "b", strength=math.nan),
        judged(1, "a", "b", preferred="C"), judged(1, "a", "b", strength=1.5), judged(2, "a", "b"),
        name="rollouts.jsonl",
    )  # fmt: skip
    with (folder / "rollouts.jsonl").open("a") as handle:
        handle.write(json.dumps(judged(3, "\ud800", "b")) + "\n")
    told = view(client, "one")
    assert told["run"]["recipe"] == "?"
    assert told["run"]["status"] == "running"
    assert series(told, "loss") == {"name": "loss", "steps": [1.0, 2.0], "values": [None, 1.0], "each": 1}
    assert series(told, "?")["values"] == [1.0, 2.0]
    assert [(pair["step"], pair["response_a"]) for pair in told["pairs"]] == [(3.0, "?"), (2.0, "a")]
    assert told["damaged_lines"] == 2
    assert client.get("/v1/runs").status_code == 200


def test_a_run_that_is_deleted_is_gone(client: TestClient, root: Path) -> None:
    folder = make_run(root / "one", [{"step": 1, "loss": 1.0}])
    assert names(client) == ["one"]
    shutil.rmtree(folder)
    answer = client.get("/v1/run", params={"name": "one"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert names(client) == []


def test_a_run_that_is_deleted_between_being_found_and_read(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(root / "one", [{"step": i, "loss": 1.0} for i in (1, 2)])
    monkeypatch.setattr(runs, "_FRESH", 60.0)
    assert names(client) == ["one"]
    shutil.rmtree(folder)
    assert view(client, "one")["run"]["status"] == "damaged"
    assert view(client, "one")["charts"] == []


@pytest.mark.parametrize(
    "name", ["..", "../outside", "one/../../outside", "/", "/etc", "one/", "./one", "", "%2e%2e/outside", "one\0",
             "link", "link/run", "one/linked"]
)  # fmt: skip
def test_no_name_leads_out_of_the_directory(client: TestClient, root: Path, name: str) -> None:
    outside = make_run(root.parent / "outside", [{"step": 1, "loss": 1.0}])
    make_run(outside / "run")
    make_run(root / "one")
    (root / "link").symlink_to(outside)
    (root / "one" / "linked").symlink_to(outside)
    for asked in (name, str(outside)):
        assert client.get("/v1/run", params={"name": asked}).status_code == 404
    assert names(client) == ["one"]


def test_links_of_a_run_are_not_followed(client: TestClient, root: Path) -> None:
    secret = make_run(root.parent / "outside", [{"step": i, "loss": 1.0} for i in (1, 2)], stopped="secret")
    log(secret, judged(1, "secret", "b"), name="rollouts.jsonl")
    (root / "one").mkdir()
    for file in ("run.json", "recipe.yaml", "metrics.jsonl", "rollouts.jsonl"):
        (root / "one" / file).symlink_to(secret / file)
    told = view(client, "one")
    assert "secret" not in json.dumps(told)
    assert (told["run"]["status"], told["charts"], told["pairs"], told["recipe"]) == ("damaged", [], [], None)


def test_a_folder_that_turns_into_a_link_is_not_followed(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = make_run(root.parent / "outside", stopped="secret")
    make_run(root / "one")
    monkeypatch.setattr(runs, "_FRESH", 60.0)
    assert names(client) == ["one"]
    shutil.rmtree(root / "one")
    (root / "one").symlink_to(secret)
    assert "secret" not in json.dumps(view(client, "one"))


def test_a_long_log_is_read_in_parts(client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(root / "one", [{"step": i, "loss": 1.0} for i in range(1, 31)])  # at first lines of 25 bytes
    make_run(root / "two", [{"step": i, "loss": 1.0} for i in range(1, 31)])
    size = (root / "one/metrics.jsonl").stat().st_size
    monkeypatch.setattr(tail, "CHUNK", 100)
    monkeypatch.setattr(runs, "_BUDGET", 150)
    first, second = client.get("/v1/runs").json()["runs"]
    # Two pieces of four lines of the first run: the second has to wait.
    assert (first["step"], size - first["unread"]) == (8.0, 8 * 25)
    assert (second["step"], second["unread"]) == (None, size)
    for _ in range(10):
        found = client.get("/v1/runs").json()["runs"]
    assert [(run["step"], run["unread"]) for run in found] == [(30.0, 0)] * 2
    assert series(view(client, "one"), "loss")["steps"] == list(range(1, 31))


def test_reading_does_not_hold_up_other_requests(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(root / "one")
    begun, going = threading.Event(), threading.Event()
    read = watched_run.WatchedRun.read

    def slowly(run: watched_run.WatchedRun, budget: int) -> int:
        begun.set()
        assert going.wait(20)
        return read(run, budget)

    monkeypatch.setattr(watched_run.WatchedRun, "read", slowly)
    with TestClient(create_runs_app(RunDirectory(root), ServeSettings())) as client:
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(client.get("/v1/runs").status_code))
        asking.start()
        assert begun.wait(20)
        assert client.get("/healthz").text == "ok"
        assert answers == []
        going.set()
        asking.join(20)
        assert answers == [200]


def test_more_runs_than_are_listed_are_counted(client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_SHOWN", 2)
    for i in range(3):
        for file in make_run(root / f"run-{i}").iterdir():
            os.utime(file, (i, i))
    told = client.get("/v1/runs").json()
    assert ([run["name"] for run in told["runs"]], told["left_out"]) == (["run-2", "run-1"], 1)
    assert client.get("/v1/run?name=run-0").status_code == 404


def test_the_search_for_runs_has_bounds(root: Path, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(root / "a/b/c/d/e/f")
    make_run(root / "a/b/c/d/e/f/g")
    assert names(client) == ["a/b/c/d/e/f"]
    monkeypatch.setattr(runs, "_FOLDERS", 6)  # the root, a, ..., e
    assert names(client) == []


def test_folders_found_a_moment_ago_are_good_but_a_new_name_is_looked_for(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_FRESH", 60.0)
    assert names(client) == []
    make_run(root / "one")
    assert names(client) == []
    assert view(client, "one")["run"]["name"] == "one"
    assert names(client) == ["one"]


def test_a_name_that_is_no_text_is_shown_with_marks(client: TestClient, root: Path) -> None:
    make_run(Path(os.fsdecode(os.fsencode(root) + b"/r\xff")))
    assert names(client) == ["r?"]
    assert view(client, "r?")["run"]["name"] == "r?"


def test_keys_hold_for_runs(root: Path) -> None:
    settings = ServeSettings(key_hashes=frozenset({"0" * 64}))
    client = TestClient(create_runs_app(RunDirectory(root), settings))
    assert [client.get(path).status_code for path in ("/v1/runs", "/v1/run?name=.", "/v1/models")] == [401] * 3
    assert client.get("/").status_code == 200


def test_a_server_without_a_directory_says_what_it_needs(world_chat: ChatEncoder) -> None:
    with TestClient(app_on(ScoreEngine(world_chat))) as client:
        told = client.get("/v1/runs").json()
        assert told["runs"] == []
        assert "--runs" in told["needed"]
        answer = client.get("/v1/run?name=one")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "runs_closed")
        assert client.get("/v1/run").status_code == 400


def test_a_server_without_a_model_has_no_more_than_runs(client: TestClient) -> None:
    assert client.get("/v1/models").json() == {"object": "list", "data": []}
    assert (client.get("/healthz").text, client.get("/readyz").text) == ("ok", "ok")
    assert "selfjudge_requests" in client.get("/metrics").text
    assert client.post("/v1/judge", json={}).status_code == 404


def test_a_curve_keeps_its_shape_in_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "POINTS", 4)
    curve = Thinned()
    told = []
    for step in range(1, 12):
        curve.add(step, float(step))
        found = curve.series("x")
        told.append((found.each, found.steps, found.values))
    assert told[2] == (1, [1, 2, 3], [1, 2, 3])
    # With the fourth, two make a point, which stands at the second's step; the fifth waits for the sixth.
    assert told[3] == (2, [2, 4], [1.5, 3.5])
    assert told[4] == (2, [2, 4, 5], [1.5, 3.5, 5])
    assert told[6] == (2, [2, 4, 6, 7], [1.5, 3.5, 5.5, 7])
    # With the eighth, four: (1.5 + 3.5) / 2 and (5.5 + 7.5) / 2.
    assert told[7] == (4, [4, 8], [2.5, 6.5])
    assert told[10] == (4, [4, 8, 11], [2.5, 6.5, 10])


def test_a_curve_of_any_length_has_a_bounded_number_of_points() -> None:
    curve = Thinned()
    for step in range(100_003):
        curve.add(step, 2.0)
        if step % 1009 == 0:
            assert len(curve.series("x").steps) <= run_state.POINTS
    found = curve.series("x")
    assert set(found.values) == {2.0}
    assert found.steps[-1] == 100_002
    assert len(found.steps) >= run_state.POINTS / 2


def test_a_log_with_any_number_of_metrics_keeps_a_bounded_one() -> None:
    metrics = Metrics(StopSection())
    metrics.add({"step": 1, **{f"m{i}": 1.0 for i in range(150)}})
    metrics.add({"step": 2, "m0": 2.0, "new": 1.0})
    assert len(metrics.curves) == run_state.METRICS
    assert metrics.curves["m0"].series("m0").values == [1.0, 2.0]
    assert "new" not in metrics.last


def test_alarms_of_a_long_log_are_those_of_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(StopSection(window=2, max_kl=5.0))
    for step, kl in enumerate([0.0, 1.0, 50.0, 50.0, 50.0, 7.0, 8.0], 1):
        metrics.add({"step": step, "kl": kl})
    metrics.add({"step": 7, "train_loss": 1.0})
    (alarm,) = metrics.alarms()
    assert (alarm.raised, alarm.what) == (True, "KL to the reference is 7.50 nats per response; the limit is 5.")


def test_verdicts_are_tallied() -> None:
    verdicts = Verdicts()
    assert verdicts.statistics() is None
    for row in (
        judged(1, "long one", "short", "A", 0.9),  # the longer wins
        judged(1, "long one", "short", "B", 0.3, agree=False),  # the shorter, with 0.7
        judged(2, "short", "long one", "B", 0.4),  # the longer, with 0.6
        judged(2, "same", "size", "A", 0.8),  # neither is longer
        judged(3, "long one", "short", "tie", 0.5),  # counts for neither
        judged(3, "x", "y", None),  # not judged
    ):
        verdicts.add(row)
    found = verdicts.statistics()
    assert found is not None
    assert (found.pairs, found.judged) == (6, 5)
    assert (found.agreement.rate, found.ties.rate) == (0.8, 0.2)
    assert (found.longer_preferred.rate, found.longer_preferred.n) == (pytest.approx(2 / 3), 3)  # type: ignore[union-attr]
    assert found.strength == pytest.approx((0.9 + 0.7 + 0.6 + 0.8 + 0.5) / 5)
    assert [pair.preferred for pair in verdicts.latest] == ["A", "B", "B", "A", "tie", None]


def test_the_latest_pairs_are_kept_and_long_texts_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "TEXT", 4)
    verdicts = Verdicts()
    for step in range(50):
        verdicts.add(judged(step, "abcd", "abcde"))
    assert [pair.step for pair in verdicts.latest] == list(range(30, 50))
    assert (verdicts.latest[0].response_a, verdicts.latest[0].response_b) == ("abcd", "abcd …")
