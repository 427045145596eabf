"""`xlmstream jobs`, run in this process against a fake service."""

import importlib.util
import json
import random
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xlmstream.cli import arguments, jobs_results, jobs_submit, main
from xlmstream.files import Items
from xlmstream.files import output as output_module
from xlmstream.jobs import JobItem, uploading
from xlmstream.jobs.requests import ItemKeywords, JobKeywords
from xlmstream.jobs.values import JOB_TASKS
from xlmstream.testing import Answer, Failure, FakeServer
from xlmstream.v1 import embedding_pb2, generation_pb2, jobs_pb2
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_END, TextInput
from xlmstream.v1.job_pb2 import JOB_STATE_ACCEPTING

LONG = Failure("INPUT_TOO_LONG", "300 tokens, at most 256")


class Answers:
    """Fails what is called long, until it is mended."""

    mended = False

    def __call__(self, prompt: str) -> Answer:
        return LONG if "long" in prompt and not self.mended else f" and {prompt}"


needs_pyarrow = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def server(answers: Answers) -> Iterator[FakeServer]:
    with FakeServer(answers) as server:
        yield server


@pytest.fixture
def xlmstream(server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command line against the fake service; returns the exit code."""
    monkeypatch.setenv("XLMSTREAM_ADDRESS", server.address)
    monkeypatch.chdir(tmp_path)
    return lambda line: main(shlex.split(line))


def write_lines(path: Path, count: int) -> None:
    """Of a hundred lines each tenth will fail."""
    rows = [{"text": f"{'long' if i % 10 == 9 else 'line'} {i}", "id": f"k{i}"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def uploads(server: FakeServer) -> int:
    return sum(isinstance(one, jobs_pb2.UploadJobItemsRequest) and one.HasField("header") for one in server.requests)


def only_job(server: FakeServer) -> Any:
    [job] = server.jobs.values()
    return job


def test_submit_makes_a_job_and_prints_its_name(
    xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "a.jsonl", 25)
    assert xlmstream("jobs submit a.jsonl --task embed --pooling mean --truncation keep_end --max-failed-items 9") == 0
    out, err = capsys.readouterr()
    job = only_job(server)
    assert out == f"{job.info.job_id}\n"
    assert re.fullmatch(r"embed-[0-9a-f]{20}", job.info.job_id)
    assert err.splitlines() == [
        "a.jsonl: 25 inputs",
        f"Job {job.info.job_id}: 25 items stored for fake@1. It goes on without you.",
        f"  watch:    xlmstream jobs watch {job.info.job_id}",
        f"  results:  xlmstream jobs results {job.info.job_id} --output FILE",
    ]
    assert job.info.sealed
    assert job.info.task.embed == embedding_pb2.EmbedParameters(pooling=embedding_pb2.POOLING_MEAN)
    assert (job.info.truncation, job.info.failure_policy.max_failed_items) == (TRUNCATION_KEEP_END, 9)
    assert [(one.key, one.embed.text) for one in job.items[8:10]] == [("k8", "line 8"), ("k9", "long 9")]
    assert job.info.labels["input-file"] == "a.jsonl"


def test_the_same_command_finds_its_job(
    xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "a.jsonl", 5)
    assert xlmstream("jobs submit a.jsonl --task embed") == 0
    name, sent = capsys.readouterr().out, uploads(server)
    (tmp_path / "a.jsonl").rename(tmp_path / "moved.jsonl")
    assert xlmstream("jobs submit moved.jsonl --task embed") == 0
    out, err = capsys.readouterr()
    assert (out, uploads(server)) == (name, sent)
    assert "is there already: succeeded, 5 items stored." in err


@pytest.mark.parametrize(
    "other",
    [
        "--pooling first",
        "--model fake@1",
        "--language fr",
        "--text-field id",
        "--truncation keep_end",
        "--key-field text",
    ],
)
def test_another_command_makes_another_job(xlmstream: Any, server: FakeServer, tmp_path: Path, other: str) -> None:
    write_lines(tmp_path / "a.jsonl", 5)
    assert xlmstream("jobs submit a.jsonl --task embed") == 0
    assert xlmstream(f"jobs submit a.jsonl --task embed {other}") == 0
    assert len(server.jobs) == 2


def test_another_file_makes_another_job(xlmstream: Any, server: FakeServer, tmp_path: Path) -> None:
    for count in (5, 6):
        write_lines(tmp_path / "a.jsonl", count)
        assert xlmstream("jobs submit a.jsonl --task embed") == 0
    assert len(server.jobs) == 2


def test_a_name_given_is_not_used_for_other_inputs(
    xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path / "a.jsonl", 5)
    assert xlmstream("jobs submit a.jsonl --task embed --job-id mine") == 0
    assert xlmstream("jobs submit a.jsonl --task embed --job-id mine") == 0
    assert xlmstream("jobs submit a.jsonl --task embed --job-id mine --text-field id") == 2
    write_lines(tmp_path / "a.jsonl", 6)
    assert xlmstream("jobs submit a.jsonl --task embed --job-id mine") == 2
    assert capsys.readouterr().err.count("job mine exists and was not made of a.jsonl with these flags; choose") == 2
    assert only_job(server).info.items_committed == 5


def test_standard_input(xlmstream: Any, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lines").write_text("one\n\ntwo\n")
    for _ in range(2):
        with (tmp_path / "lines").open() as lines:
            monkeypatch.setattr(sys, "stdin", lines)
            assert xlmstream("jobs submit - --format lines --task score --language de --allow-special-tokens") == 0
    assert [(one.key, one.score) for one in only_job(server).items] == [
        ("1", TextInput(text="one", language="de", allow_special_tokens=True)),
        ("3", TextInput(text="two", language="de", allow_special_tokens=True)),
    ]


def test_a_model_of_one_language_is_told_languages_only_where_asked_to(
    xlmstream: Any, server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "un", "lang": "fr"}\n')
    assert xlmstream("jobs submit a.jsonl --task embed --job-id several") == 0
    del server.models[0].languages[:]
    assert xlmstream("jobs submit a.jsonl --task embed --job-id one") == 0
    assert xlmstream("jobs submit a.jsonl --task embed --job-id forced --language-field lang --model fake@1") == 0
    languages = {name: job.items[0].embed.language for name, job in server.jobs.items()}
    assert languages == {"several": "fr", "one": "", "forced": "fr"}


@pytest.mark.parametrize(
    ("texts", "code", "words"),
    [
        (["line"], 0, "succeeded: 1 of 1 items succeeded, 0 failed"),
        (["line", "long"], 5, "succeeded in part: 1 of 2 items succeeded, 1 failed"),
        (["long"], 6, "failed: 0 of 1 items succeeded, 1 failed"),
    ],
)
@pytest.mark.parametrize("how", ["--watch", "--output out.jsonl"])
def test_exit_codes_tell_how_the_job_ended(
    xlmstream: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    texts: list[str],
    code: int,
    words: str,
    how: str,
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(texts))
    assert xlmstream(f"jobs submit a.txt --task fill-mask {how}") == code
    err = capsys.readouterr().err
    assert words in err
    assert ("1 INPUT_TOO_LONG, such as the item with index" in err) == ("long" in texts)


def test_a_cancelled_job_has_an_exit_code_of_its_own(
    xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.hold_jobs()
    (tmp_path / "a.txt").write_text("one\n")
    assert xlmstream("jobs submit a.txt --task tag --job-id held") == 0
    assert xlmstream("jobs cancel held") == 0
    assert xlmstream("jobs watch held") == 6
    out, err = capsys.readouterr()
    assert out == "held\nheld  cancelled\n"
    assert "Job held is cancelled: 0 of 1 items succeeded, 0 failed, 1 never ran" in err


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv.gz", pytest.param("parquet", marks=needs_pyarrow)])
def test_output(xlmstream: Any, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "a.jsonl", 250)
    assert xlmstream(f"jobs submit a.jsonl --task generate --output out.{kind}") == 5
    assert f"250 results in out.{kind}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", f"out.{kind}"]
    if kind == "jsonl":
        rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert [(row["index"], row["key"]) for row in rows] == [(i, f"k{i}") for i in range(250)]
        assert rows[8]["text"] == " and line 8"
        assert (rows[9]["error_reason"], rows[9]["error_message"]) == ("INPUT_TOO_LONG", "300 tokens, at most 256")


@pytest.mark.parametrize("phase", ["upload", "results"])
def test_interrupted_anywhere_it_continues(
    xlmstream: Any,
    server: FakeServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
) -> None:
    """Ctrl-C after any number of items; each run goes on where the one before was, and the file is as of one run."""
    monkeypatch.setattr(uploading, "MESSAGE_BYTES", 100)
    monkeypatch.setattr(uploading, "CALL_BYTES", 1000)
    monkeypatch.setattr(output_module, "COMMIT_EVERY_S", 0.0)
    write_lines(tmp_path / "a.jsonl", 600)
    assert xlmstream("jobs submit a.jsonl --task score --job-id other --output whole.csv") == 5
    capsys.readouterr()
    left = 0

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    record_of, read = jobs_results.record_of, Items.__iter__

    def counted_record(*given: Any) -> Any:
        count_down()
        return record_of(*given)

    def counted_items(self: Items) -> Iterator[JobItem]:
        for one in read(self):
            count_down()
            yield one

    if phase == "upload":
        monkeypatch.setattr(Items, "__iter__", counted_items)
    else:
        monkeypatch.setattr(jobs_results, "record_of", counted_record)
    random_, codes, stored = random.Random(3), [], []
    name = "a.jsonl"
    while not codes or codes[-1] == 130:
        # What is stored is read again and passed over by an upload; results go on where they were.
        left = random_.randrange(50, 250) + (stored[-1] if stored and phase == "upload" else 0)
        codes.append(xlmstream(f"jobs submit {name} --task score --output out.csv --ttl {90 + len(codes)}"))
        (tmp_path / name).rename(tmp_path / f"moved{name}")  # neither name nor time limit make it another job
        name = f"moved{name}"
        err = capsys.readouterr().err
        [made] = server.jobs.keys() - {"other"}
        stored.append(server.jobs[made].info.items_committed)
        if codes[-1] == 130:
            assert f"Interrupted. Job {made}" in err
            assert "run the same command again" in err
            assert f"xlmstream jobs cancel {made}" in err
    assert len(codes) > 3
    assert codes[-1] == 5
    assert stored == sorted(stored)
    assert stored[-1] == 600
    assert phase == "results" or len(set(stored)) > 2, "some runs ended within the upload, behind a part of it"
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "out.csv", "whole.csv"]


def test_a_job_that_ended_before_its_upload_is_not_continued(
    xlmstream: Any,
    server: FakeServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_lines(tmp_path / "a.jsonl", 5)
    command = "jobs submit a.jsonl --task embed --job-id one --output out.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(Items, "__iter__", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        assert xlmstream(command) == 130
    assert "Job one keeps what it has, 0 of 5 items." in capsys.readouterr().err
    assert xlmstream("jobs cancel one") == 0
    assert xlmstream(command) == 6
    assert "It ended before its upload did. To begin anew: xlmstream jobs delete one" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == ""
    assert xlmstream("jobs delete one") == 0
    assert xlmstream(command) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 5


def test_lines_that_give_no_input_send_nothing(
    xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("text,id\nfine,1\n" + "too,many,fields\n" * 12 + "fine,2\n")
    assert xlmstream("jobs submit a.csv --task embed") == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "xlmstream: a.csv:3: 3 fields, but the first line has 2"
    assert lines[10] == "xlmstream: ... and 2 more"
    assert lines[11].startswith("xlmstream: a.csv: 12 lines give no input, so nothing was sent")
    assert not server.jobs
    assert xlmstream("jobs submit a.csv --task embed --on-bad-line skip") == 0
    assert "a.csv: 2 inputs, 12 lines skipped" in capsys.readouterr().err
    assert [one.key for one in only_job(server).items] == ["1", "2"]


def test_a_file_without_inputs(xlmstream: Any, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n")
    assert xlmstream("jobs submit a.txt --task embed") == 2
    assert not server.jobs


def test_a_file_that_grows_while_it_is_read_gives_no_job_that_runs(
    xlmstream: Any,
    server: FakeServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_lines(tmp_path / "a.jsonl", 5)
    check = jobs_submit._Submission.check

    def then_grow(self: Any) -> int:
        count = check(self)
        with (tmp_path / "a.jsonl").open("a") as more:
            more.write('{"text": "more"}\n')
        return count

    monkeypatch.setattr(jobs_submit._Submission, "check", then_grow)
    assert xlmstream("jobs submit a.jsonl --task embed") == 2
    assert "was written to while it was read" in capsys.readouterr().err
    assert only_job(server).info.state == JOB_STATE_ACCEPTING


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--output a.jsonl", "the results would replace the file of inputs"),
        ("--output none/out.jsonl", "its folder does not exist"),
        ("--output out.dat", "give --output-format"),
        ("--output out.txt", "written as jsonl, csv, tsv or parquet"),
        ("--job-id UPPER --watch", "job_id"),
    ],
)
def test_what_would_fail_in_the_end_fails_before_anything_is_sent(
    xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, words: str
) -> None:
    write_lines(tmp_path / "a.jsonl", 5)
    if "UPPER" in flags:  # which the service refuses
        server.fail(Failure("INVALID_INPUT", "job_id: lower-case letters", field="job_id"), method="CreateJob")
    assert xlmstream(f"jobs submit a.jsonl --task embed {flags}") == 2
    assert words in capsys.readouterr().err
    assert not server.jobs


def test_a_service_that_is_not_there(
    xlmstream: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    write_lines(tmp_path / "a.jsonl", 5)
    assert xlmstream(f"jobs submit a.jsonl --task embed --address 127.0.0.1:{unused_tcp_port} --timeout 2") in (3, 4)
    assert "127.0.0.1" in capsys.readouterr().err


def test_connections_that_break_are_not_noticed(xlmstream: Any, server: FakeServer, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", 300)
    for method in ("CreateJob", "UploadJobItems", "SealJob", "StreamJobResults", "WatchJob"):
        server.fail(Failure(), method=method, after_messages=0 if method in ("CreateJob", "SealJob") else 1)
    assert xlmstream("jobs submit a.jsonl --task embed --output out.jsonl") == 5
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(300))


def test_results_on_standard_output(xlmstream: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(tmp_path / "a.jsonl", 30)
    assert xlmstream("jobs submit a.jsonl --task score --job-id one") == 0
    capsys.readouterr()
    assert xlmstream("jobs results one") == 0
    assert [json.loads(line)["index"] for line in capsys.readouterr().out.splitlines()] == list(range(30))
    assert xlmstream("jobs results one --failed --follow --output-format tsv --order completion") == 5
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.startswith("index\tkey\tattempt\tlog_probability")
    assert [row.split("\t")[1] for row in rows] == ["k9", "k19", "k29"]
    assert xlmstream("jobs results one --output-format parquet") == 2
    assert xlmstream("jobs results none") == 2
    assert "See which there are with: xlmstream jobs list" in capsys.readouterr().err


def test_retry_runs_the_failed_items_again(xlmstream: Any, answers: Answers, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", 30)
    command = "jobs submit a.jsonl --task generate --job-id one --output out.jsonl"
    assert xlmstream(command) == 5
    answers.mended = True
    assert xlmstream("jobs retry one") == 0
    assert xlmstream(command) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["index"], row["attempt"]) for row in rows] == [(i, 2 if i % 10 == 9 else 1) for i in range(30)]
    assert rows[9]["text"] == " and long 9"


def test_list_and_get(xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert xlmstream("jobs list") == 0
    assert capsys.readouterr() == ("", "No jobs.\n")
    write_lines(tmp_path / "a.jsonl", 20)
    for name in ("one", "two", "three"):
        assert xlmstream(f"jobs submit a.jsonl --task classify --job-id {name}") == 0
    info = server.jobs["two"].info
    info.create_time.FromSeconds(1_700_000_000)
    info.prompt_tokens, info.items_per_s, info.eta_s, info.attempt = 1234, 5.0, 75.0, 2
    capsys.readouterr()
    assert xlmstream("jobs list --limit 2") == 0
    out, err = capsys.readouterr()
    heading, *rows = out.splitlines()
    assert heading.split() == ["JOB", "STATE", "SUCCEEDED", "FAILED", "ITEMS", "CREATED", "TASK", "MODEL"]
    assert [row.split()[0] for row in rows] == ["three", "two"]
    assert rows[1].split()[1:6] == ["partially", "succeeded", "18", "2", "20"]
    assert err == "There are more: --limit 4 shows more of them.\n"
    assert xlmstream("jobs list --state failed --state running") == 0
    assert capsys.readouterr() == ("", "No such jobs.\n")
    assert xlmstream("jobs list --json --state partially_succeeded") == 0
    assert [json.loads(line)["job_id"] for line in capsys.readouterr().out.splitlines()] == ["three", "two", "one"]
    assert xlmstream("jobs get two --json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"succeeded": "18", "failed": "2"}
    assert xlmstream("jobs get two") == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["job"] == "two"
    assert shown["progress"].endswith("100%  20 of 20, partially succeeded, 2 failed, 1 min 15 s left, 5 items/s")
    assert shown["task"] == "classify with fake@1"
    assert shown["items"] == "20: 18 succeeded, 2 failed"
    assert shown["failures"] == "2 INPUT_TOO_LONG, such as the item with index 9"
    assert (shown["attempt"], shown["tokens"]) == ("2", "1,234 of prompts, 0 generated")
    assert shown["created"].startswith("2023-11-1")


def test_pause_resume_delete(
    xlmstream: Any, server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.hold_jobs()
    write_lines(tmp_path / "a.jsonl", 5)
    for name in ("one", "two"):
        assert xlmstream(f"jobs submit a.jsonl --task embed --job-id {name}") == 0
    capsys.readouterr()
    assert xlmstream("jobs pause one two") == 0
    assert capsys.readouterr().out == "one  paused\ntwo  paused\n"
    assert xlmstream("jobs resume one") == 0
    assert xlmstream("jobs delete one") == 2
    assert "end it first: xlmstream jobs cancel one" in capsys.readouterr().err
    assert xlmstream("jobs cancel one") == 0
    assert xlmstream("jobs delete one") == 0
    assert capsys.readouterr().out == "one  cancelled\none  deleted\n"
    assert list(server.jobs) == ["two"]


@pytest.mark.parametrize("name", [name for name, _ in JOB_TASKS.values()])
def test_every_keyword_of_every_task_is_a_flag(name: str) -> None:
    line = [
        "jobs",
        "submit",
        "a.jsonl",
        "--task",
        name.replace("_", "-"),
        *(["--to=fr"] if name == "translate" else []),
    ]
    flags = vars(arguments.parser(line).parse_args(line))
    keywords = dict(JOB_TASKS.values())[name].keywords.__annotations__
    wanted = {*keywords, *ItemKeywords.__annotations__, *JobKeywords.__annotations__}
    by_another_name = {"language"} if name == "translate" else set()
    assert wanted - flags.keys() == {"request_id", "job_labels", "priority"} & wanted | by_another_name


def test_flags_of_the_task_arrive(xlmstream: Any, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    line = "jobs submit a.txt --task=generate --max-new-tokens 5 --stop . --logit-bias 7=-2.5"
    assert xlmstream(f"{line} --ttl 90 --retention 91 --max-attempts 2") == 0
    assert only_job(server).info.task.generate == generation_pb2.GenerationParameters(
        max_new_tokens=5, stop=["."], logit_bias={7: -2.5}
    )
    request = only_job(server).request
    assert (request.ttl_s, request.retention_s, request.max_attempts) == (90, 91, 2)


def test_a_file_is_translated(xlmstream: Any, server: FakeServer, tmp_path: Path) -> None:
    """Rows may name their language; `--from` is for those that do not."""
    (tmp_path / "a.jsonl").write_text('{"text": "un"}\n{"text": "eins", "lang": "de"}\n')
    line = "jobs submit a.jsonl --task translate --from fr --to en --num-beams 4 --output b.jsonl"
    assert xlmstream(line) == 0
    job = only_job(server)
    assert (job.info.task.translate.target_language, job.info.task.translate.parameters.num_beams) == ("en", 4)
    assert [(item.translate.text, item.translate.language) for item in job.items] == [("un", "fr"), ("eins", "de")]
    rows = [json.loads(row) for row in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [(row["text"], row["candidates"][0]["score"]) for row in rows] == [(" and un", -1.0), (" and eins", -1.0)]


@pytest.mark.parametrize(
    "line",
    [
        "jobs",
        "jobs submit",
        "jobs submit a.jsonl --task none",
        "jobs submit a.txt --task embed --top-k 3",
        "jobs submit a --task",
    ],
)
def test_wrong_usage(xlmstream: Any, capsys: pytest.CaptureFixture[str], line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        xlmstream(line)
    assert ended.value.code == 2
    assert "usage: xlmstream" in capsys.readouterr().err


def test_help_of_a_task(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        xlmstream("jobs submit --task answer --help")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--question-field" in out
    assert "--max-answer-tokens" in out
    assert "--text-field NAME" not in out.partition("examples:")[0]
