"""Loading a served model: its directory becomes configuration, tokenizer, weights, and the card that gateways see.

A directory holds `config.json`, the tokenizer's `vocab.json` and `merges.txt`, the weights, and optionally
`xlmstream.json` with serving choices; or a head for the body of another directory (`xlm.shared_body`). What a model can
do follows from the class that config.json names in `architectures` and from the weights: a head that the file does not
hold serves no task. Knows nothing of requests, queues or engines.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from xlmstream.v1.common_pb2 import (
    TASK_ANSWER_QUESTION,
    TASK_CHOOSE_MULTIPLE,
    TASK_CLASSIFY_SEQUENCE,
    TASK_CLASSIFY_TOKENS,
    TASK_DETOKENIZE,
    TASK_EMBED,
    TASK_FILL_MASK,
    TASK_GENERATE,
    TASK_SCORE,
    TASK_TOKENIZE,
    TASK_TRANSLATE,
    Task,
)
from xlmstream.v1.models_pb2 import (
    INPUT_FORMAT_HUGGINGFACE,
    INPUT_FORMAT_ORIGINAL,
    PROBLEM_TYPE_MULTI_LABEL,
    PROBLEM_TYPE_REGRESSION,
    PROBLEM_TYPE_SINGLE_LABEL,
    PROBLEM_TYPE_UNSPECIFIED,
    InputFormat,
    Model,
    ProblemType,
    TranslationDirection,
)

from xlmstream_worker.bodies import Bodies
from xlmstream_worker.config import ConfigError, DeviceConfig, ModelConfig
from xlmstream_worker.decoding_modes import decoding_modes
from xlmstream_worker.detokenize import PieceTexts
from xlmstream_worker.observe import fields
from xlmstream_worker.options import with_defaults_of_directory
from xlmstream_worker.text_model import TRANSLATOR, TextModel, TextRate, config_of, is_translator, languages_of
from xlmstream_worker.xlm import (
    LoadReport,
    XLMConfig,
    XLMEncoderDecoder,
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMTokenizer,
    XLMWithLMHeadModel,
)
from xlmstream_worker.xlm.checkpoint import BASE_PREFIX
from xlmstream_worker.xlm.shared_body import body_directory
from xlmstream_worker.xlm.words import SEGMENTED_LANGUAGES

log = logging.getLogger(__name__)

AnyXLM: TypeAlias = (
    XLMModel
    | XLMWithLMHeadModel
    | XLMForSequenceClassification
    | XLMForTokenClassification
    | XLMForMultipleChoice
    | XLMForQuestionAnsweringSimple
    | XLMForQuestionAnswering
)

_FORMATS: Mapping[str, InputFormat.ValueType] = {
    "huggingface": INPUT_FORMAT_HUGGINGFACE,
    "original": INPUT_FORMAT_ORIGINAL,
}

_CLASSES: Mapping[str, type[AnyXLM]] = {
    each.__name__: each
    for each in (
        XLMModel,
        XLMWithLMHeadModel,
        XLMForSequenceClassification,
        XLMForTokenClassification,
        XLMForMultipleChoice,
        XLMForQuestionAnsweringSimple,
        XLMForQuestionAnswering,
    )
}
# What each head is for, beside the tasks that need none.
_HEAD_TASKS: Mapping[type[AnyXLM], tuple[Task.ValueType, ...]] = {
    XLMForSequenceClassification: (TASK_CLASSIFY_SEQUENCE,),
    XLMForTokenClassification: (TASK_CLASSIFY_TOKENS,),
    XLMForMultipleChoice: (TASK_CHOOSE_MULTIPLE,),
    XLMForQuestionAnsweringSimple: (TASK_ANSWER_QUESTION,),
    XLMForQuestionAnswering: (TASK_ANSWER_QUESTION,),
}
_PROBLEM_TYPES: Mapping[str, ProblemType.ValueType] = {
    "single_label_classification": PROBLEM_TYPE_SINGLE_LABEL,
    "multi_label_classification": PROBLEM_TYPE_MULTI_LABEL,
    "regression": PROBLEM_TYPE_REGRESSION,
}


@dataclass(frozen=True, slots=True)
class LoadedModel(TextModel):
    """A model as this process serves it."""

    network: AnyXLM | XLMEncoderDecoder


def load_model(model: ModelConfig, device: DeviceConfig, bodies: Bodies | None = None) -> LoadedModel:
    """Read a model directory onto the device. Of `bodies` it takes the one it shares, if it is there.

    Raises:
        ConfigError: a choice does not fit the model, or the model cannot be served.
        XLMError, OSError, ValueError: a file is missing or damaged; the message names it.
    """
    model = with_defaults_of_directory(model)
    config = config_of(model.path, model.causal)
    tokenizer = XLMTokenizer.from_pretrained(model.path)
    _check_vocabulary(model.name, tokenizer, config)
    languages = languages_of(config)
    default_language = _default_language(model, config, languages)
    dtype = model.dtype or device.dtype
    network: AnyXLM | XLMEncoderDecoder
    if is_translator(model.path):
        _check_translator(model, languages)
        network = XLMEncoderDecoder.from_pretrained(model.path, dtype=dtype, device=device.device)
        tasks = [TASK_TRANSLATE, TASK_TOKENIZE, TASK_DETOKENIZE, TASK_EMBED]
    else:
        network, report = _class_of(model.name, config).from_pretrained(
            model.path, config=config, dtype=dtype, device=device.device, output_loading_info=True
        )
        tasks = _tasks(model.name, network, report, tokenizer)
        if bodies is not None:
            bodies.share(model.path, dtype, network)
    if isinstance(network, XLMWithLMHeadModel) and not config.causal and model.causal is None:
        # The published xlm-clm-* checkpoints say so too, and are not.
        log.info(
            "served as a masked model, as config.json says; one trained to continue text needs --causal true",
            extra=fields(model=model.name),
        )
    classifies = TASK_CLASSIFY_SEQUENCE in tasks
    labelled = classifies or TASK_CLASSIFY_TOKENS in tasks
    card = Model(
        name=model.name,
        version=model.version or "1",
        revision=_revision(model, config, default_language),
        tasks=tasks,
        languages=sorted(languages),
        max_input_tokens=config.max_position_embeddings,
        vocabulary_size=config.vocab_size,
        dtype=dtype,
        causal=config.causal,
        decoding_modes=decoding_modes(config, tokenizer) if TASK_GENERATE in tasks else [],
        input_format=_FORMATS[_input_format(model)],
        default_language=default_language,
        labels=[str(config.id2label[index]) for index in range(config.num_labels)] if labelled else [],
        problem_type=_problem_type(config) if classifies else PROBLEM_TYPE_UNSPECIFIED,
        embedding_size=config.emb_dim,
        layers=config.n_layers,
        mask_token=str(tokenizer.mask_token) if TASK_FILL_MASK in tasks else "",
        answers_by_beam=isinstance(network, XLMForQuestionAnswering) and TASK_ANSWER_QUESTION in tasks,
        translation_directions=_directions(model, languages),
    )
    for language in languages.keys() - SEGMENTED_LANGUAGES or ("en",):  # the rules of each are compiled at first use
        tokenizer.tokenize("Warm up.", lang=language)
    pieces = PieceTexts(tokenizer.get_vocab(), frozenset(tokenizer.all_special_ids))
    return LoadedModel(card, config, tokenizer, pieces, languages, TextRate(), model.path, network)


def _class_of(name: str, config: XLMConfig) -> type[AnyXLM]:
    """The class that config.json names; the language model where it names none, as the oldest files do."""
    named = config.architectures or [XLMWithLMHeadModel.__name__]
    for architecture in named:
        if architecture in _CLASSES:
            return _CLASSES[architecture]
    known = ", ".join([*_CLASSES, TRANSLATOR])
    raise ConfigError(f"model {name}: architecture {', '.join(named)} is none of {known}")


def _check_translator(model: ModelConfig, languages: Mapping[str, int]) -> None:
    """Refuse what does not fit a translation model."""
    if len(languages) < 2:
        raise ConfigError(f"model {model.name}: a translation model needs lang2id with two languages or more")
    if model.causal is not None:
        raise ConfigError(f"model {model.name}: causal is no choice for a translation model, which has a side of each")
    if model.input_format == "huggingface":
        raise ConfigError(f"model {model.name}: a translation model reads </s> X </s>: input_format must be original")


def _input_format(model: ModelConfig) -> str:
    return model.input_format or ("original" if is_translator(model.path) else "huggingface")


def _directions(model: ModelConfig, languages: Mapping[str, int]) -> list[TranslationDirection]:
    """What a translation model was trained for, where somebody said so."""
    if model.translations is None:
        return []
    if not is_translator(model.path):
        raise ConfigError(f"model {model.name}: translations are for translation models")
    directions = []
    for given in model.translations:
        source, _, target = given.partition("-")
        if source == target or not {source, target} <= languages.keys():
            known = ", ".join(sorted(languages))
            raise ConfigError(f"model {model.name}: no translation {given!r}; its languages: {known}")
        directions.append(TranslationDirection(source_language=source, target_language=target))
    return directions


def _tasks(name: str, network: AnyXLM, report: LoadReport, tokenizer: XLMTokenizer) -> list[Task.ValueType]:
    """What the model can do with the weights that were in its file."""
    core = [missing for missing in report.missing if missing.startswith(BASE_PREFIX) or isinstance(network, XLMModel)]
    if core:
        raise ConfigError(f"model {name}: its weights lack {', '.join(core[:8])}")
    common = [TASK_TOKENIZE, TASK_DETOKENIZE, TASK_EMBED]
    if report.missing:
        log.warning(
            "the checkpoint has no weights for its head: its tasks are not served",
            extra=fields(model=name, missing=", ".join(report.missing)),
        )
        return common
    if not isinstance(network, XLMWithLMHeadModel):
        return [*_HEAD_TASKS.get(type(network), ()), *common]
    # The decoder knows no adaptive softmax.
    generates = not network.pred_layer.asm and decoding_modes(network.config, tokenizer)
    generating = [TASK_GENERATE] if generates else []
    if network.config.causal:
        return [*generating, TASK_SCORE, *common]
    mask_id = tokenizer.mask_token_id
    maskable = mask_id is not None and mask_id < network.config.vocab_size
    return [*generating, *([TASK_FILL_MASK, TASK_SCORE] if maskable else []), *common]


def _problem_type(config: XLMConfig) -> ProblemType.ValueType:
    """As the configuration says; else as transformers would have trained it: one output is a value to regress."""
    if config.problem_type is not None:
        return _PROBLEM_TYPES[config.problem_type]
    return PROBLEM_TYPE_REGRESSION if config.num_labels == 1 else PROBLEM_TYPE_SINGLE_LABEL


def _check_vocabulary(name: str, tokenizer: XLMTokenizer, config: XLMConfig) -> None:
    vocabulary = tokenizer.get_vocab()
    if max(tokenizer.encoder.values(), default=-1) >= config.vocab_size:
        raise ConfigError(f"model {name}: vocab.json has ids beyond the {config.vocab_size} of config.json")
    try:
        "".join(vocabulary).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"model {name}: a piece in vocab.json is no valid Unicode: {error.reason}") from None


def _default_language(model: ModelConfig, config: XLMConfig, languages: Mapping[str, int]) -> str:
    if model.default_language is None:
        return next((code for code, index in languages.items() if index == config.lang_id), "")
    if model.default_language not in languages:
        known = ", ".join(sorted(languages)) or "none"
        raise ConfigError(f"model {model.name}: unknown default language {model.default_language!r}; known: {known}")
    return model.default_language


def _revision(model: ModelConfig, config: XLMConfig, default_language: str) -> str:
    """Hash of everything that decides the results, dtype and device aside: the files and the serving choices."""
    choices = [config.causal, _input_format(model), default_language]
    digest = hashlib.sha256(json.dumps(choices).encode())
    for directory in filter(None, (model.path, body_directory(model.path))):
        for path in sorted(path for path in directory.iterdir() if _decides_results(path)):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _decides_results(path: Path) -> bool:
    return path.is_file() and path.suffix in (".json", ".txt", ".safetensors", ".bin") and path.name != "xlmstream.json"
