"""Text for hypothesis: what the rules look at, in all scripts, and what nobody would type."""

import effort
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from tokenizer.toy import ALL_SENTENCES

examples = settings(max_examples=effort.examples(150), suppress_health_check=list(HealthCheck))

WORDS = sorted({word for sentence in ALL_SENTENCES for word in sentence.split()})

# Every character that some rule names, and neighbours of them.
MARKS = (
    " .,'\"`’‘´‚“”„«»‹›!?:;()[]{}<>/\\-–—_…·%&$€£#@*+=~|^0123456789１０９％"
    "，。、．《》「」『』【】〈〉∶：？！；（）～━\xa0\u3000\u2003\t\n\r\x00\x1f\x85\xad\u200b\u200d\u2028\ufeff"
    "ŞşȘșŢţȚțĂăÂâÎîİıſßŉΣσςΌϓÅKéñüçœæﬁ\u0301\u0308\u0327\u05b0\u0651\u094d\u093cºª²½Ⅷ٣"
    "中文字あア가한ภาไทยहिन्दीعربيक़אבгдж👩👨🇫🇷🤷🏽\ufe0f𝔘𝚺\U00020000\U000e0001\U0001f9ff\ue000\uffff"
)
FRAGMENTS = (
    *(" '", "' ", ".'", "'.", "''", '".', '."', ',"', '",', '"(', ')."', " )", "( ", ") .", " :", " ;", "5 %"),
    *("...", "..", ". ", "?!", "--", "nº\xa0", "\xa0«\xa0", "\xa0»", "\xa0%", "1\xa02", "DOTMULTI", "DOTDOTMULTI"),
    *(
        "Mr.",
        "No. 5",
        "no. x",
        "e.g.",
        "U.S.",
        "a.b.",
        "etc.",
        "p. 3",
        "Nr. 5",
        "bzw.",
        "v. Chr.",
        "&amp;",
        "<s>",
        "</s>",
    ),
    *("<special1>", "<S>", "<unk>", "http://a.b/c?d=e", "x@y.zz", "it's", "l'eau", "d’un", "rock'n'roll", "can't"),
)

texts = st.lists(
    st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from(FRAGMENTS),
        st.sampled_from(MARKS),
        st.sampled_from((" ", " ", " ", "  ")),
        st.text(max_size=4),
        st.text(alphabet="abAB '.,\"()", max_size=6),
    ),
    max_size=14,
).map("".join)
