"""The command line, run in this process against a fake service: exact output, exit codes, messages."""

import io
import json
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from xlmstream.cli import arguments, main
from xlmstream.keywords import GenerateKeywords, TokenizeKeywords
from xlmstream.testing import Failure, FakeServer
from xlmstream.testing.stage import fake_model
from xlmstream.v1 import generation_pb2 as pb
from xlmstream.v1.inference_pb2 import CancelRequestRequest
from xlmstream.v1.models_pb2 import DECODING_MODE_MASK_APPEND

ANSWERS = {
    "Hello": "my dear friend , how are you ?",
    "In the": "beginning",
    "long": Failure("INPUT_TOO_LONG", "input: 300 tokens, at most 256", metadata={"tokens": "300", "max": "256"}),
}


@pytest.fixture
def server() -> Any:
    with FakeServer(ANSWERS) as server:
        yield server


@pytest.fixture
def xlmstream(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command line against the fake service; returns the exit code."""
    monkeypatch.setenv("XLMSTREAM_ADDRESS", server.address)
    return lambda line: main(shlex.split(line))


def be_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called in a test, not by a fixture: pytest replaces the captured streams between the two."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_generate_prints_the_text_alone_for_a_pipe(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert xlmstream("generate Hello") == 0
    assert capsys.readouterr() == ("my dear friend , how are you ?\n", "")


def test_generate_shows_prompt_text_and_figures_to_a_person(
    xlmstream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_a_terminal(monkeypatch)
    assert xlmstream("generate Hello --max-new-tokens 3") == 0
    shown = re.sub(r"\d+\.\d+ s|\d+ ms|\d+ tokens/s", "#", capsys.readouterr().out)
    assert shown == "\033[2mHello\033[0m my dear friend\n\033[2m3 tokens in #, the first after #; #; length\033[0m\n"


def test_no_colour_where_none_is_wanted(
    xlmstream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_a_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert xlmstream("generate Hello") == 0
    assert capsys.readouterr().out.startswith("Hello my dear")


def test_generate_streams(xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.break_streams(3)
    assert xlmstream("generate Hello") == 0
    assert capsys.readouterr().out == "my dear friend , how are you ?\n"
    assert [type(request).__name__ for request in server.requests] == ["GenerateStreamRequest", "ResumeStreamRequest"]


def test_several_prompts_go_together_and_keep_their_order(
    xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert xlmstream("generate Hello long 'In the' Hello --max-new-tokens 2") == 2
    out, err = capsys.readouterr()
    assert out == "my dear\n\nbeginning\nmy dear\n"
    assert err.startswith("xlmstream: 'long': input: 300 tokens, at most 256 [INPUT_TOO_LONG, request ")
    assert err.endswith("]\n  Shorten the text, or let --truncation keep_start or keep_end cut it.\n")
    assert len(server.requests[-1].inputs) == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(("given", "expected"), [("Hello\n\nIn the\r\n", 2), ("Hello\n", 1), ("", 0)])
def test_prompts_from_standard_input(
    xlmstream: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    expected: int,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    assert xlmstream("generate") == 0
    assert capsys.readouterr().out.splitlines() == ["my dear friend , how are you ?", "beginning"][:expected]


def test_no_prompt_at_all(xlmstream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    be_a_terminal(monkeypatch)
    assert xlmstream("generate") == 2
    assert "give one as an argument, or one a line on standard input" in capsys.readouterr().err


def test_many_prompts_are_sent_in_calls_of_the_size_that_the_service_takes(
    xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("In the\n" * 600))
    assert xlmstream("generate") == 0
    assert capsys.readouterr().out == "beginning\n" * 600
    sizes = [len(request.inputs) for request in server.requests if hasattr(request, "inputs")]
    assert sizes == [256, 256, 88]


def test_generate_as_json(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert xlmstream("generate --json 'In the' long --seed 18446744073709551615 --stop . --stop '!'") == 2
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "prompt": "In the",
        "text": "beginning",
        "token_ids": [0],
        "finish_reason": "eos",
        "parameters": {"seed": 18446744073709551615, "stop": [".", "!"]},
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "cached_tokens": 0},
        "timing": {
            "queue_us": 10,
            "tokenize_us": 20,
            "compute_us": 100,
            "total_us": 130,
            "worker_id": "fake",
            "batch_size": 1,
        },
    }
    assert second == {
        "prompt": "long",
        "error": {"reason": "INPUT_TOO_LONG", "message": "input: 300 tokens, at most 256"},
    }


def test_every_keyword_of_the_calls_is_a_flag() -> None:
    for command, known in (("generate", GenerateKeywords), ("tokenize", TokenizeKeywords)):
        flags = vars(arguments.parser().parse_args([command, "x"]))
        assert not [name for name in known.__annotations__ if name not in flags], command


def test_flags_arrive_and_are_unset_otherwise(xlmstream: Any, server: FakeServer) -> None:
    assert xlmstream("generate Hello") == 0
    assert server.requests[-1].parameters == pb.GenerationParameters()  # type: ignore[attr-defined]
    line = "generate Hello --max-new-tokens 5 --min-new-tokens 0 --temperature 0 --top-k 3 --top-p 0.5 --ignore-eos"
    assert xlmstream(line + " --model fake --language fr --truncation keep_end --priority bulk --request-id k") == 0
    request: Any = server.requests[-1]
    assert request.parameters == pb.GenerationParameters(
        max_new_tokens=5, min_new_tokens=0, temperature=0, top_k=3, top_p=0.5, ignore_eos=True
    )
    assert request.parameters.HasField("min_new_tokens")
    line = "generate Hello --bad-word a --bad-word b --logit-bias 7=-2.5 --num-beams 2 --echo"
    assert xlmstream(line + " --decoding-mode mask_append") == 0
    further: Any = server.requests[-1]
    assert further.parameters == pb.GenerationParameters(
        bad_words=["a", "b"],
        logit_bias={7: -2.5},
        num_beams=2,
        echo=True,
        decoding_mode=DECODING_MODE_MASK_APPEND,
    )
    assert (request.options.model, request.options.request_id, request.input.language) == ("fake", "k", "fr")
    assert (request.options.truncation, request.options.priority) == (2, 3)


def test_tokenize(xlmstream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert xlmstream("tokenize 'In the beginning' '太 初'") == 0
    assert capsys.readouterr().out == (
        "ID  PLACE  PIECE\n"
        "0   0:2    In</w>\n"
        "1   3:6    the</w>\n"
        "2   7:16   beginning</w>\n"
        "\n"
        "ID  PLACE  PIECE\n"
        "3   0:1    太</w>\n"
        "4   2:3    初</w>\n"
    )
    assert xlmstream("tokenize --json 'the 初'") == 0
    assert capsys.readouterr().out == (
        '{"text": "the 初", "tokens": [{"id": 1, "piece": "the</w>", "start": 0, "end": 3}, '
        '{"id": 4, "piece": "初</w>", "start": 4, "end": 5}]}\n'
    )


def test_models(xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.models = [fake_model(), fake_model("longer-name", "2024-01")]
    tasks = (
        "generate tokenize detokenize embed fill_mask classify_sequence classify_tokens answer_question "
        "choose_multiple score translate"
    )
    assert xlmstream("models") == 0
    assert capsys.readouterr().out == (
        "MODEL                STATE  WORKERS  MAX TOKENS  DTYPE    LANGUAGES    TASKS\n"
        f"fake@1               ready  1        256         float32  de en es fr  {tasks}\n"
        f"longer-name@2024-01  ready  1        256         float32  de en es fr  {tasks}\n"
    )
    assert xlmstream("models --json") == 0
    names = [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()]
    assert names == ["fake", "longer-name"]
    server.models = []
    assert xlmstream("models") == 0
    assert "Start a worker" in capsys.readouterr().err


def test_version(xlmstream: Any, capsys: pytest.CaptureFixture[str], server: FakeServer, unused_tcp_port: int) -> None:
    assert xlmstream("version --timeout 60") == 0
    assert capsys.readouterr().out == f"client  0.1.0\nservice fake at {server.address}\n"
    assert xlmstream(f"version --address 127.0.0.1:{unused_tcp_port}") == 0
    assert capsys.readouterr().out == f"client  0.1.0\nservice none answers at 127.0.0.1:{unused_tcp_port}\n"


def test_health(capsys: pytest.CaptureFixture[str]) -> None:
    servicer = HealthServicer()
    servicer.set("model/" + "a" * 200, HealthCheckResponse.SERVING)
    servicer.set("model/b", HealthCheckResponse.NOT_SERVING)
    server = grpc.server(ThreadPoolExecutor(2))
    add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    asking = ["health", "--timeout", "60", "--address", address]
    try:
        assert main(asking) == 0
        assert main([*asking, "--service", "model/" + "a" * 200]) == 0
        assert main([*asking, "--service", "model/b"]) == 1
        assert capsys.readouterr().out == "serving\nserving\nnot serving\n"
        assert main([*asking, "--service", "unheard of"]) == 2
    finally:
        server.stop(None).wait()
    assert main(["health", "--address", address]) == 3


@pytest.mark.parametrize(
    ("line", "failure", "code", "expected"),
    [
        ("generate a", Failure("QUEUE_FULL", "full"), 3, "Try again later"),
        ("generate a", Failure("NO_WORKER", "none"), 3, "xlmstream-worker --broker URL NAME=DIR"),
        ("tokenize a", Failure("MODEL_NOT_FOUND", "no model 'x'"), 2, "See what is served with: xlmstream models"),
        ("generate a", Failure("INVALID_INPUT", "parameters.top_p: above 0", field="parameters.top_p"), 2, "top_p"),
        ("generate a", Failure("DEADLINE_COMPUTE", "late"), 4, "--timeout"),
        ("models", Failure("INTERNAL", "a defect", metadata={"execution_id": "e7"}), 1, "[INTERNAL, execution e7]"),
    ],
)
def test_errors_say_what_to_do(
    xlmstream: Any,
    server: FakeServer,
    capsys: pytest.CaptureFixture[str],
    line: str,
    failure: Failure,
    code: int,
    expected: str,
) -> None:
    server.fail(failure)
    assert xlmstream(line) == code
    err = capsys.readouterr().err
    assert err.startswith(f"xlmstream: {failure.message} [")
    assert expected in err


def test_nothing_answers(capsys: pytest.CaptureFixture[str], unused_tcp_port: int) -> None:
    assert main(["models", "--address", f"127.0.0.1:{unused_tcp_port}"]) == 3
    err = capsys.readouterr().err
    assert f"Nothing answers at 127.0.0.1:{unused_tcp_port}. Start a service with `xlmstream up`" in err


def test_another_address_takes_over(
    server: FakeServer, capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    assert main(["generate", "Hello", "--address", f"127.0.0.1:{unused_tcp_port},{server.address}"]) == 0
    assert capsys.readouterr().out == "my dear friend , how are you ?\n"


def test_ctrl_c_stops_the_work(
    xlmstream: Any, server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hold(after_messages=4)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupt)
    assert xlmstream("generate Hello --request-id mine") == 130
    assert server.requests[-1] == CancelRequestRequest(request_id="mine")


@pytest.mark.parametrize("command", ["up", "generate", "tokenize", "models", "health", "version"])
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: xlmstream {command}")
    assert not [line for line in text.splitlines() if len(line) > 120]


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for word in ("up", "generate", "tokenize", "models", "health", "version", "exit codes:", "130", "examples:"):
        assert word in text


@pytest.mark.parametrize(
    "line", ["", "generat", "generate x --temp 1", "generate x --top-k many", "models --priority no"]
)
def test_wrong_usage(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    assert ended.value.code == 2
    assert "usage: xlmstream" in capsys.readouterr().err
