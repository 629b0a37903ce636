"""Breaks the core on purpose, one place at a time, and names every break that no test notices: `make mutants`.

mutmut makes the breaks, which it calls mutants, and runs the tests that reach each of them. `[tool.mutmut]` in
pyproject.toml names the modules and the tests. A mutant that survives must stand in its module's file in `survivors`,
with the reason.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SURVIVORS = Path(__file__).with_name("survivors")
CAUGHT = ("killed", "timeout", "segfault")
"""How mutmut calls what a test noticed. A mutant that never ends, or ends the process, is noticed."""

_MUTANT = re.compile(r"^ *(?P<name>(?P<module>[\w.]+)\.x[_ǁ](?P<function>\w+?)__mutmut_\d+): (?P<status>.+)$")


class Mutant(NamedTuple):
    """A mutant as the lists name it: without line numbers, so that changes elsewhere do not touch it."""

    module: str  # below selfjudge, such as core.bracket
    function: str  # with its class, such as BracketState.advance
    change: str  # the lines that are taken away and put in its place, "- …\n+ …"

    def __str__(self) -> str:
        """As it stands in the list."""
        return f"\"{self.function}\" = [\n'''\n{self.change}\n''',\n]"


def listed(folder: Path) -> Counter[Mutant]:
    """Returns the mutants that the files of a folder list, a file for each module, such as core.bracket.toml.

    Two mutants of a function that read the same are listed twice.

    Raises:
        ValueError: if an entry has no reason or is no change.
    """
    found: Counter[Mutant] = Counter()
    for file in sorted(folder.glob("*.toml")):
        for group in tomllib.loads(file.read_text(encoding="utf-8"))["group"]:
            if not str(group.get("reason", "")).strip():
                raise ValueError(f"{file}: a group without a reason: {sorted(group['mutants'])}")
            for function, changes in group["mutants"].items():
                found.update(Mutant(file.stem, function, change_of(change)) for change in changes)
    return found


def change_of(diff: str) -> str:
    """Returns the changed lines of a diff without their indentation.

    Raises:
        ValueError: if there is none.
    """
    lines = [line for line in diff.splitlines() if line[:1] in ("-", "+") and line[:3] not in ("---", "+++")]
    if not lines:
        raise ValueError(f"not a change, there is no line with - or +: {diff!r}")
    return "\n".join(f"{line[0]} {line[1:].strip()}".rstrip() for line in lines)


def compare(survived: Iterable[Mutant], known: Counter[Mutant]) -> tuple[list[Mutant], list[Mutant]]:
    """Returns the survivors that are not listed, and what is listed but did not survive."""
    found = Counter(survived)
    return list((found - known).elements()), list((known - found).elements())


class Result(NamedTuple):
    """What became of one of mutmut's mutants."""

    name: str  # mutmut's
    module: str
    function: str
    status: str

    def __str__(self) -> str:
        """In a line."""
        return f"{self.name}: {self.status}"


def results(text: str) -> list[Result]:
    """Reads the output of `mutmut results`."""
    lines = filter(None, map(_MUTANT.match, text.splitlines()))
    return [
        Result(
            line["name"], line["module"].removeprefix("selfjudge."), line["function"].replace("ǁ", "."), line["status"]
        )
        for line in lines
    ]


def patterns(modules: Sequence[str]) -> list[str]:
    """Returns mutmut's names for modules, given as core/bracket, core/bracket.py or core.bracket; core is all of it."""
    return [f"selfjudge.{module.removesuffix('.py').strip('/').replace('/', '.')}.*" for module in modules]


def report(found: Sequence[Result], known: Counter[Mutant]) -> int:
    """Prints what the run has shown against what is listed of its modules; returns the number of complaints."""
    untried = [result for result in found if result.status not in (*CAUGHT, "survived", "no tests")]
    survived = _mutants(found, "survived", "no tests")
    by_module = {module: [r for r in found if r.module == module] for module in sorted({r.module for r in found})}
    new, gone = compare(survived, known)
    stale = list((Counter(gone) - Counter(_mutants(found, "timeout"))).elements())  # was too slow: no test noticed it
    print(f"\n{'module':<24}{'mutants':>8}{'caught':>8}{'survived':>10}{'not listed':>12}")
    for module, of in by_module.items():
        caught, left = (sum(r.status in status for r in of) for status in (CAUGHT, ("survived", "no tests")))
        print(f"{module:<24}{len(of):>8}{caught:>8}{left:>10}{sum(m.module == module for m in new):>12}")
    _complain("Survivors that are not listed. Write the test that notices them, or list the reason:", new)
    _complain("Listed, but not among the survivors. Take them out:", stale)
    _complain("Not decided. RESUME=1 tries them again:", untried)
    return len(new) + len(stale) + len(untried)


def _mutants(found: Sequence[Result], *statuses: str) -> list[Mutant]:
    named = [result for result in found if result.status in statuses]
    return [Mutant(r.module, r.function, change_of(_mutmut("show", r.name))) for r in named]


def _complain(head: str, of: Sequence[Mutant | Result]) -> None:
    if of:
        print(f"\n{head}")
    for module in sorted({one.module for one in of}):
        print(f"\n# tests/mutation/survivors/{module}.toml", *(one for one in of if one.module == module), sep="\n")


def _mutmut(*arguments: str) -> str:
    return subprocess.run(_command(*arguments), cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _command(*arguments: str) -> list[str]:
    return [os.fspath(Path(sys.executable).with_name("mutmut")), *arguments]


def main() -> int:
    """Runs mutmut and compares; the exit code is 1 if there is anything to complain about."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="such as core/bracket or judge; all by default")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was broken off")
    parser.add_argument("--report", action="store_true", help="run nothing, report on the last run")
    given = parser.parse_args()
    if not given.resume and not given.report:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    if not given.report:
        run = _command("run", "--max-children", given.workers, *patterns(given.modules))
        subprocess.run(run, cwd=ROOT, check=True)
    wanted = tuple(pattern.removesuffix("*") for pattern in patterns(given.modules)) or ("selfjudge.",)
    found = [result for result in results(_mutmut("results", "--all", "true")) if result.name.startswith(wanted)]
    known = {m: n for m, n in listed(SURVIVORS).items() if f"selfjudge.{m.module}.".startswith(wanted)}
    return 1 if report(found, Counter(known)) else 0


if __name__ == "__main__":
    sys.exit(main())
