"""Judgment templates: text files with sections, filled in one pass.

A template set is a folder; each ``.txt`` file in it is one principle, named after the file. A file has the sections
``[system]`` (optional), ``[user]`` with ``{context}``, ``{response_a}`` and ``{response_b}``, ``[assistant]`` with
``{label}`` where the decision falls, and ``[rationale]`` (optional) with ``{rationale_a}`` and ``{rationale_b}``,
which continues the assistant's answer after the label.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from selfjudge.errors import TemplateError
from selfjudge.records import Message

SETS = Path(__file__).parent / "sets"
_SECTION = re.compile(r"^\[(\w+)\]\s*$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"[^\W_]+")
_LINE_ENDS = "\n\r\v\f\x85\u2028\u2029"
_LINE = re.compile(f"[^{_LINE_ENDS}]*[{_LINE_ENDS}]|[^{_LINE_ENDS}]+")
_PLAIN = re.compile(r"[\t\n\r\x20-\x7e]*")
_MARKUP = rf"(?:[^\w{_LINE_ENDS}]|_)*"
_MAX_HEADING_WORDS = 6
_REQUIRED: dict[str, tuple[str, ...]] = {
    "system": (),
    "user": ("context", "response_a", "response_b"),
    "assistant": ("label",),
    "rationale": ("rationale_a", "rationale_b"),
}
_ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class JudgmentTemplate:
    """One principle's template. ``prefix`` is the assistant's text before the label, ``suffix`` the text after it."""

    principle: str
    system: str
    user: str
    prefix: str
    suffix: str
    rationale: str

    def messages(self, context: str, response_a: str, response_b: str) -> tuple[Message, ...]:
        """Returns the system (where there is one) and user message of the judgment prompt.

        Inserted text is never scanned for placeholders, and a line of it that reads like one of the template's own
        headings is quoted with ``> ``, so that a response cannot pose as another section of the prompt.
        """
        return self.filled(self.quoted(context), self.quoted(response_a), self.quoted(response_b))

    def quoted(self, text: str) -> str:
        """Returns a text with every line quoted that reads like one of the template's own headings."""
        return quote_headings(text, _headings(self.user))

    def filled(self, context: str, response_a: str, response_b: str) -> tuple[Message, ...]:
        """Returns the messages of :meth:`messages` from texts that :meth:`quoted` has returned."""
        values = {"context": context, "response_a": response_a, "response_b": response_b}
        user = Message(role="user", content=_fill(self.user, values))
        return (Message(role="system", content=self.system), user) if self.system else (user,)

    def rationale_text(self, rationale_a: str, rationale_b: str) -> str:
        """Returns what follows the label when a rationale is trained: a blank line, then the evaluations."""
        values = {"rationale_a": rationale_a.strip(), "rationale_b": rationale_b.strip()}
        return f"{self.suffix}\n\n{_fill(self.rationale, values)}"


@dataclass(frozen=True)
class TemplateSet:
    """A named set of templates, one per principle, in alphabetical order of the principles."""

    name: str
    folder: Path
    templates: tuple[JudgmentTemplate, ...]

    def principle(self, name: str) -> JudgmentTemplate | None:
        """Returns the template of a principle, or None where the set has none."""
        return next((t for t in self.templates if t.principle == name), None)


def load_templates(name_or_path: str | Path) -> TemplateSet:
    """Loads a shipped set by name, or a folder of ``.txt`` files.

    Raises:
        TemplateError: if there is no such set, or a file lacks a section or placeholder (both are named).
    """
    folder = SETS / str(name_or_path) if str(name_or_path) in shipped_sets() else Path(name_or_path)
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise TemplateError(
            f"There is no template set {str(name_or_path)!r}: use one of {', '.join(shipped_sets())}, "
            "or the path of a folder that holds one .txt file per principle."
        )
    return TemplateSet(name=folder.resolve().name, folder=folder, templates=tuple(parse_template(f) for f in files))


def shipped_sets() -> list[str]:
    """Returns the names of the template sets in the package."""
    return sorted(p.name for p in SETS.iterdir() if p.is_dir())


def parse_template(path: Path) -> JudgmentTemplate:
    """Reads one template file.

    Raises:
        TemplateError: naming the file and the missing or unknown section or placeholder.
    """
    sections = _sections(path)
    for name in ("user", "assistant"):
        if name not in sections:
            raise TemplateError(f"{path}: the section [{name}] is missing; add it.")
    for name, text in sections.items():
        _check_placeholders(path, name, text)
    before, after = sections["assistant"].split("{label}")
    return JudgmentTemplate(
        principle=path.stem,
        system=sections.get("system", ""),
        user=sections["user"],
        prefix=before,
        suffix=after,
        rationale=sections.get("rationale", ""),
    )


def _sections(path: Path) -> dict[str, str]:
    try:
        parts = _SECTION.split(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise TemplateError(f"{path} cannot be read as UTF-8 text: save it as such.") from e
    if parts[0].strip():
        raise TemplateError(f"{path}: text before the first section; start the file with [system] or [user].")
    sections: dict[str, str] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name not in _REQUIRED:
            raise TemplateError(f"{path}: unknown section [{name}]; the sections are {', '.join(_REQUIRED)}.")
        if name in sections:
            raise TemplateError(f"{path}: the section [{name}] stands twice; keep one.")
        sections[name] = text.strip("\n")
    return sections


def _check_placeholders(path: Path, section: str, text: str) -> None:
    required, found = _REQUIRED[section], _PLACEHOLDER.findall(text)
    for name in required:
        if found.count(name) != 1:
            what = "is missing" if name not in found else "stands more than once"
            raise TemplateError(
                f"{path}: the placeholder {{{name}}} {what} in section [{section}]; it must stand once."
            )
    unknown = [name for name in found if name not in required]
    if unknown:
        raise TemplateError(f"{path}: unknown placeholder {{{unknown[0]}}} in section [{section}]; remove it.")


def _fill(text: str, values: dict[str, str]) -> str:
    # One pass over the template's own text: what is inserted is never looked at again.
    return _PLACEHOLDER.sub(lambda m: values[m.group(1)], text)


@dataclass(frozen=True)
class Headings:
    """Recognises lines that read like a heading. ``plain`` is for lines of ASCII text, ``disguised`` for any other."""

    plain: re.Pattern[str]
    disguised: re.Pattern[str]

    def begin(self, line: str) -> bool:
        """Whether a line reads like a heading, or would if its look-alike and invisible characters were undone."""
        if _PLAIN.fullmatch(line):
            return self.plain.match(line) is not None
        return self.disguised.match(unicodedata.normalize("NFKD", line)) is not None


@lru_cache(maxsize=256)
def _headings(user: str) -> Headings | None:
    """Returns what recognises the template's own headings (its short lines, without the inserted text) in a text."""
    literal = (heading_words(_PLACEHOLDER.sub("", line)) for line in user.splitlines())
    return heading_lines({words for words in literal if 0 < len(words) <= _MAX_HEADING_WORDS})


def heading_words(line: str) -> tuple[str, ...]:
    """Returns the words of a line, without its markup."""
    return tuple(_WORD.findall(line))


def heading_lines(headings: Collection[tuple[str, ...]]) -> Headings | None:
    """Returns what recognises lines that read like one of the headings (given as words), whatever their markup.

    ``Response B:``, ``**response b**`` and ``### RESPONSE_B`` all match the words (Response, B); a sentence that
    merely begins with those words does not, as a heading is followed by punctuation or the end of the line. So do full
    width and other forms that Unicode calls compatible, accents, and invisible characters within a word.
    """
    if not headings:
        return None
    letters = [list(unicodedata.normalize("NFKD", "".join(words))) for words in headings]
    return Headings(_pattern(headings), _pattern([[c for c in word if c.isalnum()] for word in letters]))


def _pattern(headings: Collection[Sequence[str]]) -> re.Pattern[str]:
    alternatives = "|".join(_MARKUP.join(map(re.escape, parts)) for parts in sorted(map(tuple, headings)))
    return re.compile(
        rf"{_MARKUP}(?:{alternatives})(?=[^\S{_LINE_ENDS}]*(?:$|[{_LINE_ENDS}]|[^\w\s]|_))",
        re.IGNORECASE,
    )


def quote_headings(text: str, headings: Headings | None) -> str:
    """Puts ``> `` before every line of ``text`` that reads like a heading."""
    if headings is None:
        return text
    return "".join(f"> {line}" if headings.begin(line) else line for line in _LINE.findall(text))


_ROLE_HEADINGS = heading_lines([(name,) for name in (*_ROLE_NAMES.values(), "Human")])


def context_text(prompt: tuple[Message, ...]) -> str:
    """Returns the prompt as the judge reads it: the bare instruction, or the dialogue with its roles named.

    In a dialogue, a line of a message that reads like a role name is quoted: it is text, not a turn.
    """
    if len(prompt) == 1:
        return prompt[0].content.strip()
    turns = ((_ROLE_NAMES[m.role], m.content.strip()) for m in prompt)
    return "\n\n".join(f"{role}: {quote_headings(text, _ROLE_HEADINGS)}" for role, text in turns)
