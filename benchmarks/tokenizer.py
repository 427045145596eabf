"""Tokenizer: sentences per CPU second against transformers' XLMTokenizer, at equal ids.

Every round makes both tokenizers anew and lets each encode all sentences twice, first with empty word caches
(cold), then again (warm); the two take turns, so that a noisy machine disturbs both. The sentences are those of
../shared/data where that folder exists, else a few written for the tests, repeated with words exchanged.
"""

import gc
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Spread, Table, finish, parser

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH_ROWS = 32

Call = Callable[[list[str]], Any]


def inputs(directory: Path) -> tuple[Path, list[str], str]:
    """A directory with a vocabulary, the sentences, and what they are."""
    if SHARED.is_dir():
        lines = (SHARED / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
        return SHARED / "xlm-enfr", [json.loads(line)["text"] for line in lines], "real, 15 languages"
    from tests.tokenizer.toy import SENTENCES, write_vocabulary

    written = [sentence for sentences in SENTENCES.values() for sentence in sentences]
    write_vocabulary(directory, written)
    words = " ".join(written).split(" ")
    generator = random.Random(0)
    made = [" ".join(generator.choices(words, k=generator.randint(3, 30))) for _ in range(4000)]
    return directory, made, "made up of the words of a few written ones"


def one_by_one(tokenizer: Any) -> Call:
    return lambda sentences: [tokenizer(sentence)["input_ids"] for sentence in sentences]


def padded_batches(tokenizer: Any) -> Call:
    def call(sentences: list[str]) -> list[Any]:
        starts = range(0, len(sentences), BATCH_ROWS)
        batches = [sentences[start : start + BATCH_ROWS] for start in starts]
        return [tokenizer(batch, padding=True, truncation=True, max_length=512)["input_ids"] for batch in batches]

    return call


def ids_only(tokenizer: Any) -> Call:
    return lambda sentences: [tokenizer.encode(sentence, add_special_tokens=False) for sentence in sentences]


def cpu_seconds(call: Call, sentences: list[str]) -> tuple[float, list[Any]]:
    gc.collect()
    gc.freeze()  # what the libraries left behind is no tokenizer's burden
    start = time.process_time()
    result = call(sentences)
    return time.process_time() - start, result


def measure(make: Sequence[Callable[[], Any]], way: Callable[[Any], Call], sentences: list[str], rounds: int) -> Table:
    """Cold and warm rates of (ours, theirs) over interleaved rounds, and how many results are equal."""
    seconds: dict[tuple[int, str], list[float]] = {}
    equal = total = 0
    for _ in range(rounds):
        calls = [way(made()) for made in make]
        for temperature in ("cold", "warm"):
            results = []
            for index, call in enumerate(calls):
                spent, result = cpu_seconds(call, sentences)
                seconds.setdefault((index, temperature), []).append(spent)
                results.append(result)
            total += len(results[0])
            equal += sum(a == b for a, b in zip(*results, strict=True))
    table = Table(
        way.__name__.replace("_", " "),
        ["word cache", "xlmstream, sentences/CPU-s", "transformers, sentences/CPU-s", "ratio", "equal"],
    )
    for temperature in ("cold", "warm"):
        ours, theirs = seconds[0, temperature], seconds[1, temperature]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        rates = [Spread.of([len(sentences) / spent for spent in spents]) for spents in (ours, theirs)]
        row = [temperature, *(f"{rate:.0f}" for rate in rates), f"{Spread.of(ratios):.1f}", f"{equal} of {total}"]
        table.rows.append(row)
    return table


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=2, help="rounds per table (default 2)")
    arguments.add_argument("--all-ways", action="store_true", help="also padded batches and bare ids")
    options = arguments.parse_args()

    import transformers
    from xlmstream_worker.xlm.tokenizer import XLMTokenizer

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as directory:
        vocabulary, sentences, what = inputs(Path(directory))
        make = (
            lambda: XLMTokenizer.from_pretrained(vocabulary),
            lambda: transformers.XLMTokenizer.from_pretrained(vocabulary),
        )
        ways = (one_by_one, padded_batches, ids_only) if options.all_ways else (one_by_one,)
        tables = [measure(make, way, sentences, options.rounds) for way in ways]
    tables[0].notes.append(f"{len(sentences)} sentences ({what}); median (min-max) of {options.rounds} rounds.")
    finish(tables, options.json)


if __name__ == "__main__":
    main()
