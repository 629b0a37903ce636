"""Loading recipes: by shipped name or file, with ``section.key=value`` overrides. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from selfjudge.errors import RecipeError
from selfjudge.recipes.schema import Recipe, SourceSection
from selfjudge.recipes.section import ROWS

MAX_VALUES = 10_000
"""Values in a recipe at most, those behind aliases counted as often as they are referred to."""
SHIPPED = Path(__file__).parent / "shipped"


class _Loader(yaml.SafeLoader):
    """Reads as YAML 1.2 and JSON do, and PyYAML's 1.1 does not: ``5e-4`` is a number, ``save_strategy: no`` a word."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """As inherited, but merge keys (``<<``) that multiply one another end in an error."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} merged keys")


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def shipped_recipes() -> list[str]:
    """Returns the names of the recipes in the package."""
    return sorted(p.stem for p in SHIPPED.glob("*.yaml"))


def load_recipe(name_or_file: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Loads a shipped recipe by name, or a YAML file, and applies ``section.key=value`` overrides in order.

    Raises:
        RecipeError: if there is no such recipe, it is not YAML, or it does not validate (key and reason are named).
    """
    name = str(name_or_file)
    path = SHIPPED / f"{name}.yaml" if name in shipped_recipes() else Path(name_or_file)
    if not path.is_file():
        raise RecipeError(
            f"There is no recipe {str(name_or_file)!r}: use one of {', '.join(shipped_recipes())}, or a YAML file."
        )
    try:
        raw = _parse(path.read_text(encoding="utf-8"))
    except _NOT_YAML as e:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(e).split())}.") from e
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} holds no sections: a recipe is a YAML mapping with model, data and so on.")
    raw.setdefault("name", path.stem)
    return _validated(raw, overrides, str(path))


def changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Returns the recipe with ``section.key=value`` overrides applied in order.

    Raises:
        RecipeError: if one is malformed, or the outcome does not validate.
    """
    return _validated(recipe.model_dump(mode="json"), overrides, recipe.name)


def of_rows(recipe: Recipe) -> Recipe:
    """Returns the recipe of a run on rows given in Python: its source, read as before, has the path ``rows``.

    Raises:
        RecipeError: it has several sources.
    """
    if len(recipe.data.sources) > 1:
        raise RecipeError(
            f"{recipe.name}: rows take the place of data.sources, and there are {len(recipe.data.sources)}; leave one, "
            "which says how the rows are read."
        )
    kept = recipe.data.sources[0].model_dump(exclude={"path", "subset", "split"})
    return recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"sources": [SourceSection(path=ROWS, **kept)]})}
    )


# Besides YAMLError: what is not UTF-8, a date that is none, a number of thousands of digits; deep nesting; and what
# cannot be a key, which the library does not always tell.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError, TypeError)


def _parse(text: str) -> Any:
    """Returns what YAML holds; raises one of _NOT_YAML."""
    content = yaml.load(text, _Loader)
    waiting, values = [content], 0
    while waiting:
        value = waiting.pop()
        values += 1
        if values > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(f"{value!r} is no text, number or truth value: put it in quotes if it is a text")
    return content


def _validated(raw: dict[str, Any], overrides: Sequence[str], name: str) -> Recipe:
    for override in overrides:
        _apply(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as e:
        raise RecipeError(f"{name}: {_explain(e.errors()[0])}") from e


def dump_recipe(recipe: Recipe) -> str:
    """Returns the recipe as YAML with every setting spelled out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(f"--set {override!r} is not of the form section.key=value.")
    try:
        value = _parse(text)
    except _NOT_YAML as e:
        raise RecipeError(f"--set {override!r}: the value is not valid YAML.") from e
    *parents, last = parts
    place: Any = raw
    for part in parents:
        place = place[_index(place, part, override)] if isinstance(place, list) else _section(place, part, override)
    if isinstance(place, list):
        place[_index(place, last, override)] = value
    else:
        place[last] = value


def _section(place: dict[str, Any], part: str, override: str) -> Any:
    if place.get(part) is None:
        place[part] = {}
    if not isinstance(place[part], dict | list):
        raise RecipeError(f"--set {override!r}: {part!r} is a value, not a section.")
    return place[part]


def _index(place: list[Any], part: str, override: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(place):
        raise RecipeError(f"--set {override!r}: {part!r} is not an index into a list of {len(place)}.")
    return int(part)


def _explain(error: ErrorDetails) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":  # our own, of settings that contradict each other
        return str(error["ctx"]["error"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(known)}."
        return f"unknown key {where!r}; {hint}"
    if error["type"] == "missing":
        return f"the key {where!r} is missing; add it."
    return f"{where!r}: {error['msg'][0].lower()}{error['msg'][1:]}, got {error['input']!r}."


def _known_keys(location: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in map(str, location):
        if part in model.model_fields:  # not an index, nor a user's own name
            model = _model_of(model.model_fields[part].annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """Returns the section behind ``X``, ``X | None``, ``list[X]`` or ``dict[str, X]``."""
    if get_origin(annotation) in (Union, UnionType, list, dict):
        return next(filter(None, map(_model_of, get_args(annotation))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
