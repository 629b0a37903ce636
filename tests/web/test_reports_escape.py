"""What models and people write is shown on the pages that commands write, and never run: opened in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from windows import Open

from selfjudge.core.verdict import combine, principle_verdict
from selfjudge.data.judge_sets import JudgePair
from selfjudge.evaluation.judge_sets import Judged, evaluate_judge, sections
from selfjudge.evaluation.page import Section, write_page
from selfjudge.evaluation.report import write_report
from selfjudge.evaluation.runs_report import write_runs_report
from selfjudge.recipes.load import changed, load_recipe
from selfjudge.records import Comparison, Message, OrderProbabilities
from selfjudge.training.run_folder import RunFolder

RUN = "window.ran = true"
ATTACKS = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</pre></td></table></title></style><img src=x onerror='{RUN}'>",
    f"<svg onload='{RUN}'>",
    f'"><img src=x onerror="{RUN}">',
    f"'><body onload='{RUN}'>",
    f"<iframe srcdoc='<script>parent.ran = true</script>'></iframe><a href='javascript:{RUN}'>x</a>",
    "<!-- --><style>@import 'http://127.0.0.1:9/x'</style>{{ 7 * 7 }}",
    f"\u2028<scr\x00ipt>{RUN}</script>",
)
TEXT = "\n".join(ATTACKS)


def run_folder(path: Path, name: str = "demo") -> RunFolder:
    """A finished run in which everything that can be foreign is."""
    recipe = changed(
        load_recipe("demo"), ["jsft.training.run_name=" + json.dumps(TEXT), "model.path=" + json.dumps(TEXT)]
    )
    recipe.name = name
    run = RunFolder.open(path, "train", recipe)
    for step in (1, 2, 3):
        run.append("metrics.jsonl", {"step": step, "loss": 1 / step, "kl": 0.1, TEXT: 1.0})
        verdict = {"preferred": TEXT, "strength": 0.7, "agree": True}
        row = {"prompt": TEXT, "response_a": TEXT, "response_b": TEXT, "verdict": verdict}
        run.append("rollouts.jsonl", {"step": step, **row})
    run.finish(steps=3, stopped=TEXT, fingerprints={TEXT: TEXT})
    return run


def check(page: Any, *, times: int) -> None:
    """Nothing has run and nothing was made of the text; it stands there to be read."""
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert page.locator("script, img, iframe, [onload], [onerror], a[href^=javascript]").count() == 0
    assert [page.locator(tag).count() for tag in ("body", "title", "html > head > style")] == [1, 1, 1]
    shown = page.evaluate("document.body.textContent")
    for attack in ATTACKS[:-1]:
        assert shown.count(attack) >= times, attack
    assert "{{ 7 * 7 }}" in shown


def test_the_attacks_would_work(tmp_path: Path, page_at: Open) -> None:
    (tmp_path / "page.html").write_text(f"<!doctype html><html><body>{ATTACKS[0]}</body></html>")
    with page_at((tmp_path / "page.html").as_uri()) as page:
        assert page.evaluate("window.ran") is True


def test_the_report_of_a_run(tmp_path: Path, page_at: Open) -> None:
    run = run_folder(tmp_path / "run")
    report = write_report(run.path, run.path / "report.html")
    with page_at(report.as_uri()) as page:
        # Three texts of each pair and what the judge prefers; the recipe and the run are escaped in their own ways.
        check(page, times=12)


def test_the_report_of_several_runs(tmp_path: Path, page_at: Open) -> None:
    runs = [
        run_folder(tmp_path / name, f"demo{i}").path for i, name in enumerate(("a<img src=x onerror=ran=1>", "b\"'>&"))
    ]
    (tmp_path / "out").mkdir()
    report = write_runs_report(runs, tmp_path / "out" / "runs.html", overwrite=False)
    with page_at(report.as_uri()) as page:
        check(page, times=12)
        assert "a<img src=x onerror=ran=1>" in page.evaluate("document.body.textContent")


def test_the_page_of_eval(tmp_path: Path, page_at: Open) -> None:
    """The page that `eval judge`, `eval winrate`, `eval audit`, `eval scaling`, `eval ranking` and `compare` write."""
    p = OrderProbabilities.model_validate({order: {"A": 0.9, "B": 0.1} for order in ("AB", "BA")})
    verdict = combine([principle_verdict("overall", p)]).model_copy(update={"preferred": "A"})
    pairs = [
        JudgePair(
            Comparison(
                id=TEXT, prompt=(Message(role="user", content=TEXT),), response_a=TEXT, response_b="b", label="B"
            ),
            subset,
        )
        for subset in (TEXT, "other")
    ]
    judged = Judged(pairs, [verdict] * 2)
    parts = [*sections(judged, evaluate_judge(judged)), Section(TEXT, TEXT, [(TEXT, TEXT), (TEXT, TEXT)])]
    write_page(tmp_path / "eval.html", TEXT, [("model", TEXT), (TEXT, {TEXT: TEXT})], parts)
    with page_at((tmp_path / "eval.html").as_uri()) as page:
        check(page, times=14)


@pytest.mark.parametrize("name", ["</title><script>window.ran = true</script>", "\"'><svg onload='window.ran = true'>"])
def test_names_of_charts(tmp_path: Path, page_at: Open, name: str) -> None:
    """A chart is drawn as SVG and put into the page as it is; what is written in it must not be markup."""
    from selfjudge.evaluation.plots import Series, line_chart

    chart = line_chart([Series(name, [1, 2], [1.0, 2.0])], x=name, y=name, marker=(1, name))
    write_page(tmp_path / "chart.html", "chart", [], [Section("s", charts=[(name, chart)])])
    with page_at((tmp_path / "chart.html").as_uri()) as page:
        page.wait_for_timeout(200)
        assert page.evaluate("window.ran") is None
        assert page.locator("script, [onload]").count() == 0
        assert page.locator("svg").count() == 1
