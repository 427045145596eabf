"""`xlmstream-train` from a corpus to a card, and its answers to mistakes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from xlmstream_worker.training.cli import main
from xlmstream_worker.xlm import XLMTokenizer

RECIPE = """
name = "tiny"
languages = ["de", "en", "fr"]
vocabulary_size = 420
validate_every = 10
[architecture]
emb_dim = 16
n_layers = 1
n_heads = 2
max_positions = 32
{objectives}
[schedule]
steps = 20
warmup_steps = 2
"""


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        ("[objectives.clm]\nbatch_tokens = 128", ["| valid, verses in sequence, per token |", "English, no prompt:"]),
        ("[objectives.mlm]\nbatch_tokens = 128\n[objectives.ranking]\nbatch_pairs = 8", ["fill-mask", "| en | "]),
        (
            "[objectives.translation]\nbatch_tokens = 128",
            ["| BLEU, 4 beams |", "| chrF, greedy |", "German to English:"],
        ),
        (
            "[objectives.ruled_tags]\nbatch_tokens = 128",
            ["| words unseen in training |", "No annotated sentence", "German:", "The/"],
        ),
    ],
)
def test_one_command_trains_and_another_measures(
    toy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], objectives: str, expected: list[str]
) -> None:
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(RECIPE.format(objectives=objectives), encoding="utf-8")
    command = ["run", str(recipe), str(toy_file), "--run", str(run), "--threads", "1"]
    assert main([*command, "--minutes", "0.0001"]) == 0
    assert "the same command continues" in capsys.readouterr().out
    assert main(command) == 0
    assert (run / "curve.svg").read_text().startswith("<svg")
    assert main(["card", str(run / "model"), str(toy_file), "--write"]) == 0
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert all(part in card for part in expected)
    capsys.readouterr()
    assert main(["card", str(run / "model"), str(toy_file)]) == 0
    assert capsys.readouterr().out.rstrip() == card.rstrip()
    shows = "clm" in objectives or "tags" in objectives
    assert main(["samples", str(run / "model")]) == (0 if shows else 2)
    told = capsys.readouterr()
    assert told.out.rstrip() in card if shows else "it has no samples" in told.err
    again = tmp_path / "again"
    assert main([*command[:3], "--run", str(again), "--init", str(run / "model"), "--minutes", "0.0001"]) == 0
    vocabularies = [XLMTokenizer.from_pretrained(each).get_vocab() for each in (again / "tokenizer", run / "model")]
    assert vocabularies[0] == vocabularies[1]


def test_a_vocabulary_alone(toy_file: Path, tmp_path: Path) -> None:
    assert main(["vocabulary", "xlm-clm-demo", str(toy_file), "--out", str(tmp_path)]) == 0
    assert XLMTokenizer.from_pretrained(tmp_path).tokenize("the dog") == ["the</w>", "dog</w>"]


def test_corpora_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpora"]) == 0
    assert "tatoeba.org" in capsys.readouterr().out


def test_mistakes_are_told_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "xlm-clm-demo", str(tmp_path / "none.tsv"), "--run", str(tmp_path / "run")]) == 2
    assert "none.tsv" in capsys.readouterr().err
    assert main(["run", "nothing", "x.tsv", "--run", str(tmp_path)]) == 2
    assert "no recipe 'nothing'" in capsys.readouterr().err


def test_a_corpus_too_small_is_told_without_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, recipe = tmp_path / "small.tsv", tmp_path / "tiny.toml"
    corpus.write_text("split\ten\ntrain\tone two\n", encoding="utf-8")
    text = RECIPE.format(objectives="[objectives.clm]")
    recipe.write_text(text, encoding="utf-8")
    assert main(["run", str(recipe), str(corpus), "--run", str(tmp_path / "a")]) == 2
    assert "too small for one batch" in capsys.readouterr().err
    recipe.write_text(text.replace("vocabulary_size = 420", "vocabulary_size = 100"), encoding="utf-8")
    assert main(["run", str(recipe), str(corpus), "--run", str(tmp_path / "b")]) == 2
    assert "a vocabulary of 100 cannot hold" in capsys.readouterr().err


def test_a_signal_ends_a_run_with_a_checkpoint(toy_file: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(
        RECIPE.format(objectives="[objectives.clm]").replace("steps = 20", "steps = 100000"), encoding="utf-8"
    )
    command = [sys.executable, "-c", "from xlmstream_worker.training.cli import main; main()"]
    arguments = ["run", str(recipe), str(toy_file), "--run", str(run), "--threads", "1"]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # The first line of progress says that steps are being made.
        first = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(60) == 0
    assert first.startswith("tiny ")
    assert 0 < json.loads((run / "state" / "state.json").read_text())["step"] < 100_000
