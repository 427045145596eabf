"""What the package promises to users: its names, its documentation, and no more than it needs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import xlmstream
import xlmstream.testing
from xlmstream import errors
from xlmstream.jobs import asyncio_jobs, blocking_jobs

PACKAGE = Path(xlmstream.__file__).parent


def test_the_names_of_the_package() -> None:
    assert xlmstream.__all__ == [
        "Answer",
        "Answers",
        "AsyncClient",
        "AsyncJob",
        "Cancelled",
        "Candidate",
        "CandidateFinished",
        "ChecksumMismatch",
        "Choice",
        "ChoiceScore",
        "Choices",
        "Classification",
        "Client",
        "CursorExpired",
        "DeadlineExceeded",
        "DeadlineInCompute",
        "DeadlineInQueue",
        "DeviceOutOfMemory",
        "Draining",
        "Embedding",
        "Event",
        "FieldViolation",
        "FilledMask",
        "FinishReason",
        "Generation",
        "InputTooLong",
        "InternalError",
        "InvalidArgument",
        "InvalidInput",
        "Job",
        "JobIdReused",
        "JobItem",
        "JobNotFound",
        "JobResult",
        "JobState",
        "JobStateConflict",
        "LabelScore",
        "Mapped",
        "Mask",
        "MaskCandidate",
        "MessageTooLarge",
        "ModelNotFound",
        "NoWorker",
        "NotFound",
        "PermissionDenied",
        "PoisonedInput",
        "Prompt",
        "ProtocolError",
        "Question",
        "QueueDown",
        "QueueFull",
        "QuotaExceeded",
        "RequestIdReused",
        "RequestNotFound",
        "ResourceExhausted",
        "RetryPolicy",
        "Score",
        "ScoredToken",
        "Span",
        "Started",
        "StreamFinished",
        "Tagging",
        "TaskUnsupported",
        "Tensor",
        "TextInput",
        "TextPair",
        "Timing",
        "Token",
        "TokenDelta",
        "TokenIds",
        "TokenLogprobs",
        "TokenScores",
        "Tokens",
        "Unauthenticated",
        "Unavailable",
        "UploadGap",
        "Usage",
        "XlmstreamError",
        "__version__",
    ]
    assert xlmstream.testing.__all__ == ["Answer", "Failure", "FakeServer"]
    for name in xlmstream.__all__:
        assert hasattr(xlmstream, name)


def test_every_exception_is_exported() -> None:
    kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert kinds <= set(xlmstream.__all__)


def test_every_module_and_public_class_is_documented() -> None:
    bare: list[str] = []
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "v1":  # generated
            continue
        module = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in module.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        bare += [f"{path}: {getattr(node, 'name', '')}" for node in (module, *classes) if not ast.get_docstring(node)]
    assert not bare


def test_the_client_is_light() -> None:
    """Importing everything loads neither torch nor redis nor numpy nor the packages of the service."""
    code = "import sys, xlmstream, xlmstream.testing, xlmstream.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "redis", "numpy", "rich", "transformers", "xlmstream_server", "xlmstream_worker"}


@pytest.mark.parametrize(
    ("Blocking", "Asyncio"),
    [
        (xlmstream.Client, xlmstream.AsyncClient),
        (blocking_jobs.Jobs, asyncio_jobs.AsyncJobs),
        (blocking_jobs.Job, asyncio_jobs.AsyncJob),
        (blocking_jobs.JobWatch, asyncio_jobs.AsyncJobWatch),
        (blocking_jobs.JobResults, asyncio_jobs.AsyncJobResults),
    ],
)
def test_the_two_clients_have_the_same_verbs(Blocking: type, Asyncio: type) -> None:
    def verbs(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert verbs(Blocking) == verbs(Asyncio)
    for name in verbs(Blocking):
        blocking, asyncio = getattr(Blocking, name), getattr(Asyncio, name)
        if not isinstance(blocking, property):
            assert blocking.__annotations__.keys() == asyncio.__annotations__.keys(), name
            assert blocking.__kwdefaults__ == asyncio.__kwdefaults__, name


def test_the_example_for_users_tests_works() -> None:
    documentation = xlmstream.testing.__doc__ or ""
    lines = [line for line in documentation.splitlines() if line.startswith("    ")]
    namespace: dict[str, object] = {}
    exec("\n".join(line[4:] for line in lines), namespace)
    test = namespace["test_greeting"]
    assert callable(test)
    test()
