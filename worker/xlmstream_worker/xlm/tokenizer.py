"""XLMTokenizer: text to the ids an XLM model was trained on, and back.

The way of a text, top to bottom: special tokens are found (`special_splitting`), what lies between is normalised
and cut into words (`words`: `normalize`, `moses`, `segmenters`), each word into pieces (`bpe`), pieces become ids
(`vocabulary`), ids become model inputs (`calls`, `layout`, `encoding`).

Behaviour: transformers 4.56.2 with sacremoses 0.2.0, id for id, except that `lang` and `bypass_tokenizer` are
honoured, offsets exist, and nothing is quadratic or unbounded.
"""
# ruff: noqa: S107 - the defaults of `..._token` are special tokens, not passwords

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from xlmstream_worker.xlm.aligned import AlignedText, piece_offsets
from xlmstream_worker.xlm.bpe import END_OF_WORD, BytePairEncoder
from xlmstream_worker.xlm.calls import Reading, TokenizerCalls
from xlmstream_worker.xlm.encoding import to_list
from xlmstream_worker.xlm.layout import NO_LIMIT_TOKENS, SIDES, Offset
from xlmstream_worker.xlm.pieces import PieceEncoder
from xlmstream_worker.xlm.sequences import Encoded
from xlmstream_worker.xlm.special_splitting import Span, SpecialSplitter
from xlmstream_worker.xlm.special_tokens import DEFAULT_ADDITIONAL_SPECIAL_TOKENS, AddedToken
from xlmstream_worker.xlm.tokenizer_files import (
    read_merges,
    read_settings,
    read_vocabulary,
    write_settings,
    write_vocabulary,
)
from xlmstream_worker.xlm.words import WordCutter

_log = logging.getLogger(__name__)

Item = TypeVar("Item")


class XLMTokenizer(TokenizerCalls):
    """Moses (or jieba, PyThaiNLP, KyTea) words, optionally folded, then byte-pair encoding.

    Threads may share one as long as none adds tokens.

    Args:
        vocab_file: vocab.json, token to id.
        merges_file: merges.txt, one merge a line.
        unk_token, bos_token, sep_token, pad_token, cls_token, mask_token: special tokens by role. Sequences are
            `bos A sep` (transformers never uses `cls_token`). There is no `eos_token` unless one is passed.
        additional_special_tokens: special tokens without a role.
        lang2id: language code to the id the model knows it by.
        id2lang: the reverse, as it was saved (keys may be strings).
        do_lowercase_and_remove_accent: fold case and accents; off for the 17- and 100-language models.
        settings: model_max_length, padding_side, truncation_side, clean_up_tokenization_spaces,
            split_special_tokens, eos_token, added_tokens_decoder. Others are kept, and saved again.

    Raises:
        OSError, ValueError: a file is missing or malformed; contradicting arguments.
    """

    def __init__(
        self,
        vocab_file: str | Path,
        merges_file: str | Path,
        unk_token: str | AddedToken = "<unk>",
        bos_token: str | AddedToken = "<s>",
        sep_token: str | AddedToken = "</s>",
        pad_token: str | AddedToken = "<pad>",
        cls_token: str | AddedToken = "</s>",
        mask_token: str | AddedToken = "<special1>",
        additional_special_tokens: Sequence[str | AddedToken] = DEFAULT_ADDITIONAL_SPECIAL_TOKENS,
        lang2id: dict[str, int] | None = None,
        id2lang: Mapping[Any, str] | None = None,
        do_lowercase_and_remove_accent: bool = True,
        **settings: Any,
    ) -> None:
        if lang2id is not None and id2lang is not None and len(lang2id) != len(id2lang):
            raise ValueError(f"lang2id has {len(lang2id)} languages and id2lang {len(id2lang)}")
        self.lang2id = lang2id
        self.id2lang = id2lang
        self.do_lowercase_and_remove_accent = do_lowercase_and_remove_accent
        older_limit = settings.pop("max_len", None)
        self.model_max_length = settings.pop("model_max_length", older_limit) or NO_LIMIT_TOKENS
        self.padding_side = _side("padding_side", settings)
        self.truncation_side = _side("truncation_side", settings)
        self.clean_up_tokenization_spaces = bool(settings.pop("clean_up_tokenization_spaces", False))
        self.split_special_tokens = bool(settings.pop("split_special_tokens", False))
        added_tokens = settings.pop("added_tokens_decoder", None) or {}
        roles = {
            "bos_token": bos_token,
            "eos_token": settings.pop("eos_token", None),
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        self._other_settings = settings
        self._reported_languages: set[str] = set()
        self.merges = read_merges(merges_file)
        self._bpe = BytePairEncoder({(m[0], m[1]): rank for m, rank in self.merges.items() if len(m) == 2})
        self._cutter = WordCutter(fold=do_lowercase_and_remove_accent)
        super().__init__(
            read_vocabulary(vocab_file),
            roles,
            additional_special_tokens,
            added_tokens,
            lowercase=do_lowercase_and_remove_accent,
        )

    @classmethod
    def from_pretrained(cls, directory: str | Path, **overrides: Any) -> Self:
        """Load what `save_pretrained` (ours or transformers') or the model hub's files left in a directory.

        Args:
            directory: a local directory with vocab.json and merges.txt, the other files being optional; or with a
                head, whose body's directory has them.
            overrides: constructor arguments that win over the saved ones.

        Raises:
            FileNotFoundError: no such directory, or a file is missing.
            ValueError: a file is malformed.
            CheckpointError: a head's body is not there.
        """
        return cls(**read_settings(directory, overrides))

    def save_pretrained(self, directory: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write everything `from_pretrained` needs (transformers loads it too); returns the paths."""
        root = Path(directory)
        root.mkdir(parents=True, exist_ok=True)
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        settings = {
            **self._other_settings,
            "lang2id": self.lang2id,
            "id2lang": self.id2lang,
            "do_lowercase_and_remove_accent": self.do_lowercase_and_remove_accent,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "split_special_tokens": self.split_special_tokens,
        }
        paths = write_settings(root, prefix, self, settings)
        return paths + self.save_vocabulary(root, filename_prefix)

    def save_vocabulary(self, directory: str | Path, filename_prefix: str | None = None) -> tuple[str, str]:
        """Write vocab.json and merges.txt into an existing directory; returns their paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        return write_vocabulary(Path(directory), prefix, self.encoder, self.merges)

    # Text to tokens

    def tokenize(
        self,
        text: str,
        *,
        lang: str = "en",
        bypass_tokenizer: bool = False,
        split_special_tokens: bool | None = None,
    ) -> list[str]:
        """The pieces of a text, those outside the vocabulary included; arguments as for a call."""
        if split_special_tokens is None:
            split_special_tokens = self.split_special_tokens
        reading = Reading(lang, bypass_tokenizer, split_special_tokens=split_special_tokens)
        return self._read(text, reading, self._piece_encoder, lambda token: token)

    def _encode_text(self, text: str, reading: Reading, with_offsets: bool) -> Encoded:
        if with_offsets:
            return self._encode_aligned(text, reading)
        return Encoded(self._read(text, reading, self._id_encoder, self._ids.__getitem__))

    def _read(
        self, text: str, reading: Reading, encoder: PieceEncoder[Item], special: Callable[[str], Item]
    ) -> list[Item]:
        """The items of a text: `encoder` for what is text, `special` for special and added tokens."""
        self._check_language(reading.lang)
        if self._lowers_first(reading):
            text = self._splitter.lower(text)
        items: list[Item] = []
        for start, end, is_token in self._spans(text, reading):
            piece = text[start:end]
            if is_token:
                items.append(special(piece))
            elif reading.bypass_tokenizer:
                items += encoder.encode_words(piece.split())
            else:
                items += encoder.encode(piece, reading.lang)
        return items

    def _encode_aligned(self, text: str, reading: Reading) -> Encoded:
        """The same ids, each with the span of `text` it comes from."""
        self._check_language(reading.lang)
        aligned = AlignedText.of(text)
        if self._lowers_first(reading):
            self._splitter.lower_aligned(aligned)
        ids: list[int] = []
        offsets: list[Offset] = []
        for start, end, is_token in self._spans(aligned.value, reading):
            piece = aligned.part(start, end)
            if is_token:
                ids.append(self._ids[piece.value])
                offsets.append((piece.starts[0], piece.ends[-1]))
                continue
            words = piece.split() if reading.bypass_tokenizer else self._cutter.words(piece, reading.lang)
            for word in words:
                pieces = self._bpe.pieces(word.value)
                ids += self.convert_tokens_to_ids(pieces)
                offsets += piece_offsets(word, pieces)
        return Encoded(ids, offsets)

    def _spans(self, text: str, reading: Reading) -> list[Span]:
        """The special tokens of a text and what lies between them."""
        return [Span(0, len(text), False)] if reading.split_special_tokens else self._splitter.split(text)

    def _lowers_first(self, reading: Reading) -> bool:
        """Whether the text is lower-cased before words are cut, not only after.

        transformers reads every text as English and lower-cases it first, so its Moses rules see no capitals. In
        other languages words are cut as XLM's own preprocessing did: from the text as it is.
        """
        return self.do_lowercase_and_remove_accent and (reading.lang == "en" or reading.bypass_tokenizer)

    def _check_language(self, lang: str) -> None:
        if self.lang2id and lang not in self.lang2id and lang not in self._reported_languages:
            self._reported_languages.add(lang)
            _log.warning("language %r is none of the model's: %s", lang, ", ".join(self.lang2id))

    def _vocabulary_changed(self) -> None:
        super()._vocabulary_changed()
        special = self.all_special_tokens
        self._splitter = SpecialSplitter(special, self._added_tokens_decoder.values())
        self._piece_encoder = PieceEncoder(self._cutter, self._bpe.pieces)
        self._id_encoder = PieceEncoder(self._cutter, self._word_ids)
        # What decoding sets off by spaces: ordinary added tokens, and special ones outside the base vocabulary.
        beyond = {token for token in self.additional_special_tokens if self._ids.get(token, 0) >= self.vocab_size}
        self._standing_alone = self._added_tokens_encoder.keys() - set(special) | beyond

    def _word_ids(self, word: str) -> list[int]:
        return self.convert_tokens_to_ids(self._bpe.pieces(word))

    # Ids to text

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        spaces_between_special_tokens: bool = True,
    ) -> str:
        """The text of ids (an integer, a list or a tensor): pieces joined, `</w>` as a space.

        What Moses cut stays cut, so the original is not recovered. Special tokens of the base vocabulary are
        joined like other pieces; added tokens stand between spaces.

        Args:
            token_ids: ids; those outside the vocabulary give the unknown token.
            skip_special_tokens: leave special tokens out.
            clean_up_tokenization_spaces: drop the space before punctuation and English contractions; default:
                the tokenizer's setting.
            spaces_between_special_tokens: set added tokens off by spaces.
        """
        ids = to_list(token_ids)
        tokens = self.convert_ids_to_tokens([ids] if isinstance(ids, int) else ids, skip_special_tokens)
        texts: list[str] = []
        run: list[str] = []
        for token in tokens:
            if token not in self._standing_alone:
                run.append(token)
                continue
            if text := self.convert_tokens_to_string(run):
                texts.append(text)
            run = []
            texts.append(token)
        if run:
            texts.append(self.convert_tokens_to_string(run))
        text = (" " if spaces_between_special_tokens else "").join(texts)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, sequences: Iterable[Any], **options: Any) -> list[str]:
        """`decode` for each sequence."""
        return [self.decode(sequence, **options) for sequence in sequences]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Pieces joined, `</w>` as a space."""
        return "".join(tokens).replace(END_OF_WORD, " ").strip()

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Drop the space before punctuation and English contractions."""
        for mark in (" .", " ?", " !", " ,"):
            text = text.replace(mark, mark[1:])
        text = text.replace(" ' ", "'")
        for contraction in (" n't", " 'm", " 's", " 've", " 're"):
            text = text.replace(contraction, contraction[1:])
        return text


def _side(name: str, settings: dict[str, Any]) -> str:
    side = settings.pop(name, "right")
    if side not in SIDES:
        raise ValueError(f"{name} must be one of {SIDES}, got {side!r}")
    return str(side)
