"""Virtual environments that hold what a wheel asks for and nothing else, linked from this one instead of fetched."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(metadata: Distribution, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """What is needed to use a distribution, by name: all that it asks for, and what that asks for.

    Raises:
        AssertionError: something is installed in another version than is asked for.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = list(_asked(metadata, extras))
    while waiting:
        requirement = waiting.pop()
        name, wanted = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found[name] = distribution(name)
        assert found[name].version in requirement.specifier, f"{requirement} is here as {found[name].version}"
        waiting += _asked(found[name], wanted)
    return found


def _asked(metadata: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, metadata.requires or ()):
        if not requirement.marker or any(requirement.marker.evaluate({"extra": e}) for e in extras or ("",)):
            yield requirement


def make(folder: Path, wheel: Path, distributions: dict[str, Distribution]) -> Path:
    """Makes an environment with a wheel and these distributions; returns its folder of programs."""
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    site = Path(subprocess.check_output(
        [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip())  # fmt: skip
    for each in distributions.values():
        home = Path(str(each.locate_file("")))
        for top in {file.parts[0] for file in each.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(home / top)
    # The environment's own pip is left out; this one's installs into it.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    # Without PYTHONPATH, through which pip may take the package for installed.
    subprocess.run([*pip, wheel], check=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    return programs
