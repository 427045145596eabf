"""Recipes from TOML: presets load, mistakes are named."""

import json
from pathlib import Path

import pytest
from xlmstream_worker.training.optimizer import learning_rate
from xlmstream_worker.training.recipe import RecipeError, Schedule, load_recipe, preset_names, recipe_from, to_document

MINIMAL = """
name = "x"
languages = ["en"]
[architecture]
emb_dim = 8
n_layers = 1
n_heads = 2
[objectives.clm]
[schedule]
steps = 300
"""


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_survive_json(name: str) -> None:
    recipe = load_recipe(name)
    # A later stage of a model trains a model of that name.
    assert recipe.name == name.removesuffix("-ranking").removesuffix("-heads")
    assert recipe_from(json.loads(json.dumps(to_document(recipe)))) == recipe


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("steps = 300", "steps = 300\nstepps = 3", "schedule: unknown field 'stepps'"),
        ("emb_dim = 8", "emb_dim = 9", "n_heads must divide emb_dim"),
        ("emb_dim = 8", 'emb_dim = "8"', "architecture.emb_dim: int is needed"),
        ("emb_dim = 8", "", "architecture: .*emb_dim"),
        (
            "[objectives.clm]",
            "[objectives.xyz]",
            "ranking, translation, language, tags, ruled_tags, entities, answers are known",
        ),
        (
            "[objectives.clm]",
            "[objectives.clm]\n[objectives.mlm]",
            "objectives: clm, translation train alone",
        ),
        (
            "[objectives.clm]",
            "[objectives.tags]\n[objectives.entities]",
            "several heads share a body, which needs mlm or tlm",
        ),
        (
            "[objectives.clm]",
            "[objectives.mlm]\n[objectives.tags]\n[objectives.ruled_tags]",
            "tags and ruled_tags train the same head",
        ),
        ("[objectives.clm]", "[objectives.tlm]", "tlm, ranking, translation and language need more than one"),
        ("[objectives.clm]", "", "at least one is needed"),
        ("[objectives.clm]", "[objectives.clm]\nsmoothing = 1.0", "smoothing must lie in"),
        ('name = "x"', 'name = "x"\ninit_decoder = "y"', "init_decoder: only a translation model"),
        ('["en"]', '["en", "en"]', "without repetition"),
        ('["en"]', '"en"', "languages: a list of strings is needed"),
        ("steps = 300", "steps = 300\nhold = 2", "hold must lie in"),
        ("steps = 300", "steps = 300\nwarmup_steps = 300", "steps must exceed warmup_steps"),
        ('name = "x"', "name = x", "odd.toml: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    load_recipe(str(path))
    path.write_text(MINIMAL.replace(old, new), encoding="utf-8")
    with pytest.raises(RecipeError, match=problem):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_presets() -> None:
    with pytest.raises(RecipeError, match="xlm-clm-demo"):
        load_recipe("xlm-nothing")


def test_learning_rate_rises_holds_and_falls_to_zero() -> None:
    schedule = Schedule(steps=110, peak_lr=1.0, warmup_steps=10, hold=0.5)
    rates = [learning_rate(schedule, step) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:61] == [1.0] * 51
    assert rates[85] == pytest.approx(0.5)
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_a_held_run_can_be_prolonged_before_it_decays() -> None:
    short = Schedule(steps=100, peak_lr=1.0, warmup_steps=10, hold=0.5)
    long = Schedule(steps=400, peak_lr=1.0, warmup_steps=10, hold=0.5)
    assert [learning_rate(short, step) for step in range(55)] == [learning_rate(long, step) for step in range(55)]
