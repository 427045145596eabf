"""The verbs of the tasks that do not generate, on both clients."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from xlmstream import Choices, InvalidInput, Question, Tensor, TextInput, TextPair
from xlmstream.tensor import tensor_of
from xlmstream.testing import Failure, FakeServer
from xlmstream.v1 import tensor_pb2
from xlmstream.v1.classification_pb2 import AGGREGATION_MAX
from xlmstream.v1.embedding_pb2 import POOLING_FIRST


def test_embed(clients: Any, server: FakeServer) -> None:
    one = clients.call(server.address, "embed", "Hello")
    several = clients.call(server.address, "embed", ["Hello", "In"])
    assert (one.shape, one.dtype, several.shape) == ((8,), np.float32, (2, 8))
    np.testing.assert_array_equal(one, several[0])
    assert not np.array_equal(several[0], several[1])


@pytest.mark.parametrize(("dtype", "kind"), [("float16", np.float16), ("bfloat16", np.float32)])
def test_embed_with_parameters(clients: Any, server: FakeServer, dtype: str, kind: type) -> None:
    exact = clients.call(server.address, "embed", "Hello", dimensions=4)
    short = clients.call(server.address, "embed", "Hello", pooling="first", dimensions=4, dtype=dtype, normalize=True)
    assert short.dtype == kind
    np.testing.assert_allclose(short, exact, atol=0.01)
    sent = server.requests[-1].parameters  # type: ignore[attr-defined]
    assert (sent.pooling, sent.dimensions, sent.normalize) == (POOLING_FIRST, 4, True)
    assert not sent.HasField("layer")


def test_embed_every_token(clients: Any, server: FakeServer) -> None:
    one, other = clients.call(server.address, "embed", ["one two three", "four"], pooling="none")
    assert (one.shape, other.shape) == ((3, 8), (1, 8))


def test_fill_mask(clients: Any, server: FakeServer) -> None:
    filled = clients.call(server.address, "fill_mask", "a <special1> c <special1>", top_k=2, targets=["b", "d"])
    assert filled.text == "a b c b"
    assert [(mask.start, mask.end, mask.token_index) for mask in filled.masks] == [(2, 12, 1), (15, 25, 3)]
    assert [candidate.text for candidate in filled.masks[0].candidates] == ["a b c <special1>", "a d c <special1>"]
    assert filled.masks[0].candidates[0].piece == "b</w>"


def test_classify(clients: Any, server: FakeServer) -> None:
    one, pair = clients.call(server.address, "classify", ["so negative", TextPair("good", "more")], labels=["negative"])
    assert (one.label, one.labels[0].index, one.usage.prompt_tokens) == ("negative", 2, 2)
    assert one.score == pytest.approx(0.8)
    assert pair.score == pytest.approx(0.1)
    assert server.requests[-1].inputs[1].text_pair.text == "more"  # type: ignore[attr-defined]
    alone = clients.call(server.address, "classify", TextPair("good", "more"))
    assert (alone.label, len(alone.labels)) == ("positive", 3)


def test_tag(clients: Any, server: FakeServer) -> None:
    text = "Ada met Bob"
    tagging = clients.call(server.address, "tag", text, aggregation="max", include_tokens=True)
    assert [text[span.start : span.end] for span in tagging.entities] == ["Ada", "Bob"]
    assert [(word.text, word.label) for word in tagging.words] == [("Ada", "B-NAME"), ("met", "O"), ("Bob", "B-NAME")]
    assert tagging.tokens[1].scores == pytest.approx((0.9, 0.1))
    assert server.requests[-1].parameters.aggregation == AGGREGATION_MAX  # type: ignore[attr-defined]


def test_answer(clients: Any, server: FakeServer) -> None:
    answers = clients.call(server.address, "answer", "Who?", "It was Ada", top_k=2)
    assert ([one.text for one in answers.answers], answers.text) == (["Ada", "was"], "Ada")
    assert answers.score == pytest.approx(0.6)
    both = clients.call(server.address, "answer", [Question("Who?", "Ada"), Question("Where?", TextInput(text="Here"))])
    assert [one.text for one in both] == ["Ada", "Here"]


def test_choose(clients: Any, server: FakeServer) -> None:
    choice = clients.call(server.address, "choose", "It is", ["a", "longest", "bb"])
    assert (choice.index, [one.index for one in choice.choices]) == (1, [1, 2, 0])
    [one] = clients.call(server.address, "choose", [Choices("It is", ["a"])])
    assert (one.index, one.score) == (0, 1.0)


def test_score(clients: Any, server: FakeServer) -> None:
    score = clients.call(server.address, "score", "one two", include_tokens=True, score_end=True)
    assert (score.log_probability, score.scored_tokens) == (-2.0, 2)
    assert [(one.token.piece, one.log_probability) for one in score.tokens] == [("one</w>", -1.0), ("two</w>", -1.0)]


def test_the_first_input_that_fails_is_named(clients: Any) -> None:
    with (
        FakeServer({"bad": Failure("INVALID_INPUT", "inputs[1].text: bad", field="inputs[1].text")}) as server,
        pytest.raises(InvalidInput) as failed,
    ):
        clients.call(server.address, "embed", ["good", "bad", "bad"])
    assert (failed.value.input_index, failed.value.field_violations[0].field) == (1, "inputs[1].text")


@pytest.mark.parametrize(
    ("verb", "inputs", "keywords", "field"),
    [
        ("embed", ["a", 7], {}, "inputs[1]"),
        ("embed", ["a"], {"pooling": "median"}, "parameters.pooling"),
        ("embed", ["a"], {"layer": -1}, "parameters.layer"),
        ("classify", ["a", ("b",)], {}, "inputs[1]"),
        ("answer", [Question("a", "b"), "c"], {}, "inputs[1]"),
        ("choose", [Choices("a", ["b", 3])], {}, "inputs[0].choices[1]"),  # type: ignore[list-item]
    ],
)
def test_what_cannot_be_sent_is_told_without_a_call(
    clients: Any, server: FakeServer, verb: str, inputs: Any, keywords: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as failed:
        clients.call(server.address, verb, inputs, **keywords)
    assert failed.value.field_violations[0].field == field
    assert not server.requests


@pytest.mark.parametrize("verb", ["embed", "fill_mask", "classify", "tag", "score"])
def test_a_misspelt_keyword_is_an_error(clients: Any, server: FakeServer, verb: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'top_kk'"):
        clients.call(server.address, verb, "a", top_kk=3)


def test_a_tensor_without_numpy() -> None:
    code = """
import sys
sys.modules["numpy"] = None
from xlmstream import Client
from xlmstream.testing import Failure, FakeServer
with FakeServer() as server, Client(server.address) as client:
    one, two = client.embed("a"), client.embed(["a", "b"], dimensions=2, dtype="bfloat16")
print(type(one).__name__, one.shape, len(one.numbers()), len(memoryview(one.data).cast("f")))
print(type(two).__name__, two.shape, len(two.tolist()), len(two.tolist()[0]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Tensor (8,) 8 8\nTensor (2, 2) 2 2\n"


def test_tensors_are_what_numpy_says() -> None:
    numbers = np.array([[0.5, -2.0], [3.25, 0.0], [1.0, -0.125]], dtype=np.float32)
    upper = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    for dtype, data in (
        (tensor_pb2.DATA_TYPE_FLOAT32, numbers.tobytes()),
        (tensor_pb2.DATA_TYPE_FLOAT16, numbers.astype(np.float16).tobytes()),
        (tensor_pb2.DATA_TYPE_BFLOAT16, upper),
    ):
        tensor = tensor_of(tensor_pb2.Tensor(dtype=dtype, shape=[3, 2], data=data))
        assert isinstance(tensor, Tensor)
        np.testing.assert_array_equal(tensor.numpy(), numbers)
        np.testing.assert_array_equal(np.asarray(tensor), numbers)
        assert tensor.tolist() == numbers.tolist()
