"""Recipes: what ships, what the published settings are, and how a bad recipe is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from selfjudge.errors import RecipeError
from selfjudge.recipes.load import SHIPPED, dump_recipe, load_recipe, shipped_recipes
from selfjudge.recipes.schema import Recipe
from selfjudge.templates.template import load_templates

PUBLISHED = ("llama2-7b-hh-helpful", "llama2-7b-ultrafeedback", "llama2-7b-ultrafeedback-principles")
MINIMAL = {"model": {"path": "m"}, "data": {"sources": [{"path": "d.jsonl"}]}}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to_file(content: Any, name: str = "mine") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return path

    return to_file


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    load_templates(recipe.templates.set)
    # Every setting spelled out and read again is the same recipe.
    assert Recipe.model_validate(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_the_promised_recipes_ship() -> None:
    assert {"demo", *PUBLISHED} <= set(shipped_recipes())
    assert all((SHIPPED / f"{name}.yaml").is_file() for name in shipped_recipes())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.path == "meta-llama/Llama-2-7b-hf"
    assert recipe.data.max_length == 2048
    jsft = recipe.jsft.training
    assert recipe.jsft.lora is None  # JSFT trains all weights
    assert recipe.jsft.rows == "both"
    assert recipe.jsft.judgment_weight == 1.0
    assert (jsft["learning_rate"], jsft["lr_scheduler_type"], jsft["warmup_steps"]) == (2e-5, "cosine", 0.03)
    assert (jsft["num_train_epochs"], jsft["bf16"]) == (1, True)
    assert jsft["per_device_train_batch_size"] * jsft["gradient_accumulation_steps"] == 128
    section = recipe.self_training
    train = section.training
    assert (section.loss, section.labels, section.beta) == ("sigmoid", "hard", 0.1)
    assert section.lora is not None
    assert (section.lora.r, section.lora.alpha, section.lora.dropout) == (8, 16, 0.1)
    rollout = section.rollout
    assert (rollout.temperature, rollout.top_p, rollout.max_new_tokens, rollout.steps) == (1.0, 0.9, 768, 1)
    assert (train["learning_rate"], train["warmup_steps"], train["num_train_epochs"]) == (5e-6, 0.1, 3)
    assert (train["lr_scheduler_type"], train["bf16"]) == ("constant_with_warmup", True)
    assert train["per_device_train_batch_size"] * train["gradient_accumulation_steps"] == 64


def test_the_published_data() -> None:
    hh, ultra, principles = (load_recipe(name) for name in PUBLISHED)
    base, online = hh.data.sources
    assert (base.path, base.subset, base.use) == (
        "Anthropic/hh-rlhf",
        "helpful-base",
        ["policy", "judgment", "prompts"],
    )
    assert (online.subset, online.use) == ("helpful-online", ["policy"])
    assert (hh.data.tie_rule, hh.templates.set, hh.templates.rationale) == ("drop", "hh-helpful", False)
    for recipe in (ultra, principles):
        assert [s.path for s in recipe.data.sources] == ["openbmb/UltraFeedback"]
        assert recipe.data.tie_rule == "longer"
    assert (ultra.data.pairs, ultra.templates.set, ultra.templates.rationale) == ("overall", "ultrafeedback", False)
    assert (principles.data.pairs, principles.templates.set) == ("per_principle", "ultrafeedback-principles")
    assert principles.templates.rationale is True


def test_our_defaults_are_the_published_method(write: Any) -> None:
    recipe = load_recipe(write(MINIMAL))
    assert recipe.name == "mine"  # a recipe without a name is called like its file
    assert (recipe.data.tie_rule, recipe.self_training.labels, recipe.self_training.loss) == ("drop", "hard", "sigmoid")
    assert recipe.self_training.stop.model_dump(exclude={"window"}) == dict.fromkeys(
        ("max_kl", "max_length_ratio", "min_agreement", "min_judge_agreement")
    )


def change(**parts: Any) -> dict[str, Any]:
    return {**MINIMAL, **parts}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change(jfst={}), r"unknown key 'jfst'; did you mean 'jsft'\?"),
        (change(jsft={"lorra": None}), r"unknown key 'jsft\.lorra'; did you mean 'lora'\?"),
        (
            change(self_training={"lora": {"alhpa": 3}}),
            r"unknown key 'self_training\.lora\.alhpa'; did you mean 'alpha'\?",
        ),
        (
            change(data={"sources": [{"path": "x", "splt": "y"}]}),
            r"unknown key 'data\.sources\.0\.splt'; did you mean 'split'\?",
        ),
        (change(judge={"zzzz": 1}), r"unknown key 'judge\.zzzz'; the keys here are token_budget, batch_size"),
        ({"data": MINIMAL["data"]}, r"the key 'model' is missing"),
        (change(data={"sources": []}), r"'data\.sources': .*at least 1 item"),
        (change(self_training={"beta": -1}), r"'self_training\.beta': .*greater than 0, got -1"),
        (change(self_training={"loss": "kto"}), r"'self_training\.loss': .*'sigmoid', 'hinge' or 'ipo', got 'kto'"),
        (
            change(self_training={"loss": "ipo", "length_penalty": 0.01}),
            r"self_training\.length_penalty is added to .*self_training\.loss=ipo averages [^.]*: set [^.]*\.$",
        ),
        (change(self_training={"rollout": {"top_p": 1.1}}), r"'self_training\.rollout\.top_p'"),
        (change(data={**MINIMAL["data"], "held_out": 1}), r"'data\.held_out'"),
        ("- a\n- b\n", "holds no sections"),
        ("", "holds no sections"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_bad_recipe_is_explained(write: Any, content: Any, message: str) -> None:
    path = write(content)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_no_such_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'llama3'.*demo.*llama2-7b-hh-helpful.*YAML file"):
        load_recipe("llama3")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xfc")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("self_training.beta=0.3", ("self_training", "beta"), 0.3),
        ("self_training.lora=null", ("self_training", "lora"), None),
        ("self_training.lora.r=64", ("self_training", "lora", "r"), 64),
        ("self_training.rollout={temperature: 0.7}", ("self_training", "rollout", "temperature"), 0.7),
        ("jsft.lora.r=4", ("jsft", "lora", "r"), 4),  # a section that was not there
        ("jsft.training.save_strategy=no", ("jsft", "training", "save_strategy"), "no"),
        ("jsft.training.bf16=true", ("jsft", "training", "bf16"), True),
        ("jsft.training.learning_rate=1.0e-4", ("jsft", "training", "learning_rate"), 1e-4),
        ("jsft.training.max_steps=3", ("jsft", "training", "max_steps"), 3),
        ("data.sources.1.limit=10", ("data", "sources", 1, "limit"), 10),
        ("data.sources=[{path: a.jsonl}]", ("data", "sources", 0, "path"), "a.jsonl"),
        ("data.sources.0.use=[policy]", ("data", "sources", 0, "use"), ["policy"]),
        ("templates.set=a=b", ("templates", "set"), "a=b"),  # only the first = parts key and value
        (" seed = 7", ("seed",), 7),
    ],
)
def test_an_override_wins_and_changes_nothing_else(override: str, path: tuple[Any, ...], value: Any) -> None:
    def at(recipe: Recipe, keys: tuple[Any, ...]) -> Any:
        found: Any = recipe.model_dump()
        for key in keys:
            found = found[key]
        return found

    recipe, before = load_recipe(PUBLISHED[0], [override]), load_recipe(PUBLISHED[0])
    assert at(recipe, path) == value
    for section in Recipe.model_fields:
        if section != path[0]:
            assert getattr(recipe, section) == getattr(before, section)


def test_the_last_override_wins() -> None:
    assert load_recipe("demo", ["seed=1", "seed=2"]).seed == 2
    lora = load_recipe("demo", ["self_training.lora=null", "self_training.lora.r=4"]).self_training.lora
    assert lora is not None
    assert lora.r == 4  # a section that was null


def test_rollouts_beside_training(write: Any) -> None:
    overrides = ["self_training.rollout.async=1", "self_training.engine=vllm"]
    recipe = load_recipe(write(MINIMAL), overrides)
    assert recipe.self_training.rollout.ahead == 1
    assert load_recipe(write(MINIMAL)).self_training.rollout.ahead == 0
    # A key of YAML is not a word of Python; what is written down has the key.
    written = yaml.safe_load(dump_recipe(recipe))
    assert written["self_training"]["rollout"]["async"] == 1
    assert load_recipe(write(written, "written")) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "not of the form section.key=value"),
        ("self_training.rollout.asnyc=1", r"unknown key 'self_training\.rollout\.asnyc'; did you mean 'async'\?"),
        ("self_training.rollout.async=2", r"'self_training\.rollout\.async': .*less than or equal to 1"),
        (
            "self_training.rollout.async=1",
            r"yaml: self_training\.rollout\.async=1 needs self_training\.engine=vllm or openai, [^.]*: set [^.]*\.$",
        ),
        ("=3", "not of the form"),
        ("jsft..lora=3", "not of the form"),
        ("seed=[1", "not valid YAML"),
        ("seed.x=1", "'seed' is a value, not a section"),
        ("data.sources.7.limit=1", "'7' is not an index into a list of 2"),
        ("data.sources.first.limit=1", "'first' is not an index"),
        ("self_training.btea=1", r"unknown key 'self_training\.btea'; did you mean 'beta'\?"),
        ("seed=many", "'seed'"),
        ("self_training.beta=0", "greater than 0"),
    ],
)
def test_a_bad_override_is_explained(override: str, message: str) -> None:
    overrides = ["seed=5", override] if override.startswith("seed.") else [override]
    with pytest.raises(RecipeError, match=message):
        load_recipe(PUBLISHED[0], overrides)
