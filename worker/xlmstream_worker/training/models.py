"""The model that a recipe trains: its configuration and first weights."""

import math
from pathlib import Path
from typing import TypeAlias

import torch

from xlmstream_worker.xlm import (
    XLMConfig,
    XLMDecoder,
    XLMEncoderDecoder,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMTokenizer,
    XLMWithLMHeadModel,
)
from xlmstream_worker.xlm.head import XLMModelWithHead
from xlmstream_worker.xlm.pretrained import PreTrainedXLM

from .heads import BodyWithHeads
from .labelled_batches import BASE_LANGUAGE
from .names import ENTITIES
from .recipe import HEADS, LANGUAGE_BLIND, Recipe, RecipeError
from .word_classes import TAGS

MASK_TOKEN_ID = 5
CLASSES: dict[str | None, type[PreTrainedXLM]] = {
    None: XLMWithLMHeadModel,
    "language": XLMForSequenceClassification,
    "tags": XLMForTokenClassification,
    "ruled_tags": XLMForTokenClassification,
    "entities": XLMForTokenClassification,
    "answers": XLMForQuestionAnsweringSimple,
}
AnyModel: TypeAlias = PreTrainedXLM | XLMEncoderDecoder | BodyWithHeads


def new_model(recipe: Recipe, tokenizer: XLMTokenizer) -> AnyModel:
    """A language model, with or without heads, a translation model, or a model that labels: fresh weights drawn from
    the seed, or the weights of `recipe.init` as far as they fit (a shallower model takes the first layers, a smaller
    vocabulary its vectors)."""
    config = new_config(recipe, len(tokenizer.encoder))
    torch.manual_seed(recipe.seed)
    if recipe.translates:
        return _new_translation_model(recipe, config)
    model = _new_single_model(recipe, tokenizer, config)
    if recipe.head or not recipe.heads:
        return model
    assert isinstance(model, XLMWithLMHeadModel)
    return BodyWithHeads(model, {HEADS[name]: new_head(recipe, name, config.vocab_size) for name in recipe.heads})


def new_head(recipe: Recipe, objective: str, vocabulary_size: int) -> XLMModelWithHead:
    """A model with this head, and with a body, of fresh weights."""
    head = CLASSES[objective](new_config(recipe, vocabulary_size, objective))
    assert isinstance(head, XLMModelWithHead)
    return head


def _new_single_model(recipe: Recipe, tokenizer: XLMTokenizer, config: XLMConfig) -> PreTrainedXLM:
    kind = CLASSES[recipe.head]
    if not recipe.init:
        return kind(config)
    # Weights without a vocabulary beside them, as in RUN/best, are taken to have this one.
    has_own = (Path(recipe.init) / "vocab.json").is_file()
    theirs = XLMTokenizer.from_pretrained(recipe.init).encoder if has_own else tokenizer.encoder
    if theirs == tokenizer.encoder:
        return kind.from_pretrained(recipe.init, config=config)
    if missing := len(set(tokenizer.encoder) - set(theirs)):
        raise RecipeError(f"{recipe.name}: {recipe.init} has no vectors for {missing} tokens of the vocabulary")
    model = kind.from_pretrained(recipe.init, config=new_config(recipe, len(theirs)))
    assert isinstance(model, XLMModelWithHead)
    kept = torch.tensor([theirs[token] for token in tokenizer.encoder])
    places = torch.tensor(list(tokenizer.encoder.values()))
    vectors = model.get_input_embeddings().weight.detach()[kept]
    model.resize_token_embeddings(len(kept))
    with torch.no_grad():
        model.get_input_embeddings().weight[places] = vectors
    return model


def _new_translation_model(recipe: Recipe, config: XLMConfig) -> XLMEncoderDecoder:
    decoding = XLMConfig.from_dict(config.to_dict(), is_encoder=False, causal=True)
    encoder = XLMModel.from_pretrained(recipe.init, config=config) if recipe.init else XLMModel(config)
    if not recipe.init_decoder:
        return XLMEncoderDecoder(encoder, XLMDecoder(decoding))
    decoder = XLMDecoder.from_pretrained(recipe.init_decoder, config=decoding)
    _keep_statistics(decoder)
    return XLMEncoderDecoder(encoder, decoder)


@torch.no_grad()
def _keep_statistics(decoder: XLMDecoder) -> None:
    """Let each fresh norm after the cross-attention pass on what the norm before it makes: were it 1 and 0, the trained
    layers would read numbers of a size they have never seen. The variance of w * n + b over the channels, n having
    mean 0 and variance 1, is about mean(w^2) + var(b)."""
    for block in decoder.blocks():
        before = block.norm1
        spread = before.weight.square().mean() + before.bias.var(correction=0)
        block.norm15.weight.fill_(math.sqrt(spread))
        block.norm15.bias.fill_(before.bias.mean())


def new_config(recipe: Recipe, vocabulary_size: int, head: str | None = None) -> XLMConfig:
    """The configuration of what the recipe trains; of one of its heads, where it trains a body with several."""
    head = head or recipe.head
    states_languages = recipe.states_languages and head not in LANGUAGE_BLIND
    shape = recipe.architecture
    config = XLMConfig(
        vocab_size=vocabulary_size,
        emb_dim=shape.emb_dim,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        dropout=shape.dropout,
        # Dropout inside attention would rule out the fused kernel.
        attention_dropout=0.0,
        causal=recipe.causal,
        n_langs=len(recipe.languages) if states_languages else 1,
        max_position_embeddings=shape.max_positions,
        embed_init_std=shape.emb_dim**-0.5,
        mask_token_id=MASK_TOKEN_ID,
    )
    labels = {"language": sorted(recipe.lang2id), "tags": TAGS, "ruled_tags": TAGS, "entities": ENTITIES}
    if head in labels:
        names = labels[head]
        config.update(
            {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
        )
    if recipe.translates:
        # Of the cross-attention, whose trained neighbours expect more of it than a whisper.
        config.init_std = shape.emb_dim**-0.5
    if states_languages:
        languages = {str(index): lang for lang, index in recipe.lang2id.items()}
        base = recipe.lang2id.get(BASE_LANGUAGE, 0)
        config.update({"lang2id": recipe.lang2id, "id2lang": languages, "lang_id": base})
    return config
