"""The model that a recipe trains: its configuration and first weights."""

import torch

from xlmstream_worker.xlm import (
    XLMConfig,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMWithLMHeadModel,
)
from xlmstream_worker.xlm.pretrained import PreTrainedXLM

from .labelled_batches import TAGS
from .recipe import Recipe

BASE_LANGUAGE = "en"
MASK_TOKEN_ID = 5
CLASSES: dict[str | None, type[PreTrainedXLM]] = {
    None: XLMWithLMHeadModel,
    "language": XLMForSequenceClassification,
    "tags": XLMForTokenClassification,
}


def new_model(recipe: Recipe, vocabulary_size: int) -> PreTrainedXLM:
    """A body with its language-model head, or a model that labels: fresh weights drawn from the seed, or the weights of
    `recipe.init` as far as they fit (a shallower model takes the first layers)."""
    kind, config = CLASSES[recipe.head], new_config(recipe, vocabulary_size)
    torch.manual_seed(recipe.seed)
    return kind.from_pretrained(recipe.init, config=config) if recipe.init else kind(config)


def new_config(recipe: Recipe, vocabulary_size: int) -> XLMConfig:
    """The configuration. Models that label have no language embeddings: they read text of whatever language."""
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
        n_langs=1 if recipe.head else len(recipe.languages),
        max_position_embeddings=shape.max_positions,
        embed_init_std=shape.emb_dim**-0.5,
        mask_token_id=MASK_TOKEN_ID,
    )
    if recipe.head:
        names = sorted(recipe.lang2id) if recipe.head == "language" else TAGS
        config.update(
            {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
        )
    else:
        languages = {str(index): lang for lang, index in recipe.lang2id.items()}
        base = recipe.lang2id.get(BASE_LANGUAGE, 0)
        config.update({"lang2id": recipe.lang2id, "id2lang": languages, "lang_id": base})
    return config
