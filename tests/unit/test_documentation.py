"""What the documentation names exists: commands, options, settings, formats, recipes, public names.

The code blocks themselves are run by tests/doc_blocks.py, but for those that are marked. Their commands are read here
too.
"""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from doc_blocks import PAGES, ROOT
from doc_reference import PAGE, commands_page
from doc_shell import commands

import selfjudge
from selfjudge.cli.main import app
from selfjudge.data.sources import load_preferences
from selfjudge.recipes.load import load_recipe, shipped_recipes

USAGE_ERROR = typer.BadParameter.__base__
ROOT_COMMAND = typer.main.get_command(app)
FENCE = re.compile(r"^ *```(\S*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r'<!-- skip: next "[^"\n]{10,}" -->\n+ *```')
OF_OTHER_TOOLS = {
    *("--editable", "--constraint", "--index-url", "--enable-lora", "--lora-modules", "--generation-config"),
    *(
        "--max-logprobs",
        "--max-model-len",
        "--logprobs-mode",
        "--enable-prefix-caching",
        "--ctx-size",
        "--parallel",
        "--help",
        "--signal",
        "--kill-on-bad-exit",
    ),
}
by_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the rest of them."""
    command = ROOT_COMMAND
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"no such command: {name}"
        command = command.commands[name]
    return command, words


def parsed(words: list[str]) -> dict[str, Any]:
    """The options of a command line without ``selfjudge``, as the command takes them; it is not run."""
    if words in (["--help"], []):
        return {}
    command, rest = leaf([re.sub(r"\$\w+", "1", word) for word in words])
    return command.make_context("selfjudge", rest).params


def test_the_parser_of_these_tests_refuses_what_there_is_not() -> None:
    assert parsed(["judge", "--model", "M", "--input", "I", "--output", "O"])["model"] == "M"
    for line in ("judges --model M", "judge --model M", "judge --models M --input I --output O", "data inspect A B"):
        with pytest.raises((AssertionError, USAGE_ERROR)):
            parsed(line.split())


@by_page
def test_commands_and_settings_exist(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    scripts = [source for language, source in FENCE.findall(page.read_text()) if language == "bash"]
    for command in [command for script in scripts for command in commands(script)]:
        found = re.search(r"\bselfjudge ([^;|&]*)", command)
        if found and not command.startswith(("pip", "kubectl", "python")):
            options = parsed(shlex.split(found[1], comments=True))
            if options.get("recipe") in shipped_recipes():
                load_recipe(options["recipe"], options.get("set_") or ())


@by_page
def test_options_named_in_the_text_exist(page: Path) -> None:
    def options(command: Any) -> set[str]:
        own = {name for parameter in command.params for name in parameter.opts}
        return own.union(*(options(child) for child in getattr(command, "commands", {}).values()))

    named = set(
        re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(re.findall(r"`[^`\n]+`", FENCE.sub("", page.read_text()))))
    )
    assert named - options(ROOT_COMMAND) - OF_OTHER_TOOLS == set()


@by_page
def test_a_mark_stands_before_a_block_and_gives_a_reason(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall(r"<!--+ *skip", text)) == len(MARK.findall(text))


def test_the_rows_of_the_formats_are_read_as_such(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    names = re.findall(r"^\| `(\w+)` \|", text.split("## Formats")[1].split("One row of each")[0], re.MULTILINE)
    own, others = text.split("One row of each")[1].split("Rows of pairs for other tools")
    others, more = others.split("### Two answers and a label")
    parts = [[source for kind, source in FENCE.findall(part) if kind == "json"] for part in (own, others, more)]
    names = [
        *names,
        *["preference"] * len(parts[1]),
        "arena",
        "helpsteer",
        "safe_rlhf",
        "shp",
        "two_scores",
        "ranked",
        "ranked",
    ]
    assert len(parts[1]) > 4
    for number, (name, row) in enumerate(zip(names, itertools.chain(*parts), strict=True)):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(row)
        loaded = load_preferences(file)
        assert (loaded.format, len(loaded.records), loaded.unused) == (name, 1, ()), loaded.reasons()


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    assert PAGE.read_text() == commands_page(), "run `make reference`"


def test_the_reference_has_every_public_name() -> None:
    entries = re.findall(
        r"^::: (selfjudge\.\S+)", (ROOT / "docs" / "reference" / "python.md").read_text(), re.MULTILINE
    )
    assert len(entries) == len(set(entries))
    names = {entry.rpartition(".")[2]: entry for entry in entries}
    modules = {name: f"selfjudge.{module}" for name, module in selfjudge._MODULE_OF.items()}
    assert {n: e.rpartition(".")[0] for n, e in names.items() if n in modules} == modules


def test_every_recipe_has_its_page() -> None:
    pages = {page.stem: page.read_text() for page in (ROOT / "docs" / "recipes").glob("*.md")}
    assert sorted(pages) == shipped_recipes()
    for name, text in pages.items():
        assert f'--8<-- "src/selfjudge/recipes/shipped/{name}.yaml"' in text


def test_every_page_is_in_the_navigation() -> None:
    def files(nav: Any) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        return [file for part in (nav.values() if isinstance(nav, dict) else nav) for file in files(part)]

    nav = files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")]
    assert sorted(nav) == sorted(there)


@by_page
def test_all_blocks_are_found(page: Path) -> None:
    fences = [line.strip() for line in page.read_text().splitlines() if line.strip().startswith("```")]
    assert len(FENCE.findall(page.read_text())) == len(fences) / 2
