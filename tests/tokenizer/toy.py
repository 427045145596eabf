"""A small vocabulary and sentences of our own, for everything that needs no published data."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

# Written for these tests: everyday sentences with the punctuation, numbers and abbreviations that rules look at.
SENTENCES: dict[str, list[str]] = {
    "en": [
        "The quick brown fox doesn't jump over 1,234.5 lazy dogs.",
        "Dr. Smith (aged 42) said: \"It's 5 o'clock, isn't it?\"",
        "E.g. the U.S. economy grew by 3.5 % in Nov. 2019 ... or did it?!",
        "See https://example.org/a_b?c=1&d=2#e or write to someone@example.org.",
        "'Tis the Joneses' rock'n'roll, he'd've said.  Two  spaces -- and a dash – or two — here.",
        "No. 7 is missing. Nos. 3, 4 and 5 are not. It cost $1.99 (or 2€)!",
    ],
    "fr": [
        "L'été dernier, j'ai mangé « trop » de crêpes : c'était délicieux !",
        "Qu'est-ce que c'est ? M. Dupont n'en sait rien, etc.",
        "Il a payé 1\xa0234,50\xa0€ pour l'œuvre d'art, n’est-ce pas ?",
    ],
    "de": [
        "Die Straße ist z.B. 1.234,5 m lang, sagte er „leise“.",
        "Am 3. Oktober kommt Prof. Müller mit ca. 20 Gästen nach Köln.",
        '»Wirklich?«, fragte sie. "Ja", sagte er.',
    ],
    "es": ["¿Dónde está el Sr. García? ¡No lo sé!", "El niño comió 2,5 kg de jamón, p. ej. ayer."],
    "it": ["L'amico dell'uomo è qui: un po' tardi, però.", "Perché no? Costa 3,50 euro."],
    "ro": ["Ţara şi oraşul sînt frumoase; Înţeleg că mâine plouă.", "Știința și țara, dl. Popescu ş.a.m.d."],
    "cs": ["Příliš žluťoučký kůň úpěl ďábelské ódy.", "Tj. v r. 1989 to bylo 5 %."],
    "el": ["Η γρήγορη αλεπού πηδάει πάνω από τον σκύλο· γιατί;", "ΟΔΟΣ ΑΘΗΝΩΝ, αρ. 5."],
    "ru": ["Съешь ещё этих мягких французских булок, да выпей чаю.", "Он сказал: «Нет, т.е. да!»"],
    "bg": ["Жълтата дюля беше щастлива, че пухът замръзна.", "Иван каза: „Добре“."],
    "ar": ["مرحبا بالعالم، كيف حالك؟", "يبلغ عدد السكان ١٢٣٤ نسمة."],
    "ur": ["یہ ایک مثال ہے۔ آپ کیسے ہیں؟"],
    "hi": ["नमस्ते दुनिया, आप कैसे हैं?", "यह हिन्दी का एक वाक्य है।"],
    "tr": ["Pijamalı hasta yağız şoföre çabucak güvendi.", "İstanbul'da ILIK bir gün."],
    "vi": ["Không có gì quý hơn độc lập tự do.", "Tôi là sinh viên."],
    "sw": ["Haba na haba hujaza kibaba.", "Ng'ombe wa maskini hazai."],
    "ko": ["안녕하세요, 세계! 오늘은 날씨가 좋습니다.", "한국어 문장 3개."],
    "th": ["สวัสดีชาวโลก วันนี้อากาศดี"],
    "zh": ["你好，世界！今天天气很好。", "他说：“这是１２３％的努力”……对吗？"],
    "ja": ["こんにちは、世界。今日は良い天気です！"],
    "xx": [
        "Emoji 👩‍👩‍👧 and 🇫🇷 and 🤷🏽‍♀️!",
        "zero\u200bwidth soft\u00adhyphen bom\ufeff tab\there line\nbreak",
        "cafe\u0301 (decomposed) and ﬁ ligature, ß, ŉ, K, Å",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𝚺",
    ],
}
ALL_SENTENCES = [sentence for sentences in SENTENCES.values() for sentence in sentences]

SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{index}>" for index in range(10))]
LANGUAGES = ["en", "fr", "de", "es", "it", "ro", "cs", "el", "ru", "zh", "th", "ja", "ko"]


def write_vocabulary(directory: Path, texts: list[str], merges: int = 400, lowercase: bool = True) -> Path:
    """Train merges on `texts` and write vocab.json, merges.txt and tokenizer_config.json."""
    counts = Counter(word for text in texts for word in (text.lower() if lowercase else text).split())
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        learned.append(best)
        for symbols in words.values():
            place = 0
            while place + 1 < len(symbols):
                if (symbols[place], symbols[place + 1]) == best:
                    symbols[place : place + 2] = ["".join(best)]
                place += 1
    letters = sorted({letter for word in counts for letter in word})
    tokens = dict.fromkeys([*SPECIAL, *letters, *(f"{letter}</w>" for letter in letters), *map("".join, learned)])
    directory.mkdir(parents=True, exist_ok=True)
    ids = {token: index for index, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = [f"{left} {right} {1000 - rank}\n" for rank, (left, right) in enumerate(learned)]
    (directory / "merges.txt").write_text("".join(lines), encoding="utf-8")
    config = {
        "do_lowercase_and_remove_accent": lowercase,
        "lang2id": {lang: index for index, lang in enumerate(LANGUAGES)},
        "id2lang": {str(index): lang for index, lang in enumerate(LANGUAGES)},
        "model_max_length": 512,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
