"""Files as the input and the output of jobs: JSON lines, CSV, TSV, Parquet and plain lines, in constant memory.

    from xlmstream import Client
    from xlmstream.files import Items, ResultFile, Source, record_of

    with Client() as client, Source("reviews.jsonl.gz") as source:
        job = client.jobs.create("classify", job_id=f"reviews-{source.digest()[:16]}")
        job.upload(Items(source, "classify"))
        job.seal()
        with ResultFile("labels.parquet", job.task, job.job_id) as out, job.results(cursor=out.cursor) as results:
            for result in results:
                out.add(record_of(job.task, result), None if results.buffered else results.cursor)
            out.finish()

`source` opens files and `rows` reads them, `inputs` turns rows into what a task takes, `records` turns results into
rows, `formats` turns rows into bytes, and `output` is a file of results that an interrupted program can continue.
"""

from xlmstream.files.inputs import BadLine, Fields, Items
from xlmstream.files.output import ResultFile
from xlmstream.files.records import record_of
from xlmstream.files.source import FileError, Format, Source, format_of

__all__ = ["BadLine", "Fields", "FileError", "Format", "Items", "ResultFile", "Source", "format_of", "record_of"]
