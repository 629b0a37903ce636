"""How `make mutants` compares the mutants that survived with the list of those that may."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from mutation import run
from mutation.order import quickest_first
from mutation.run import SURVIVORS, Mutant, Result, change_of, compare, listed, patterns, results

ROOT = Path(__file__).parents[2]
PLUS = Mutant("core.bracket", "placing", "- a = b + 1\n+ a = b - 1")
TIE = Mutant("core.bracket", "BracketState.advance", "- if tie:\n+ if not tie:")
OTHER = Mutant("judge", "Judge.fits", "- return a < b\n+ return a <= b")

DIFF = """\
--- src/selfjudge/core/bracket.py
+++ src/selfjudge/core/bracket.py
@@ -5,7 +5,7 @@
         c = 3
-        a = b + 1
+        a = b - 1
     return a
"""


def test_a_change_is_its_lines_wherever_they_stand() -> None:
    assert change_of(DIFF) == PLUS.change
    assert change_of(DIFF.replace("        ", "    ").replace("-5,7", "-105,7")) == PLUS.change
    assert change_of("- f(\n+ f(\n-     1,\n") == "- f(\n+ f(\n- 1,"
    with pytest.raises(ValueError, match="not a change"):
        change_of("  a = b\n")


def test_the_lists_are_read_as_they_are_printed(tmp_path: Path) -> None:
    def group(reason: str, mutant: Mutant) -> str:
        return f"[[group]]\n{reason}\n[group.mutants]\n{mutant}\n"

    (tmp_path / "core.bracket.toml").write_text(group("reason = 'equal'", PLUS) + group("reason = 'as well'", TIE))
    (tmp_path / "judge.toml").write_text(group("reason = 'no matter'", OTHER))
    assert listed(tmp_path) == Counter([PLUS, OTHER, TIE])
    for reason in ("", "reason = ' '"):
        (tmp_path / "judge.toml").write_text(group(reason, OTHER))
        with pytest.raises(ValueError, match=r"judge.toml: a group without a reason: \['Judge.fits'\]"):
            listed(tmp_path)


def test_what_is_new_and_what_is_stale() -> None:
    assert compare([PLUS, OTHER], Counter([PLUS, OTHER])) == ([], [])
    assert compare([PLUS, OTHER], Counter([PLUS])) == ([OTHER], [])
    assert compare([PLUS], Counter([PLUS, OTHER])) == ([], [OTHER])
    assert compare([TIE], Counter([PLUS])) == ([TIE], [PLUS])


def test_mutants_that_read_the_same_are_counted() -> None:
    assert compare([PLUS, PLUS], Counter([PLUS])) == ([PLUS], [])
    assert compare([PLUS], Counter([PLUS, PLUS])) == ([], [PLUS])


def test_mutmuts_names_are_read() -> None:
    lines = """\
    selfjudge.core.bracket.xǁBracketStateǁ__post_init____mutmut_3: survived
    selfjudge.core.bracket.x_placing__mutmut_12: killed
    selfjudge.tournament.x__play__mutmut_1: check was interrupted by user
something else
    selfjudge.judge.xǁJudgeǁ_questions__mutmut_7: no tests
"""
    assert [(r.module, r.function, r.status) for r in results(lines)] == [
        ("core.bracket", "BracketState.__post_init__", "survived"),
        ("core.bracket", "placing", "killed"),
        ("tournament", "_play", "check was interrupted by user"),
        ("judge", "Judge._questions", "no tests"),
    ]
    assert results(lines)[1] == Result(
        "selfjudge.core.bracket.x_placing__mutmut_12", "core.bracket", "placing", "killed"
    )


def test_modules_are_named_as_paths_or_as_imports() -> None:
    names = ["core/bracket.py", "core.bracket", "core/", "judge", "training/pairing"]
    assert patterns(names) == [
        "selfjudge.core.bracket.*",
        "selfjudge.core.bracket.*",
        "selfjudge.core.*",
        "selfjudge.judge.*",
        "selfjudge.training.pairing.*",
    ]


def test_a_listed_mutant_that_is_caught_is_a_complaint_but_not_one_that_ran_out_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "_mutmut", lambda *arguments: "--- a\n+++ b\n-x = 1\n+x = 2\n")
    known = Counter([Mutant("judge", "f", "- x = 1\n+ x = 2")])
    for status, complaints in [("survived", 0), ("timeout", 0), ("killed", 1), ("not checked", 2)]:
        assert run.report([Result("selfjudge.judge.x_f__mutmut_1", "judge", "f", status)], known) == complaints
    assert run.report([Result("selfjudge.judge.x_f__mutmut_1", "judge", "f", "survived")], Counter()) == 1


def test_the_quickest_tests_come_first(tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    items = [SimpleNamespace(nodeid=name) for name in "abcd"]
    quickest_first(items, stats)  # type: ignore[arg-type]
    assert [item.nodeid for item in items] == ["a", "b", "c", "d"]
    stats.write_text('{"duration_by_test": {"a": 3.0, "b": 0.5, "d": 1.5}}')
    quickest_first(items, stats)  # type: ignore[arg-type]
    assert [item.nodeid for item in items] == ["c", "b", "d", "a"]


def test_the_lists_can_be_read_and_name_functions_that_exist() -> None:
    for mutant in listed(SURVIVORS):
        file = ROOT / "src" / "selfjudge" / f"{mutant.module.replace('.', '/')}.py"
        assert f"def {mutant.function.rpartition('.')[2]}(" in file.read_text(encoding="utf-8"), mutant
