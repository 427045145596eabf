"""The loop: each objective learns, stopping and resuming changes nothing, crashes lose no checkpoint."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from xlmstream_worker.training.checkpoint import Stage, load_state, read_stages
from xlmstream_worker.training.models import new_model
from xlmstream_worker.training.optimizer import build_optimizers
from xlmstream_worker.training.pipeline import run_recipe
from xlmstream_worker.training.recipe import Recipe
from xlmstream_worker.training.trainer import Sitting, read_log
from xlmstream_worker.xlm import XLMTokenizer, XLMWithLMHeadModel

MakeRecipe = Callable[..., Recipe]
SCHEDULE = {"steps": 60, "warmup_steps": 5, "peak_lr": 1e-2}


def weights(run: Path, recipe: Recipe) -> dict[str, torch.Tensor]:
    model = new_model(recipe, XLMTokenizer.from_pretrained(run / "tokenizer"))
    load_state(run, model, build_optimizers(model, recipe.schedule))
    return model.state_dict()


@pytest.mark.parametrize(
    ("objectives", "name", "below"),
    [
        ({"clm": {"batch_tokens": 256}}, "clm", 0.75),
        ({"mlm": {"batch_tokens": 512}}, "mlm", 0.9),
        ({"tlm": {"batch_tokens": 512}}, "tlm", 0.9),
        ({"ranking": {"batch_pairs": 24}}, "ranking", 0.7),
        ({"translation": {"batch_tokens": 512, "smoothing": 0.1}}, "translation", 0.8),
    ],
)
def test_the_loss_of_each_objective_falls(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe, objectives: dict[str, object], name: str, below: float
) -> None:
    recipe = make_recipe(objectives=objectives, schedule=SCHEDULE)
    progress = run_recipe(recipe, [toy_file], tmp_path, Sitting())
    lines = read_log(tmp_path)
    trained = [line["train"][name] for line in lines if "train" in line]
    held_out = [sum(line["valid"].values()) / len(line["valid"]) for line in lines if "valid" in line]
    assert progress.step == 60
    assert len(trained) == 6
    assert trained[-1] < below * trained[0]
    assert held_out[-1] < held_out[0]
    assert progress.best_loss == pytest.approx(min(held_out))


@pytest.mark.parametrize(
    "objectives",
    [
        {"clm": {"batch_tokens": 128}},
        {"mlm": {"batch_tokens": 256}, "tlm": {}},
        {"translation": {"batch_tokens": 256, "smoothing": 0.1}},
    ],
)
def test_resuming_continues_bit_for_bit(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe, objectives: dict[str, object]
) -> None:
    recipe = make_recipe(objectives=objectives, schedule=SCHEDULE | {"steps": 24})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finished = run_recipe(recipe, [toy_file], whole, Sitting())
    for stop in (7, 15, None):
        resumed = run_recipe(recipe, [toy_file], parts, Sitting(until=stop))
    expected, found = weights(whole, recipe), weights(parts, recipe)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert replace(finished, seconds=0) == replace(resumed, seconds=0)
    losses = [[line["train"] for line in read_log(run) if "train" in line] for run in (whole, parts)]
    assert len(losses[0]) == 2
    assert losses[0][0].keys() == losses[1][0].keys()


def test_a_crash_while_a_checkpoint_takes_its_place_loses_nothing(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe()
    run_recipe(recipe, [toy_file], tmp_path, Sitting(until=5))
    expected = weights(tmp_path, recipe)
    (tmp_path / "state").rename(tmp_path / "state.old")
    (tmp_path / "state.new").mkdir()
    found = weights(tmp_path, recipe)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert run_recipe(recipe, [toy_file], tmp_path, Sitting(until=6)).step == 6


def test_a_run_starts_from_the_weights_it_is_given(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe, toy_tokenizer: XLMTokenizer
) -> None:
    recipe = make_recipe()
    run_recipe(recipe, [toy_file], tmp_path, Sitting(until=20))
    body = XLMWithLMHeadModel.from_pretrained(tmp_path / "best")
    started = new_model(make_recipe(init=str(tmp_path / "best"), objectives={"mlm": {}}), toy_tokenizer)
    assert not started.config.causal
    assert torch.equal(started.transformer.embeddings.weight, body.transformer.embeddings.weight)


def test_stages_are_written_down_when_a_run_is_resumed_by_another_recipe(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    first, second = make_recipe(schedule=SCHEDULE), make_recipe(schedule=SCHEDULE | {"steps": 10, "hold": 0.5})
    run_recipe(first, [toy_file], tmp_path, Sitting(until=3))
    run_recipe(first, [toy_file], tmp_path, Sitting(until=5))
    run_recipe(second, [toy_file], tmp_path, Sitting())
    assert read_stages(tmp_path) == [
        Stage(0, first.schedule, first.objectives),
        Stage(5, second.schedule, second.objectives),
    ]


def test_other_objectives_begin_a_new_search_for_the_best_weights(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    schedule = SCHEDULE | {"steps": 44}
    first = make_recipe(objectives={"ranking": {"batch_pairs": 24}}, schedule=schedule)
    assert run_recipe(first, [toy_file], tmp_path, Sitting(until=40)).best_step == 40
    second = make_recipe(objectives={"mlm": {"batch_tokens": 256}}, schedule=schedule)  # its losses are higher
    assert run_recipe(second, [toy_file], tmp_path, Sitting()).best_step == 44


def test_time_is_up_leaves_a_run_to_be_continued(toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe) -> None:
    assert run_recipe(make_recipe(), [toy_file], tmp_path, Sitting(max_seconds=0)).step == 0
    assert run_recipe(make_recipe(), [toy_file], tmp_path, Sitting(until=2)).step == 2
