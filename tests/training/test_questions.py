"""Template questions: what is asked of a sentence in each language, and what is not."""

import pytest
from xlmstream_worker.training.questions import QuestionMaker

PEOPLE = "Moses Moïse Mose Moisés Aaron Aarón David Obed Obeds"
KINDS = dict.fromkeys(PEOPLE.split(), "PERSON") | dict.fromkeys(["LORD", "Éternel", "HERR", "Jehová", "God"], "DIVINE")
KINDS["Egypt"] = "PLACE"


def asked(lang: str, sentence: str) -> dict[str, str]:
    made = QuestionMaker(lang, KINDS).questions(sentence)
    return {question.text: sentence[question.start : question.end] for question in made}


@pytest.mark.parametrize(
    ("lang", "sentence", "question", "answer"),
    [
        ("en", "And Moses went up to God, and fell down.", "Who went up to God?", "Moses"),
        ("en", "The LORD spoke to Moses, saying,", "To whom did the LORD speak?", "Moses"),
        ("en", "Boaz begat Obed; David the son of Obed slept.", "Whose son was David?", "Obed"),
        ("en", "It rained forty-two days.", "How many days?", "forty-two"),
        ("en", "Then Aaron went into Egypt.", "Where did Aaron go?", "Egypt"),
        ("fr", "Et Moïse monta vers l'Éternel, et dit:", "Qui monta vers l'Éternel?", "Moïse"),
        ("fr", "L'Éternel dit à Moïse: Va.", "À qui dit l'Éternel?", "Moïse"),
        ("fr", "Il marcha vingt-deux jours.", "Combien de jours?", "vingt-deux"),
        ("fr", "Il vécut six années.", "Combien d'années?", "six"),
        ("de", "Da sprach Mose zu dem Volk:", "Wer sprach zu dem Volk?", "Mose"),
        ("de", "Und der HERR redete mit Mose:", "Mit wem redete der HERR?", "Mose"),
        ("de", "David, der Sohn Obeds, kam.", "Wessen Sohn war David?", "Obeds"),
        ("es", "Y habló Jehová a Moisés, diciendo:", "¿Quién habló a Moisés?", "Jehová"),
        ("es", "Y Moisés dijo a Aarón:", "¿A quién dijo Moisés?", "Aarón"),
        ("es", "Había siete vacas.", "¿Cuántas vacas?", "siete"),
    ],
)
def test_questions_and_answers(lang: str, sentence: str, question: str, answer: str) -> None:
    assert asked(lang, sentence).get(question) == answer


@pytest.mark.parametrize(
    ("lang", "sentence"),
    [
        # A conjunction, an unknown word and a pronoun are no subjects, verbs or answers.
        ("en", "Moses and Aaron"),
        ("en", "Nobody went up to God"),
        ("en", "The LORD spoke to him"),
        ("es", "Oyendo Moisés la voz"),
        # Two answers.
        ("en", "seven days and ten days"),
        # A number of numbers.
        ("fr", "deux cents"),
    ],
)
def test_nothing_is_asked(lang: str, sentence: str) -> None:
    questions = asked(lang, sentence)
    assert not [text for text in questions if not text.startswith("Who spoke to him")]
