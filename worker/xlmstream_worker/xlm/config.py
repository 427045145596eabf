"""XLMConfig: the shape and behaviour of a model, and its `config.json`.

Knows the file format (aliases, unknown keys, what is written and what is left out) and checks values; builds nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from .config_checks import check_config, int_keys, json_value
from .errors import CheckpointError, ConfigError

CONFIG_FILE = "config.json"
# Accepted as keywords and in files, and dropped: they say where a configuration came from, or how to run it.
PROVENANCE_KEYS = frozenset({"name_or_path", "_name_or_path", "_commit_hash", "attn_implementation", "model_type"})


def read_values(path: str | Path) -> tuple[Path, dict[str, object]]:
    """The `config.json` of a checkpoint directory, or that file itself: its path and its values. CheckpointError if it
    is missing or no JSON object."""
    file = Path(path)
    file = file / CONFIG_FILE if file.is_dir() else file
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no configuration at {file}: expected a directory with a {CONFIG_FILE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds a JSON {type(values).__name__}, not an object")
    return file, values


class CommonFields:
    """The fields every configuration of the format has beside XLM's own. The class attributes are the defaults,
    and a field equal to its default is not written to `config.json`.

    The second block are the generation settings that older checkpoints keep in their model configuration.
    """

    return_dict: bool = True
    output_hidden_states: bool = False
    output_attentions: bool = False
    torchscript: bool = False
    tie_word_embeddings: bool = True
    chunk_size_feed_forward: int = 0
    is_encoder_decoder: bool = False
    is_decoder: bool = False
    architectures: list[str] | None = None
    finetuning_task: str | None = None
    task_specific_params: dict[str, object] | None = None
    problem_type: str | None = None
    tokenizer_class: str | None = None
    prefix: str | None = None
    eos_token_id: int | list[int] | None = None
    sep_token_id: int | None = None
    decoder_start_token_id: int | None = None
    dtype: str | None = None
    transformers_version: str | None = None

    max_length: int = 20
    min_length: int = 0
    do_sample: bool = False
    early_stopping: bool | str = False
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: list[list[int]] | None = None
    num_return_sequences: int = 1
    output_scores: bool = False
    return_dict_in_generate: bool = False
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    remove_invalid_values: bool = False
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None


class XLMConfig(CommonFields):
    """Configuration of an XLM model. The defaults are those of xlm-mlm-en-2048.

    Every field is an attribute. `hidden_size`, `num_attention_heads`, `num_hidden_layers` and `n_words` read and
    write `emb_dim`, `n_heads`, `n_layers` and `vocab_size`. Keywords that are no field of the format become
    attributes too and are written back on saving (`lang2id`, `id2lang`, `asm_cutoffs`, training options of the
    original checkpoints, ...).

    Worth knowing, since the names mislead: `pad_index` is what the model masks and zeroes, `pad_token_id` what
    generation fills finished rows with; the feed-forward width is always 4 * emb_dim; the published
    `xlm-clm-*` configurations say `causal: false` and must be loaded with `causal=True`.

    Raises ConfigError (a ValueError) for values no model can have, naming the field.
    """

    model_type: ClassVar[str] = "xlm"

    def __init__(
        self,
        vocab_size: int = 30145,
        emb_dim: int = 2048,
        n_layers: int = 12,
        n_heads: int = 16,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        gelu_activation: bool = True,
        sinusoidal_embeddings: bool = False,
        causal: bool = False,
        asm: bool = False,
        n_langs: int = 1,
        use_lang_emb: bool = True,
        max_position_embeddings: int = 512,
        embed_init_std: float = 2048**-0.5,
        layer_norm_eps: float = 1e-12,
        init_std: float = 0.02,
        bos_index: int = 0,
        eos_index: int = 1,
        pad_index: int = 2,
        unk_index: int = 3,
        mask_index: int = 5,
        is_encoder: bool = True,
        summary_type: str = "first",
        summary_use_proj: bool = True,
        summary_activation: str | None = None,
        summary_proj_to_labels: bool = True,
        summary_first_dropout: float = 0.1,
        start_n_top: int = 5,
        end_n_top: int = 5,
        mask_token_id: int = 0,
        lang_id: int = 0,
        pad_token_id: int = 2,
        bos_token_id: int = 0,
        **kwargs: object,
    ) -> None:
        self.vocab_size = vocab_size
        self.emb_dim = emb_dim
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.gelu_activation = gelu_activation
        self.sinusoidal_embeddings = sinusoidal_embeddings
        self.causal = causal
        self.asm = asm
        self.n_langs = n_langs
        self.use_lang_emb = use_lang_emb
        self.max_position_embeddings = max_position_embeddings
        self.embed_init_std = embed_init_std
        self.layer_norm_eps = layer_norm_eps
        self.init_std = init_std
        self.bos_index = bos_index
        self.eos_index = eos_index
        self.pad_index = pad_index
        self.unk_index = unk_index
        self.mask_index = mask_index
        self.is_encoder = is_encoder
        self.summary_type = summary_type
        self.summary_use_proj = summary_use_proj
        self.summary_activation = summary_activation
        self.summary_proj_to_labels = summary_proj_to_labels
        self.summary_first_dropout = summary_first_dropout
        self.start_n_top = start_n_top
        self.end_n_top = end_n_top
        self.mask_token_id = mask_token_id
        self.lang_id = lang_id
        self.pad_token_id = pad_token_id
        self.bos_token_id = bos_token_id
        self.id2label: dict[int, str] = {}
        self.label2id: dict[str, int] | None = {}
        self.pruned_heads: dict[int, list[int]] = {}
        self._set_labels(kwargs.pop("num_labels", None), kwargs.pop("id2label", None), kwargs.pop("label2id", None))
        self.update(kwargs)
        check_config(self)

    # -- derived and aliased values ------------------------------------------------------------------------------

    @property
    def use_return_dict(self) -> bool:
        """Whether models return output objects unless told otherwise."""
        return self.return_dict and not self.torchscript

    @property
    def states_languages(self) -> bool:
        """Whether the model has language embeddings."""
        return self.use_lang_emb and self.n_langs > 1

    @property
    def num_labels(self) -> int:
        """How many labels the classification heads have: the size of `id2label`. Assigning it renames the labels
        to LABEL_0, LABEL_1, ... unless their number stays the same."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        if len(self.id2label) != count:
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}
            self.label2id = {label: index for index, label in self.id2label.items()}

    @property
    def hidden_size(self) -> int:
        """Alias of `emb_dim`."""
        return self.emb_dim

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        self.emb_dim = value

    @property
    def num_attention_heads(self) -> int:
        """Alias of `n_heads`."""
        return self.n_heads

    @num_attention_heads.setter
    def num_attention_heads(self, value: int) -> None:
        self.n_heads = value

    @property
    def num_hidden_layers(self) -> int:
        """Alias of `n_layers`."""
        return self.n_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        self.n_layers = value

    @property
    def n_words(self) -> int:
        """Alias of `vocab_size`, as the first published checkpoints call it."""
        return self.vocab_size

    @n_words.setter
    def n_words(self, value: int) -> None:
        self.vocab_size = value

    # -- changing ------------------------------------------------------------------------------------------------

    def update(self, values: Mapping[str, object]) -> None:
        """Assign the given fields, aliases included. Unknown names become attributes. The caller checks."""
        labels = {key: values[key] for key in ("num_labels", "id2label", "label2id") if key in values}
        for key, value in values.items():
            if key in PROVENANCE_KEYS or key in labels:
                continue
            if key.startswith("__") or self._is_method(key):
                raise ConfigError(f"{key!r} cannot be a configuration field")
            if key in ("dtype", "torch_dtype"):
                self.dtype = str(value).removeprefix("torch.") if value is not None else None
            elif key == "pruned_heads":
                self.pruned_heads = int_keys(key, value)
            else:
                setattr(self, key, value)
        if labels:
            self._set_labels(labels.get("num_labels"), labels.get("id2label"), labels.get("label2id"))

    def has_field(self, key: str) -> bool:
        """Whether `key` is a field, an alias or an attribute of this configuration."""
        return not key.startswith("_") and hasattr(self, key) and not self._is_method(key)

    def _is_method(self, key: str) -> bool:
        member = getattr(type(self), key, None)
        return callable(member) or (isinstance(member, property) and member.fset is None)

    def _set_labels(self, num_labels: object, id2label: object, label2id: object) -> None:
        """Labels by names (`id2label`, which wins) or by number."""
        if id2label is not None:
            self.id2label = int_keys("id2label", id2label)
            if label2id is not None and not isinstance(label2id, dict):
                raise ConfigError(f"label2id must be a mapping of label to index, not {label2id!r}")
            self.label2id = label2id
            return
        count = 2 if num_labels is None else num_labels
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ConfigError(f"num_labels must be a non-negative integer, not {count!r}")
        self.num_labels = count

    # -- files ---------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, object]:
        """What `config.json` holds: XLM's own fields, everything set to other than its default, unknown keys."""
        values: dict[str, object] = {
            key: value
            for key, value in self.__dict__.items()
            if not hasattr(CommonFields, key) or value != getattr(CommonFields, key)
        }
        values["model_type"] = self.model_type
        if self.id2label == {0: "LABEL_0", 1: "LABEL_1"}:
            del values["id2label"], values["label2id"]
        if not self.pruned_heads:
            del values["pruned_heads"]
        return values

    def to_json_string(self) -> str:
        """`to_dict()` as JSON with sorted keys, two spaces of indent and a final newline."""
        plain = {key: json_value(key, value) for key, value in self.to_dict().items()}
        return json.dumps(plain, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, object], **overrides: object) -> Self:
        """A configuration from the content of a `config.json`; `overrides` win over the file."""
        config = cls(**values)  # type: ignore[arg-type]  # the constructor checks what it is given
        config.update(overrides)
        check_config(config)
        return config

    @classmethod
    def from_pretrained(cls, path: str | Path, **overrides: object) -> Self:
        """Read the `config.json` of a checkpoint directory, or that file itself.

        Raises CheckpointError if it is missing or no JSON object, ConfigError if a value cannot be.
        """
        file, values = read_values(path)
        try:
            return cls.from_dict(values, **overrides)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `config.json` into `directory`, creating it if needed."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        (target / CONFIG_FILE).write_text(self.to_json_string(), encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, XLMConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"XLMConfig {self.to_json_string()}"
