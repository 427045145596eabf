"""Losses of the pre-training objectives: a model and a batch in, one differentiable number out.

Source: Lample & Conneau 2019 (arXiv:1901.07291) section 3 for CLM, MLM, TLM; the translation ranking of
Yang et al. 2019 (arXiv:1902.08564), without margin.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xlmstream_worker.xlm import (
    XLMEncoderDecoder,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMWithLMHeadModel,
)
from xlmstream_worker.xlm.language_model import PredictionLayer

from .batches import IGNORED, Batch, PairBatch
from .lm_loss import lm_loss
from .translation_batches import TranslationBatch

RANKING_SCALE = 20.0


def language_model_loss(model: XLMWithLMHeadModel, batch: Batch) -> Tensor:
    """Mean cross-entropy, in nats per target, of the batch's targets: CLM, MLM and TLM alike."""
    return _token_loss(hidden_states(model.transformer, batch), model.pred_layer, batch.targets)


def translation_loss(model: XLMEncoderDecoder, batch: TranslationBatch, smoothing: float) -> Tensor:
    """Mean cross-entropy, in nats per target, of the translations given their sources."""
    source, target = batch.source, batch.target
    assert source.mask is not None
    states = model.decoder(
        target.ids,
        hidden_states(model.encoder, source),
        source.mask.sum(1).long(),
        langs=target.langs,
        attention_mask=target.mask,
    )
    return _token_loss(states, model.decoder.pred_layer, target.targets, smoothing)


def _token_loss(states: Tensor, layer: PredictionLayer, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    asked = targets != IGNORED
    head = layer.proj
    assert isinstance(head, nn.Linear)
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    return lm_loss(states[asked], head.weight, head.bias, targets[asked], dtype, smoothing)


LabelModel = XLMForSequenceClassification | XLMForTokenClassification | XLMForQuestionAnsweringSimple


def label_loss(model: LabelModel, batch: Batch) -> Tensor:
    """Mean cross-entropy of the labels: of the whole texts, which stand first, of the tokens, or of the two ends of the
    answers, which stand first."""
    if isinstance(model, XLMForQuestionAnsweringSimple):
        asked = {"start_positions": batch.targets[:, 0], "end_positions": batch.targets[:, 1]}
    else:
        asked = {"labels": batch.targets[:, 0] if isinstance(model, XLMForSequenceClassification) else batch.targets}
    loss = model(batch.ids, attention_mask=batch.mask, langs=batch.langs, return_dict=True, **asked).loss
    assert isinstance(loss, Tensor)
    return loss


def ranking_loss(model: XLMWithLMHeadModel, batch: PairBatch) -> Tensor:
    """Each sentence must pick its translation among those of the batch, in both directions."""
    left, right = sentence_vectors(model.transformer, batch.left), sentence_vectors(model.transformer, batch.right)
    scores = RANKING_SCALE * left @ right.t()
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.t(), own)) / 2


def sentence_vectors(body: XLMModel, batch: Batch) -> Tensor:
    """(B, E) unit vectors: the mean of the last layer over all real tokens, `</s>` included."""
    states = hidden_states(body, batch).float()
    if batch.mask is not None:
        states = states * batch.mask.unsqueeze(-1)
    return F.normalize(states.sum(1), dim=-1)


def hidden_states(body: XLMModel, batch: Batch) -> Tensor:
    """(B, T, E) states of the last layer."""
    output = body(
        batch.ids, attention_mask=batch.mask, langs=batch.langs, position_ids=batch.positions, return_dict=True
    )
    states: Tensor = output.last_hidden_state
    return states
