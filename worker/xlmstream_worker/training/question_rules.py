"""The question templates of each language: regular expressions over clauses and sentences, and what they ask.

`N` stands for whoever or whatever a statement is about: a name, or one of a few nouns that act in these texts.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Grammar:
    """The rules of one language.

    joints: words that link a clause to those before it. name: the regular expression that `N` stands for. no_verbs:
    words that no statement about a name begins or goes on with. vague: words that make an answer say nothing, or too
    much. clauses: (pattern, question) over a whole clause; sentences: the same, anywhere in a sentence.

    In a pattern the group `answer` is the answer, NUMBER any number in words; `{x}` in a question is the group `x`.
    """

    joints: str
    name: str
    no_verbs: str
    vague: str
    clauses: tuple[tuple[str, str], ...]
    sentences: tuple[tuple[str, str], ...]


_SPEECH = {
    "en": r"(?:said|spoke|answered)",
    "fr": r"(?:dit|parla|répondit)",
    "de": r"(?:sprach|redete)",
    "es": r"(?:dijo|habló|respondió)",
}
_ANSWER_WORDS = r"(?P<answer>[\w']+(?: [\w']+){0,3})"
_REST = r"(?P<rest>\w+(?:[ ']\w+){0,11})"

GRAMMARS = {
    "en": Grammar(
        joints="and then but so now for when while",
        name=r"(?:(?:[Tt]he )?[A-Z]\w+(?: God| Christ)?|[Tt]he (?:king|queen|man|woman|people|priest|prophet|serpent|"
        r"angel|servants|men|children of Israel|high priest))",
        no_verbs="and the of son sons or with in who whom which to my your his their our a an as also for king from at "
        "that these is not but by on before when until because says therefore however also himself",
        vague="him her them me you us it himself themselves and that saying this these",
        clauses=(
            (rf"(?P<answer>N) {_REST}", "Who {rest}?"),
            (rf"(?P<who>N) {_SPEECH['en']} to {_ANSWER_WORDS}", "To whom did {who} speak?"),
            (
                r"(?P<who>N) (?:went|departed|fled|traveled|went up|went down) "
                r"(?:to|into) (?P<answer>N)",
                "Where did {who} go?",
            ),
            (r"(?P<who>N) (?:came|came up|came down) (?:to|into) (?P<answer>N)", "Where did {who} come?"),
            (r"(?P<who>N) (?:lived|dwelt|stayed) (?:in|at) (?P<answer>N)", "Where did {who} live?"),
            (r"(?P<who>N) became the father of (?P<answer>N)", "Whose father was {who}?"),
        ),
        sentences=(
            (r"(?<![\w-])(?P<who>N),? the son of (?P<answer>N)", "Whose son was {who}?"),
            (r"(?<![\w-])(?P<answer>NUMBER) (?P<what>[a-z]\w+(?:s|en))\b", "How many {what}?"),
            (r"(?<![\w-])(?P<answer>N),? king of (?P<of>N)", "Who was king of {of}?"),
        ),
    ),
    "fr": Grammar(
        joints="et alors mais or car puis quand lorsque",
        name=r"(?:(?:[Ll]')?[A-ZÉÈ]\w+(?:-[A-ZÉÈ]\w+)?(?: Dieu)?|(?:[Ll]es? |[Ll]a |[Ll]')(?:roi|reine|homme|femme|"
        r"peuple|sacrificateur|prophète|serpent|ange|serviteurs|hommes|enfants d'Israël))",
        no_verbs="et de du des d le la les fils ou avec en qui que à au aux son sa ses leur leurs mon ton car comme "
        "dans par pour sur roi dont ni est ne n",
        vague="lui elle eux moi toi nous vous et qui ce cela celui ceux en",
        clauses=(
            (rf"(?P<answer>N) {_REST}", "Qui {rest}?"),
            (rf"(?P<who>N) (?P<verb>{_SPEECH['fr']}) à {_ANSWER_WORDS}", "À qui {verb} {who}?"),
            (
                r"(?P<who>N) (?P<verb>(?:se )?(?:alla|vint|monta|descendit|arriva|partit|"
                r"retourna|rendit|demeura|habita|mourut)) (?:à|en|dans|pour) (?P<answer>N)",
                "Où {verb} {who}?",
            ),
            (r"(?P<who>N) engendra (?P<answer>N)", "Qui {who} engendra-t-il?"),
        ),
        sentences=(
            (r"(?<![\w-])(?P<who>N),? fils (?:de |d')(?P<answer>N)", "De qui {who} était-il le fils?"),
            (r"(?<![\w-])(?P<answer>NUMBER) (?P<what>[b-df-gj-np-tvwxz]\w+s)\b", "Combien de {what}?"),
            (r"(?<![\w-])(?P<answer>NUMBER) (?P<what>[aeiouyhéèêâ]\w+s)\b", "Combien d'{what}?"),
            (r"(?<![\w-])(?P<answer>N),? roi (?:de |d')(?P<of>N)", "Qui était roi de {of}?"),
        ),
    ),
    "de": Grammar(
        joints="und denn aber da also darnach darauf danach",
        name=r"(?:(?:der |Gott der )?[A-ZÄÖÜ]\w+(?:-[A-ZÄÖÜ]\w+)?(?: der HERR)?|(?:[Dd]er |[Dd]ie |[Dd]as )"
        r"(?:König|Königin|Mann|Weib|Volk|Priester|Prophet|Schlange|Engel|Knechte|Männer|Kinder Israel|Hohepriester))",
        no_verbs="und der die das des dem den oder mit in im aber auch zu zum zur von vom samt mein dein sein ihr an "
        "auf nicht daß ist ein eine so wie als über unter da nun bei durch um wenn ob",
        vague="ihm ihr ihnen mir dir uns euch sich ihrer seinem seiner und der daß sprach diesem",
        clauses=(
            (rf"(?P<answer>N) (?:aber )?{_REST}", "Wer {rest}?"),
            (
                r"(?P<verb>[a-zäöü]\w+) (?P<answer>N) (?P<rest>[a-zäöü]\w+(?: \w+){0,11})",
                "Wer {verb} {rest}?",
            ),
            (rf"(?P<who>N) (?P<verb>{_SPEECH['de']}) zu {_ANSWER_WORDS}", "Zu wem {verb} {who}?"),
            (rf"(?P<verb>{_SPEECH['de']}) (?P<who>N) zu {_ANSWER_WORDS}", "Zu wem {verb} {who}?"),
            (rf"(?P<who>N) (?P<verb>redete|sprach) mit {_ANSWER_WORDS}", "Mit wem {verb} {who}?"),
            (
                r"(?P<who>N) (?:aber )?(?P<verb>zog|kam|ging|floh|reiste|kehrte)(?: hinauf| hinab| wieder)? "
                r"(?:nach|gen|in) (?P<answer>N)",
                "Wohin {verb} {who}?",
            ),
            (r"(?P<who>N) (?:aber )?(?P<verb>wohnte|blieb|starb) (?:zu|in) (?P<answer>N)", "Wo {verb} {who}?"),
            (r"(?P<who>N) zeugte (?P<answer>N)", "Wen zeugte {who}?"),
        ),
        sentences=(
            (r"(?<![\w-])(?P<who>N),? der Sohn (?P<answer>N)", "Wessen Sohn war {who}?"),
            (r"(?<![\w-])(?P<answer>NUMBER) (?P<what>[A-ZÄÖÜ][a-zäöü]+)\b", "Wie viele {what}?"),
            (r"(?<![\w-])(?P<answer>N),? der König (?:in |zu |von )(?P<of>N)", "Wer war König in {of}?"),
        ),
    ),
    "es": Grammar(
        joints="y entonces mas pero e así cuando",
        name=r"(?:[A-ZÁÉÍÓÚ]\w+(?:-\w+)?(?: Dios)?|(?:[Ee]l |[Ll]a |[Ll]os )(?:rey|reina|hombre|varón|mujer|pueblo|"
        r"sacerdote|profeta|serpiente|ángel|siervos|hombres|hijos de Israel))",
        no_verbs="y e o u de del la el las los hijo hijos con en que a al su sus mi tu por para como no ni rey cuando "
        "todo si sobre hasta porque contra mas es desde entre",
        vague="él ella ellos mí ti nos vosotros y diciendo quien este todos ella",
        clauses=(
            (rf"(?P<answer>N) {_REST}", "¿Quién {rest}?"),
            (
                r"(?P<verb>[a-zéó]\w+[óo]|fue|vio|dio|hizo|dice|vino|puso) (?P<answer>N) "
                r"(?P<rest>[a-z]\w*(?: \w+){0,11})",
                "¿Quién {verb} {rest}?",
            ),
            (rf"(?P<verb>{_SPEECH['es']}) (?P<who>N) a {_ANSWER_WORDS}", "¿A quién {verb} {who}?"),
            (rf"(?P<who>N) (?P<verb>{_SPEECH['es']}) a {_ANSWER_WORDS}", "¿A quién {verb} {who}?"),
            (
                r"(?P<verb>fue|vino|subió|descendió|volvió|llegó|huyó) (?P<who>N) a (?P<answer>N)",
                "¿Adónde {verb} {who}?",
            ),
            (r"(?P<verb>habitó|murió|moró|reinó) (?P<who>N) en (?P<answer>N)", "¿Dónde {verb} {who}?"),
            (r"(?P<who>N) engendró a (?P<answer>N)", "¿A quién engendró {who}?"),
        ),
        sentences=(
            (r"(?<![\w-])(?P<who>N),? hijo de (?P<answer>N)", "¿De quién era hijo {who}?"),
            (r"(?<![\w-])(?P<answer>NUMBER) (?P<what>[a-z]\w+as)\b", "¿Cuántas {what}?"),
            (r"(?<![\w-])(?P<answer>NUMBER) (?P<what>[a-z]\w+[oe]s)\b", "¿Cuántos {what}?"),
            (r"(?<![\w-])(?P<answer>N),? rey de (?P<of>N)", "¿Quién era rey de {of}?"),
        ),
    ),
}
DETERMINERS = {"the", "l", "le", "la", "les", "der", "die", "das", "el", "los"}
# German nouns of the grammar, which no table of names holds.
NOUNS = {
    "König",
    "Königin",
    "Mann",
    "Männer",
    "Weib",
    "Volk",
    "Priester",
    "Hohepriester",
    "Prophet",
    "Schlange",
    "Engel",
}
NOUNS |= {"Engel", "Knechte", "Kinder"}
