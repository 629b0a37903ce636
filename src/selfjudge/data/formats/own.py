"""A format of the user's own: a function that takes a row and gives its pairs."""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from selfjudge.data.formats.base import Dropped, Format, Pairing, Parsed, Row, invalid, make_record, own_id
from selfjudge.data.formats.cells import read_turns
from selfjudge.data.formats.messages import Reject, clean_text, user_message
from selfjudge.data.io import json_type
from selfjudge.data.plain import plain
from selfjudge.errors import DataError
from selfjudge.records import OVERALL, Message, PreferenceRecord

Pair: TypeAlias = PreferenceRecord | Mapping[str, Any]
Parse: TypeAlias = Callable[[dict[str, Any]], Pair | Iterable[Pair] | None]
"""Takes a row and gives its pairs: one, several, or none. It raises Reject to drop the row."""

NOTHING = "the function gave no pair"
_NEEDED = ("prompt", "chosen", "rejected")
_TEXTS = ("principle", "chosen_rationale", "rejected_rationale", "source")


class ReadRow(dict[str, Any]):
    """A row that notes which of its columns are read."""

    def __init__(self, data: Mapping[str, Any], read: set[str]) -> None:
        """Takes the row's columns, and where to note the names of those that are read."""
        super().__init__(data)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        """Returns a column."""
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a column, or the default."""
        self._read.add(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Removes a column and returns it."""
        self._read.add(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[str]:
        """Yields the names; all columns then count as read."""
        self._read.update(self.keys())
        return super().__iter__()

    def items(self) -> Any:
        """Returns names and columns, all of which then count as read."""
        self._read.update(self.keys())
        return super().items()

    def values(self) -> Any:
        """Returns the columns, all of which then count as read."""
        self._read.update(self.keys())
        return super().values()

    def copy(self) -> dict[str, Any]:
        """Returns a plain dict of the columns, all of which then count as read."""
        return dict(self.items())


@dataclass(frozen=True)
class OwnFormat:
    """A function that reads rows, how it is called, and a hash of its code: None where the code is not known."""

    name: str
    function: Parse
    code: str | None

    def of(self, origin: str, position: str) -> Format:
        """The format for a source. ``origin`` and ``position`` (``line``, ``row``) name a row of it in messages."""

        def parse(row: Row, pairing: Pairing) -> Parsed:
            where = f"{origin}, {position} {row.line}: {self.name}"
            count = 0
            for item in _pairs(self.function, row, where):
                count += 1
                try:
                    yield _record(row, item, where, "" if count == 1 else f":{count}")
                except Reject as error:
                    yield Dropped(row.id, row.line, str(error))
            if not count:
                raise Reject(NOTHING)

        return Format(self.name, (), lambda data: True, parse)


def own_format(format: str | Parse) -> OwnFormat | None:
    """The format of a function or of its name ``module:function``; None for any name without a colon.

    The module is one of the user's own, such as a file in the current folder.

    Raises:
        DataError: the module cannot be imported, is not the user's own, or has no such function.
    """
    if isinstance(format, str):
        if ":" not in format:
            return None
        module, _, name = format.partition(":")
        function = _imported(module, name, f"format {format}")
        return OwnFormat(format, function, _code(function, module) if isinstance(function, Hashable) else None)
    if not callable(format):
        raise DataError(f"a format is a name or a function, not {json_type(format)}; give one of them.")
    home, called = getattr(format, "__module__", None), getattr(format, "__qualname__", None)
    at_hand = home in sys.modules and called is not None and getattr(sys.modules[home], called, None) is format
    return OwnFormat(f"{home}:{called or type(format).__name__}", format, _code(format, home) if at_hand else None)


def _imported(module: str, name: str, format: str) -> Parse:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end, so that no file here stands in for an installed package
    _check_module(module.partition(".")[0], format)
    try:
        found = import_module(module)
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise DataError(
                f"{format}: there is no module {error.name} in this folder or among the installed packages; correct "
                f"the name, or run the command where {error.name.partition('.')[0]}.py is."
            ) from None
        raise DataError(f"{format}: {module} cannot be imported ({_told(error)}); correct the module.") from error
    function = getattr(found, name, None)
    if not callable(function):
        own = [key for key, item in vars(found).items() if callable(item) and getattr(item, "__module__", "") == module]
        what = f"has no {name!r}" if function is None else f"has {name!r}, which is not a function"
        raise DataError(f"{format}: {module} {what}; name one of its functions ({', '.join(own) or 'it has none'}).")
    return function  # type: ignore[no-any-return]


def _check_module(top: str, format: str) -> None:
    """Passes the user's own modules. A recipe from elsewhere could name ``subprocess:run``, and its data the command.

    Raises:
        DataError: the module is one of the standard library, of an installed package or of this one.
    """
    try:
        spec = find_spec(top) if top else None
    except ValueError:  # a module that was made by hand
        return
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    installed = any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)
    if installed or top in sys.stdlib_module_names or top == "selfjudge":
        raise DataError(
            f"{format}: {top} is an installed package, and only functions of your own modules can be named; import the "
            "function in a module in this folder, and name that module."
        )


@cache
def _code(function: Parse, module: str) -> str | None:
    """A hash of the files that a function is from, as they were when it was first asked for."""
    names = sorted({module, getattr(function, "__module__", None) or module})
    files = [getattr(sys.modules.get(name), "__file__", None) for name in names]
    if not all(file and Path(file).is_file() for file in files):
        return None
    return hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in files)).hexdigest()


def _pairs(function: Parse, row: Row, where: str) -> Iterator[Any]:
    """Yields what the function gives for a row. An error of its own is a DataError that names the row."""
    try:
        found = function(ReadRow(row.data, row.read))
        if isinstance(found, PreferenceRecord | Mapping | str) or not isinstance(found, Iterable | None):
            yield found
        else:
            yield from found or ()
    except Reject:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is this one
        at = [f" at line {frame.lineno} of {Path(frame.filename).name}" for frame in frames]
        own = [text for text, frame in zip(at, frames, strict=True) if frame.filename == frames[0].filename]
        raise DataError(
            f"{where} raised {_told(error)}{own[-1] if own else ''}; correct the function, or let it raise "
            "selfjudge.Reject to drop the row."
        ) from error


def _record(row: Row, item: Any, where: str, suffix: str) -> PreferenceRecord:
    if not isinstance(item, PreferenceRecord | Mapping):
        raise DataError(f"{where} gave {json_type(item)}; return mappings with {', '.join(_NEEDED)}.")
    given = {name: plain(value) for name, value in dict(item).items()}
    unknown = sorted(map(str, given.keys() - PreferenceRecord.model_fields.keys()))
    missing = [name for name in _NEEDED if name not in given]
    if missing or unknown:
        what = f"no {missing[0]!r}" if missing else f"the unknown key {unknown[0]!r}"
        raise DataError(f"{where} gave a pair with {what}; the keys are {', '.join(PreferenceRecord.model_fields)}.")
    more = {name: clean_text(given[name], name) for name in _TEXTS if given.get(name) is not None}
    try:
        record = make_record(
            row,
            _prompt(row, given["prompt"]),
            _answer(given, "chosen"),
            _answer(given, "rejected"),
            principle=more.get("principle", OVERALL),
            rationales=(more.get("chosen_rationale"), more.get("rejected_rationale")),
            strength=given.get("strength"),
            id_suffix=suffix,
        )
    except ValidationError as error:
        raise invalid(error) from None
    named = {"id": own_id(given) or record.id, "source": more.get("source") or record.source}
    return record.model_copy(update=named)


def _prompt(row: Row, value: Any) -> tuple[Message, ...]:
    return user_message(value) if isinstance(value, str) else read_turns(row, value, "prompt", "user")


def _answer(given: Mapping[str, Any], name: str) -> str:
    if given[name] is None:
        raise Reject(f"no {name}")
    return clean_text(given[name], name)


def _told(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0].rstrip('.')}" if said else type(error).__name__
