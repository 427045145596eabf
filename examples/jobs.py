"""A backend's large offline job: the rows of a database, embedded while nobody waits, written back as they are ready.

    xlmstream up &
    python examples/jobs.py [HOST:PORT]

Stop it anywhere and start it again: it finds its job, uploads what is missing, and reads on where it had read.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing

from sentences import SENTENCES
from xlmstream import Client, JobItem, TextInput


def main(address: str = "127.0.0.1:50051", path: str = "rows.sqlite") -> None:
    with closing(sqlite3.connect(path)) as rows, Client(address) as client:
        prepare(rows)
        job = client.jobs.create("embed", job_id="nightly-embeddings", pooling="mean", normalize=True)
        if not job.info.sealed:
            job.upload(unprocessed(rows), on_commit=lambda count: print(f"{count} rows stored"))
            job.seal()
        [cursor] = rows.execute("SELECT cursor FROM progress").fetchone()
        with job.results(cursor=cursor) as results:  # waits for what is not ready yet
            for result in results:
                if result.error is None:
                    vector = result.result.tensor.data  # little-endian float32
                    rows.execute("UPDATE texts SET vector = ? WHERE id = ?", (vector, int(result.key)))
                else:
                    print(f"row {result.key}: {result.error}")
                if not results.buffered:  # the place is known exactly: keep it with what was read
                    rows.execute("UPDATE progress SET cursor = ?", (results.cursor,))
                    rows.commit()
        counts = job.refresh().info.counts
        print(f"{job.state}: {counts.succeeded} rows have vectors, {counts.failed} failed")


def unprocessed(rows: sqlite3.Connection) -> Iterator[JobItem]:
    """Every row, always in the same order: an upload that begins again passes over what is stored."""
    for number, language, text in rows.execute("SELECT id, language, text FROM texts ORDER BY id"):
        yield JobItem(key=str(number), input=TextInput(text=text, language=language))


def prepare(rows: sqlite3.Connection) -> None:
    """A table to begin with; yours is there already."""
    rows.execute("CREATE TABLE IF NOT EXISTS texts (id INTEGER PRIMARY KEY, language, text, vector BLOB)")
    rows.execute("CREATE TABLE IF NOT EXISTS progress (cursor)")
    if rows.execute("SELECT count(*) FROM progress").fetchone() == (0,):
        texts = [(language, text) for language, each in SENTENCES.items() for text in each]
        rows.executemany("INSERT INTO texts (language, text) VALUES (?, ?)", texts)
        rows.execute("INSERT INTO progress VALUES ('')")
        rows.commit()


if __name__ == "__main__":
    main(*sys.argv[1:])
