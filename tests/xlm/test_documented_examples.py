"""The examples of the documentation, line for line, on a tiny local checkpoint in the place of the published one."""

import json
import math
import string

import pytest
import torch
from xlmstream_worker.xlm import (
    XLMConfig,
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMTokenizer,
    XLMWithLMHeadModel,
)

# The loss of an untrained head with two labels: ln 2.
UNDECIDED = math.log(2)
SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A directory as published: configuration, weights of the language model, vocabulary, merges."""
    directory = tmp_path_factory.mktemp("xlm-mlm-en-tiny")
    letters = [*string.ascii_lowercase, *string.digits, *".,?!;)('"]
    tokens = [*SPECIALS, *letters, *(f"{letter}</w>" for letter in letters), "my</w>", "is</w>"]
    (directory / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (directory / "merges.txt").write_text("m y</w> 9\ni s</w> 8\n")
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokens), "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128}
    XLMWithLMHeadModel(XLMConfig(**sizes)).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def tokenizer(checkpoint) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(checkpoint)


def test_configuration():
    # Initializing a XLM configuration
    configuration = XLMConfig()
    # Initializing a model (with random weights) from the configuration
    with torch.device("meta"):  # as documented but for this line: without it, 2.7 GB of them
        model = XLMModel(configuration)
    # Accessing the model configuration
    assert model.config is configuration


def test_language_model(checkpoint, tokenizer):
    model = XLMWithLMHeadModel.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
    outputs = model(**inputs, labels=inputs["input_ids"])
    loss = outputs.loss
    logits = outputs.logits
    assert loss.isfinite()
    assert logits.shape == (*inputs["input_ids"].shape, model.config.vocab_size)


def test_single_label_classification(checkpoint, tokenizer):
    model = XLMForSequenceClassification.from_pretrained(checkpoint)

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_class_id = logits.argmax().item()
    assert model.config.id2label[predicted_class_id] in ("LABEL_0", "LABEL_1")

    # To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
    num_labels = len(model.config.id2label)
    model = XLMForSequenceClassification.from_pretrained(checkpoint, num_labels=num_labels)

    labels = torch.tensor([1])
    loss = model(**inputs, labels=labels).loss
    assert loss.item() == pytest.approx(UNDECIDED, abs=0.25)


def test_multi_label_classification(checkpoint, tokenizer):
    model = XLMForSequenceClassification.from_pretrained(checkpoint, problem_type="multi_label_classification")

    inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_class_ids = torch.arange(0, logits.shape[-1])[torch.sigmoid(logits).squeeze(dim=0) > 0.5]

    # To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
    num_labels = len(model.config.id2label)
    model = XLMForSequenceClassification.from_pretrained(
        checkpoint, num_labels=num_labels, problem_type="multi_label_classification"
    )

    labels = torch.sum(
        torch.nn.functional.one_hot(predicted_class_ids[None, :].clone(), num_classes=num_labels), dim=1
    ).to(torch.float)
    loss = model(**inputs, labels=labels).loss
    assert loss.item() == pytest.approx(UNDECIDED, abs=0.25)


def test_multiple_choice(checkpoint, tokenizer):
    model = XLMForMultipleChoice.from_pretrained(checkpoint)

    prompt = "In Italy, pizza served in formal settings, such as at a restaurant, is presented unsliced."
    choice0 = "It is eaten with a fork and a knife."
    choice1 = "It is eaten while held in the hand."
    labels = torch.tensor(0).unsqueeze(0)  # choice0 is correct (according to Wikipedia ;)), batch size 1

    encoding = tokenizer([prompt, prompt], [choice0, choice1], return_tensors="pt", padding=True)
    outputs = model(**{k: v.unsqueeze(0) for k, v in encoding.items()}, labels=labels)  # batch size is 1

    # the linear classifier still needs to be trained
    loss = outputs.loss
    logits = outputs.logits
    assert loss.item() == pytest.approx(UNDECIDED, abs=0.25)
    assert logits.shape == (1, 2)


def test_token_classification(checkpoint, tokenizer):
    model = XLMForTokenClassification.from_pretrained(checkpoint)

    inputs = tokenizer(
        "HuggingFace is a company based in Paris and New York", add_special_tokens=False, return_tensors="pt"
    )

    with torch.no_grad():
        logits = model(**inputs).logits

    predicted_token_class_ids = logits.argmax(-1)

    # Note that tokens are classified rather then input words which means that
    # there might be more predicted token classes than words.
    # Multiple token classes might account for the same word
    predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]
    assert len(predicted_tokens_classes) == inputs["input_ids"].shape[1]
    assert set(predicted_tokens_classes) <= {"LABEL_0", "LABEL_1"}

    labels = predicted_token_class_ids
    loss = model(**inputs, labels=labels).loss
    assert loss.item() < 0.7


def test_simple_question_answering(checkpoint, tokenizer):
    model = XLMForQuestionAnsweringSimple.from_pretrained(checkpoint)

    question, text = "Who was Jim Henson?", "Jim Henson was a nice puppet"

    inputs = tokenizer(question, text, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)

    answer_start_index = outputs.start_logits.argmax()
    answer_end_index = outputs.end_logits.argmax()

    predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
    assert isinstance(tokenizer.decode(predict_answer_tokens, skip_special_tokens=True), str)

    # target is "nice puppet"
    target_start_index = torch.tensor([14])
    target_end_index = torch.tensor([15])

    outputs = model(**inputs, start_positions=target_start_index, end_positions=target_end_index)
    loss = outputs.loss
    # An untrained head thinks every position equally likely.
    assert loss.item() == pytest.approx(math.log(inputs.input_ids.shape[1]), abs=0.25)


def test_question_answering(checkpoint, tokenizer):
    model = XLMForQuestionAnswering.from_pretrained(checkpoint)

    input_ids = torch.tensor(tokenizer.encode("Hello, my dog is cute", add_special_tokens=True)).unsqueeze(
        0
    )  # Batch size 1
    start_positions = torch.tensor([1])
    end_positions = torch.tensor([3])

    outputs = model(input_ids, start_positions=start_positions, end_positions=end_positions)
    loss = outputs.loss
    assert loss.isfinite()
    assert list(outputs) == ["loss"]
