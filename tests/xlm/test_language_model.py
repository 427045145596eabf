"""XLMModel and XLMWithLMHeadModel against the oracle: every output field, in float32 and float64."""

import pytest
import torch
from xlmstream_worker.xlm import XLMWithLMHeadModel

CONFIGS = {
    "plain": {},
    "causal": {"causal": True},
    "languages": {"n_langs": 3},
    "languages without embeddings": {"n_langs": 3, "use_lang_emb": False},
    "sinusoidal": {"sinusoidal_embeddings": True},
    "relu": {"gelu_activation": False},
    "untied": {"tie_word_embeddings": False},
    "causal with languages": {"causal": True, "n_langs": 2},
    "chunked": {"chunk_size_feed_forward": 3},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_logits_states_attentions_and_loss_equal_the_oracle(oracle, fields, dtype):
    ours, theirs = oracle.pair(XLMWithLMHeadModel, dtype, **fields)
    call = oracle.inputs() | {"langs": torch.randint(0, fields.get("n_langs", 1), (3, 9))}
    call["labels"] = call["input_ids"].where(torch.rand(3, 9) < 0.7, -100)
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    call |= {"output_hidden_states": True, "output_attentions": True}
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    oracle.assert_equal(ours(**call, return_dict=False), theirs(**call, return_dict=False), dtype)
