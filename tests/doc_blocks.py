"""The code blocks of the documentation as tests: each is run, or is marked with the reason why it is not.

A block is run by its language: ``python`` in the namespace of its page, ``bash`` by ``doc_shell.Shell``, ``yaml`` as a
part of a recipe, ``json`` as JSON or JSON lines; ``text`` and ``bibtex`` are no code. A block with a ``title`` is also
written to the file of that name. All blocks of a page share one folder. ``<!-- skip: next "reason" -->`` before a block
leaves it out, ``<!-- invisible-code: LANGUAGE ... -->`` is run and not shown.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from doc_shell import Shell
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

from selfjudge.recipes.load import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
NO_CODE = ("text", "bibtex")
ANY_RECIPE: dict[str, Any] = {
    "model": {"path": "builtin:world"},
    "data": {"sources": [{"path": "builtin:world"}]},
}
SNIPPET = re.compile(r'--8<-- "(.+)"')
_LEXERS = (
    FencedCodeBlockLexer(r"[^\n]*", {"language": "info", "source": "source"}),
    DirectiveInHTMLCommentLexer("invisible-code", r"\w+", {"arguments": "info", "source": "source"}),
)
_python = PythonEvaluator()


def run_python(example: Example) -> None:
    """Runs the block in its page's namespace, asking the page's server where it names one."""
    text = type(example.parsed)(_shell(example).at_the_server(example.parsed), 0, example.parsed.line_offset)
    example.parsed = text
    _python(example)


def run_bash(example: Example) -> None:
    """Runs the block's commands."""
    _shell(example).run(example.parsed)


def check_json(example: Example) -> None:
    """Fails unless the block is a JSON document, or JSON lines."""
    try:
        json.loads(example.parsed)
    except json.JSONDecodeError:
        for line in example.parsed.splitlines():
            json.loads(line)


def check_recipe(example: Example) -> None:
    """Fails unless the block is a recipe, or a part of one."""
    snippet = SNIPPET.search(example.parsed)
    file = Path("part-of-a-recipe.yaml")
    file.write_text((ROOT / snippet[1]).read_text() if snippet else example.parsed)
    part = yaml.safe_load(file.read_text())
    for section, keys in ANY_RECIPE.items():
        part[section] = keys | part.get(section, {})
    file.write_text(yaml.safe_dump(part, sort_keys=False))
    load_recipe(file)
    file.unlink()


def write_only(example: Example) -> None:
    """A data file: there is nothing to do but to write it."""
    assert "title" in example.region.lexemes, "a block of data needs a title, the name of its file"


RUNNERS = {"python": run_python, "bash": run_bash, "json": check_json, "yaml": check_recipe, "csv": write_only}


def run_block(example: Example) -> None:
    """Writes the block to the file that it is titled with, and runs it, in its page's folder."""
    info, shell = example.region.lexemes, _shell(example)
    runner = RUNNERS.get(info["language"])
    assert runner, f"a block of {info['language'] or 'no language'}: nothing runs it; mark it with a reason or as text"
    with contextlib.chdir(shell.folder):
        if "title" in info:
            Path(info["title"]).write_text(example.parsed)
        runner(example)


def blocks(document: Document) -> Iterable[Region]:
    """Every fenced block of a page that is code, and what is run but not shown."""
    for lexer in _LEXERS:
        for region in lexer(document):
            language, _, attributes = region.lexemes["info"].partition(" ")
            title = re.search(r'title="(.+?)"', attributes)
            lexemes = {"language": language, **({"title": title[1]} if title else {})}
            if language not in NO_CODE:
                yield Region(region.start, region.end, region.lexemes["source"], run_block, lexemes)


def _shell(example: Example) -> Shell:
    return example.namespace["shell"]


DOCUMENTATION = Sybil([blocks, SkipParser()], patterns=["docs/*.md", "*.md"], path=str(ROOT), fixtures=["shell"])
