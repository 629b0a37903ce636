"""The layer order and the sizes that the architecture fixes, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import selfjudge

PACKAGE = Path(selfjudge.__file__).parent
# Imports point from left to right only.
LAYERS = (
    *("cli", "serving", "client", "study", "evaluation", "benchmarks", "baselines", "training", "sampler"),
    *("tournament", "packed_questions", "judge", "engines", "data"),
    *("world", "templates", "recipes", "core", "replies", "records", "errors"),
)
# Functions that are longer than 50 lines, as module.function, each with a reason to be.
LONG_FUNCTIONS = {
    "selfjudge.cli.serve.serve",  # nearly all of it declares the command's options
}


def modules() -> dict[str, Path]:
    """Module name → file, the facade left out."""
    files = (f for f in PACKAGE.rglob("*.py") if f != PACKAGE / "__init__.py")
    names = {f: ".".join(("selfjudge", *f.relative_to(PACKAGE).with_suffix("").parts)) for f in files}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Every module that a source imports, wherever in it; of ``from x import y`` both x and x.y."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*package, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def upward(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What a module imports from a layer above its own, or through the facade, which stands above all."""
    layer = LAYERS.index(module.split(".")[1])
    ours = [name.split(".") for name in imports(source, module, is_package=is_package) if name.startswith("selfjudge.")]
    below = {*LAYERS[layer:], "__version__"}
    return [".".join(name) for name in ours if name[1] not in below]


def source_of(module: str) -> str:
    return modules()[module].read_text(encoding="utf-8")


def imported(module: str) -> set[str]:
    """The top-level packages that a module names in its imports."""
    return {name.split(".")[0] for name in imports(source_of(module), module)}


def loaded_by(*names: str) -> set[str]:
    """The top-level packages that importing our modules really loads, in a fresh interpreter."""
    code = f"import sys, {', '.join(names)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", modules())
def test_imports_point_downwards(module: str) -> None:
    assert module.split(".")[1] in LAYERS, "a new layer: put it into LAYERS and into the architecture"
    is_package = modules()[module].name == "__init__.py"
    assert upward(source_of(module), module, is_package=is_package) == []


@pytest.mark.parametrize(
    "line",
    [
        "from selfjudge.judge import Judge",
        "import selfjudge.judge as j",
        "from selfjudge import judge",
        "from .. import judge",
        "from ..judge import Judge",
        "def f():\n    from selfjudge.judge import Judge",
        "from selfjudge import Judge",
        "import importlib\nimportlib.import_module('selfjudge.judge')",
    ],
)
def test_the_check_sees_every_way_to_import_upwards(line: str) -> None:
    assert upward(line, "selfjudge.core.verdict")
    if line != "from selfjudge import Judge":  # the facade is out of bounds for all
        assert not upward(line, "selfjudge.training.pairs")


def test_core_is_pure() -> None:
    for module in (m for m in modules() if m.startswith("selfjudge.core")):
        assert not imported(module) & {"transformers", "pathlib", "os", "io", "json", "logging", "sys", "subprocess"}
        names = {n.id for n in ast.walk(ast.parse(source_of(module))) if isinstance(n, ast.Name)}
        assert not names & {"open", "print", "input"}, module
    assert "transformers" not in loaded_by(*(m for m in modules() if m.startswith("selfjudge.core")))


def test_recipes_and_records_load_without_torch() -> None:
    loaded = loaded_by("selfjudge.recipes.load", "selfjudge.recipes.schema", "selfjudge.records", "selfjudge.errors")
    assert "selfjudge" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "peft", "accelerate"}


def test_judge_and_tournament_know_the_engine_protocol_only() -> None:
    behind = {"transformers", "torch", "peft", "vllm", "httpx", "openai"}
    for module in ("selfjudge.judge", "selfjudge.tournament", "selfjudge.engines.base"):
        assert not imported(module) & behind, module
    assert not loaded_by("selfjudge.judge", "selfjudge.tournament") & behind


def test_trl_stays_out_of_core_judge_and_training() -> None:
    for module in modules():
        if module.split(".")[1] in ("core", "judge", "training"):
            assert "trl" not in imported(module), module


def test_files_and_functions_stay_short() -> None:
    long: set[str] = set()
    for module, file in modules().items():
        source = file.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 500, module
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 50:
                    long.add(f"{module}.{node.name}")
    assert long == LONG_FUNCTIONS
