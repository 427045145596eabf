"""The output types: mapping, attribute, index, slice and tuple are views of the same values."""

from dataclasses import fields

import pytest
import torch
from transformers import modeling_outputs
from transformers.models.xlm import modeling_xlm
from xlmstream_worker.xlm import outputs

NAMES = [
    "BaseModelOutput",
    "MaskedLMOutput",
    "SequenceClassifierOutput",
    "MultipleChoiceModelOutput",
    "TokenClassifierOutput",
    "QuestionAnsweringModelOutput",
    "XLMForQuestionAnsweringOutput",
]


@pytest.mark.parametrize("name", NAMES)
def test_fields_and_their_order_are_the_documented_ones(name):
    theirs = getattr(modeling_outputs, name, None) or getattr(modeling_xlm, name)
    assert [field.name for field in fields(getattr(outputs, name))] == [field.name for field in fields(theirs)]


@pytest.fixture
def output():
    return outputs.MaskedLMOutput(logits=torch.ones(2), attentions=(torch.zeros(1),))


def test_only_computed_fields_are_in_the_mapping(output):
    assert list(output) == list(output.keys()) == ["logits", "attentions"]
    assert len(output) == 2
    assert output.loss is None
    assert "loss" not in output
    assert output.get("loss") is None
    with pytest.raises(KeyError):
        output["loss"]
    with pytest.raises(KeyError):
        output["to_tuple"]
    assert dict(output) == {"logits": output.logits, "attentions": output.attentions}


def test_every_access_gives_the_same_object(output):
    assert output.logits is output["logits"] is output[0] is output[:1][0] is output.to_tuple()[0]
    assert output[-1] is output.attentions
    assert output[:] == output.to_tuple()
    first, second = output.values()
    assert first is output.logits
    assert second is output.attentions
    with pytest.raises(IndexError):
        output[2]


def test_assigning_a_field_puts_it_first_where_it_belongs(output):
    output.loss = torch.tensor(1.0)
    assert output[0] is output.loss
    assert list(output) == ["loss", "logits", "attentions"]
