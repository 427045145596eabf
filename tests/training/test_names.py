"""Names in aligned text: found by their capitals, sorted by the words around them, carried over to translations."""

import pytest
from xlmstream_worker.training.corpus import Row
from xlmstream_worker.training.names import NameTable, resemble

LINES = {
    "en": """David said to Joab, Go to Hebron.
Then David went up to Hebron.
They lived in Hebron, and David the king saw it.
And Joab the son of Zeruiah heard it.
He fought against the Philistines with Joab.
For the Philistines came.
He slept forty days in the land.""",
    "fr": """David dit à Joab: Va à Hébron.
Et David monta à Hébron.
Ils habitèrent à Hébron, et David le roi le vit.
Et Joab, fils de Tseruja, l'apprit.
Il combattit les Philistins avec Joab.
Car les Philistins vinrent.
Il dormit quarante jours dans le pays.""",
    "de": """Und David sprach zu Joab: Gehe gen Hebron.
Da zog David hinauf gen Hebron.
Sie wohnten in Hebron, und David, der König, sah es.
Und Joab, der Sohn der Zeruja, hörte es.
Er stritt wider die Philister mit Joab.
Denn die Philister kamen.
Er schlief vierzig Tage im Lande.""",
}


@pytest.fixture(scope="module")
def table() -> NameTable:
    sentences = zip(*(text.splitlines() for text in LINES.values()), strict=True)
    rows = [Row("train", dict(zip(LINES, texts, strict=True))) for texts in sentences]
    return NameTable(rows * 3, list(LINES))


@pytest.mark.parametrize(
    ("lang", "word", "kind"),
    [
        ("en", "David", "PERSON"),
        ("en", "Hebron", "PLACE"),
        ("en", "Philistines", "PEOPLE"),
        ("en", "forty", "NUMBER"),
        ("en", "LORD", "DIVINE"),
        ("en", "Then", None),
        ("fr", "Hébron", "PLACE"),
        ("fr", "Philistins", "PEOPLE"),
        ("de", "Joab", "PERSON"),
        ("de", "Philister", "PEOPLE"),
        # Nouns, not names.
        ("de", "König", None),
        ("de", "Tage", None),
    ],
)
def test_kinds_of_names(table: NameTable, lang: str, word: str, kind: str | None) -> None:
    assert table[lang].get(word) == kind


def test_spellings_of_one_name_resemble_each_other() -> None:
    assert resemble("Chîriath", "Kiriath")
    assert resemble("Schemaeja", "Shemaiah")
    assert not resemble("König", "David")
