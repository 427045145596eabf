"""Normalisation before words are cut: punctuation, unprintable characters, Romanian letters.

The rule tables give, in effect, what three Moses scripts (replace-unicode-punctuation, normalize-punctuation,
remove-non-printing-char) give as XLM's preprocessing runs them one after the other. Rules that can no longer
fire at their place in that order are left out, and patterns are written so that none is quadratic.

Source: facebookresearch/XLM tools/tokenize.sh; moses-smt/mosesdecoder scripts/tokenizer.
"""

from functools import lru_cache

from xlmstream_worker.xlm.rewriting import Rule, Text, replace_characters, rule

_ASCII_PUNCTUATION = {
    **dict.fromkeys("，、", ","),
    **dict.fromkeys("”“《》「」", '"'),
    **dict.fromkeys("∶：", ":"),
    **dict(zip("０１２３４５６７８９", "0123456789", strict=True)),
    **dict(zip("？（）！；～’━〈〉【】％", "?()!;~'-<>[]%", strict=True)),
    "…": "...",
}

_ASCII_QUOTES_AND_DASHES = {"„": '"', "–": "-", "—": " - ", "´": "'", "‘": "'", "‚": "'"}

# Every character that is rewritten wherever it stands (Romanian letters apart).
REWRITTEN_CHARACTERS = frozenset(_ASCII_PUNCTUATION) | frozenset(_ASCII_QUOTES_AND_DASHES) | frozenset("。．`«»()")

_UNICODE_PUNCTUATION: tuple[Rule, ...] = (
    replace_characters(_ASCII_PUNCTUATION),
    rule("。", r"。\s*", ". "),
    rule("．", r"．\s*", ". "),
)

_SPACING: tuple[Rule, ...] = (
    rule("\r", r"\r", ""),
    rule("(", r"(\()", r" \1"),
    rule(")", r"(\))", r"\1 "),
    rule("  ", r" {2,}", " "),
    rule(") ", r"(\)) ([.!:?;,])", r"\1\2"),
    rule("( ", r"(\() ", r"\1"),
    rule(" )", r" (\))", r"\1"),
    rule(" %", r"(\d) (%)", r"\1\2"),
    rule(" :", r" (:)", r"\1"),
    rule(" ;", r" (;)", r"\1"),
)

_QUOTES_AND_DASHES: tuple[Rule, ...] = (
    rule("`", r"`", "'"),
    rule("''", r"''", ' " '),
    replace_characters(_ASCII_QUOTES_AND_DASHES),
    rule("  ", r" {2,}", " "),
    rule("''", r"''", '"'),
    rule("«", r"\xa0«\xa0|«\xa0?", '"'),
    rule("»", r"\xa0?»", '"'),
)

# French typography: a no-break space before certain marks.
_PSEUDO_SPACES: tuple[Rule, ...] = (
    rule("\xa0%", r"\xa0(%)", r"\1"),
    rule("nº\xa0", r"(nº)\xa0", r"\1 "),
    rule("\xa0:", r"\xa0(:)", r"\1"),
    rule("\xa0", r"\xa0(ºC|cm)", r" \1"),
    rule("\xa0", r"\xa0([?!;])", r"\1"),
    rule(",\xa0", r"(,)\xa0", r"\1 "),
    rule("  ", r" {2,}", " "),
)

# A closing quotation mark and the comma or full stop beside it change places.
_ENGLISH_QUOTE_ORDER = (rule('"', r'(")([,.]+)', r"\2\1"),)
_CONTINENTAL_QUOTE_ORDER = (
    rule(',"', r'(,)(")', r"\2\1"),
    # Matches every run of full stops whole, so that a long run without a quotation mark is scanned once.
    rule('."', r'(\.+)(?:(")(\s*[^<]))?', r"\2\1\3"),
)

_DECIMAL_COMMA = (rule("\xa0", r"(\d)\xa0(\d)", r"\1,\2"),)
_DECIMAL_POINT = (rule("\xa0", r"(\d)\xa0(\d)", r"\1.\2"),)

_ROMANIAN: tuple[Rule, ...] = (
    replace_characters(
        {
            **dict.fromkeys("ŞȘ", "S"),
            **dict.fromkeys("şș", "s"),
            **dict.fromkeys("ŢȚ", "T"),
            **dict.fromkeys("ţț", "t"),
            **dict.fromkeys("ĂÂ", "A"),
            **dict.fromkeys("ăâ", "a"),
            "Î": "I",
            "î": "i",
        }
    ),
)


@lru_cache(maxsize=64)
def _rules(lang: str) -> tuple[Rule, ...]:
    """Every rule for the language, in order."""
    quote_order: tuple[Rule, ...] = ()
    if lang == "en":
        quote_order = _ENGLISH_QUOTE_ORDER
    elif lang in ("de", "es", "fr"):
        quote_order = _CONTINENTAL_QUOTE_ORDER
    decimals = _DECIMAL_COMMA if lang in ("de", "es", "cz", "cs", "fr") else _DECIMAL_POINT
    return (*_UNICODE_PUNCTUATION, *_SPACING, *_QUOTES_AND_DASHES, *_PSEUDO_SPACES, *quote_order, *decimals)


def normalize(text: Text, lang: str) -> None:
    """Normalise punctuation and white space at the ends, then drop unprintable characters, in place.

    Line breaks and tabs are among the dropped, not replaced by spaces: "line\\nbreak" becomes "linebreak".
    Source: facebookresearch/XLM, through the order of transformers 4.56.2 (`moses_pipeline`).
    """
    text.rewrite(_rules(lang))
    text.strip()
    text.remove_unprintable()


def fold_romanian(text: Text) -> None:
    """Write Romanian's precomposed letters without their marks, in place (decomposed ones stay)."""
    text.rewrite(_ROMANIAN)
