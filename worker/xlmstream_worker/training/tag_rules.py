"""Parts of speech of the words of aligned text, by rules: labels of the tagger.

`word_classes` says what each word may be. Which of these it is in a sentence follows from its neighbours, by a hidden
Markov model whose first guess (what likes to follow what) is written by hand and which is fitted to the text by
expectation maximisation (Baum & Welch). Words of no list lean towards what words with the same ending and their
translations are. No text with tags is read.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from .word_classes import TAGS, Shares, WordClasses

# What likes to follow what; a class named twice is twice as likely.
FOLLOWERS = {
    "": "DET DET PRON PRON PRON CCONJ CCONJ ADV ADP NOUN PROPN VERB AUX SCONJ INTJ",
    "ADJ": "NOUN NOUN NOUN NOUN PUNCT PUNCT ADP CCONJ ADJ SCONJ PART",
    "ADP": "DET DET DET DET NOUN NOUN PRON PRON PROPN PROPN ADJ NUM VERB",
    "ADV": "PUNCT PUNCT VERB VERB ADJ ADJ ADV ADP DET PRON AUX SCONJ",
    "AUX": "VERB VERB VERB VERB ADJ ADJ DET DET ADV ADV PART ADP PRON NOUN AUX",
    "CCONJ": "DET DET PRON PRON VERB VERB NOUN NOUN PROPN ADV ADP AUX ADJ SCONJ",
    "DET": "NOUN NOUN NOUN NOUN NOUN NOUN NOUN ADJ ADJ ADJ PROPN NUM DET",
    "INTJ": "PUNCT PUNCT PROPN NOUN",
    "NOUN": "PUNCT PUNCT PUNCT PUNCT ADP ADP ADP CCONJ CCONJ VERB VERB AUX PRON ADJ ADV DET SCONJ NOUN PART",
    "NUM": "NOUN NOUN NOUN NOUN NUM ADP PUNCT CCONJ ADJ",
    "PART": "VERB VERB VERB VERB VERB ADV ADJ NOUN AUX DET PRON",
    "PRON": "VERB VERB VERB VERB AUX AUX AUX PRON PRON PUNCT ADV ADP NOUN DET ADJ CCONJ PART",
    "PROPN": "PUNCT PUNCT PUNCT ADP VERB CCONJ AUX PROPN DET NOUN PRON PART",
    "PUNCT": "CCONJ CCONJ DET PRON PRON VERB VERB ADP ADV SCONJ NOUN PROPN AUX PUNCT ADJ NUM",
    "SCONJ": "PRON PRON PRON DET DET NOUN PROPN ADV ADP VERB AUX",
    "SYM": "NUM PUNCT NOUN",
    "VERB": "DET DET DET PRON PRON PRON ADP ADP PUNCT PUNCT ADV NOUN ADJ SCONJ PART PROPN VERB CCONJ",
    "X": "PUNCT X",
}
RARE_FOLLOWER = 0.1
ROUNDS = 6
# How many occurrences of a word weigh as much as what its ending, and its translations, say of it.
ENDING_WEIGHT, TRANSLATION_WEIGHT = 10.0, 10.0
# What no determiner stands before.
UNDETERMINED = ("", "AUX", "CCONJ", "PRON", "PUNCT", "SCONJ")
NEGATIONS = ("not", "n't", "'t")
CHUNK = 2048
LEAST_TOGETHER, LEAST_SHARE = 3, 0.2

Ids = npt.NDArray[np.int32]
Cut = Sequence[Sequence[str]]


class TagModel:
    """The hidden Markov model of one language.

    Args:
        classes: of the words of the language.
        sentences: cut text to fit to.
    """

    def __init__(self, classes: WordClasses, sentences: Cut) -> None:
        self.classes = classes
        self._follow = np.stack([_followers(tag) for tag in TAGS])
        self._first = _followers("")
        self._shares: dict[str, Shares] = {}
        self._sentences = [classes.spelled_inside(words) for words in sentences]
        self.counts: dict[str, Shares] = {}

    def fit(self, rounds: int = ROUNDS, translated: Mapping[str, Shares] | None = None) -> None:
        """Adapt to the sentences. `translated`: classes of words' translations, (17,) shares."""
        for _ in range(rounds):
            self._expect()
            self._maximise(translated or {})

    def tags(self, sentences: Cut) -> Iterator[list[str]]:
        """The tags of cut sentences, in their order."""
        inside = [self.classes.spelled_inside(words) for words in sentences]
        best: list[Ids] = [np.zeros(0, np.int32)] * len(inside)
        for places, shares, _ in self._read(inside):
            for row, place in enumerate(places):
                best[place] = shares[row, : len(inside[place])].argmax(-1).astype(np.int32)
        for words, found in zip(inside, best, strict=True):
            yield _corrected(words, [TAGS[tag] for tag in found], self.classes)

    def _share(self, word: str) -> Shares:
        found = self._shares.get(word)
        if found is None:
            found = self._shares[word] = self.classes.shares(word)
        return found

    def _read(self, inside: Cut) -> Iterator[tuple[list[int], Shares, Shares]]:
        """Chunks of sentences: their places, (N, T, 17) probabilities of tags, (17, 17) expected successions."""
        order = sorted((place for place in range(len(inside)) if inside[place]), key=lambda at: -len(inside[at]))
        frequent = self._frequencies()
        for begin in range(0, len(order), CHUNK):
            places = order[begin : begin + CHUNK]
            lengths = np.array([len(inside[place]) for place in places])
            emitted = np.ones((len(places), int(lengths[0]), len(TAGS)))
            for row, place in enumerate(places):
                emitted[row, : lengths[row]] = [self._share(word) for word in inside[place]]
            yield places, *forward_backward(emitted / frequent, lengths, self._first, self._follow)

    def _frequencies(self) -> Shares:
        """(17,) of the tags, to turn shares of tags into likelihoods of words."""
        if not self.counts:
            return np.ones(len(TAGS))
        total = np.sum(list(self.counts.values()), axis=0)
        frequencies: Shares = (total + 1) / (total + 1).sum()
        return frequencies

    def _expect(self) -> None:
        counts: defaultdict[str, Shares] = defaultdict(lambda: np.zeros(len(TAGS)))
        first, follow = np.zeros(len(TAGS)), np.zeros((len(TAGS), len(TAGS)))
        for places, shares, successions in self._read(self._sentences):
            first += shares[:, 0].sum(0)
            follow += successions
            for row, place in enumerate(places):
                for word, share in zip(self._sentences[place], shares[row], strict=False):
                    counts[word] += share
        self.counts = dict(counts)
        self._first = (first + 1) / (first + 1).sum()
        self._follow = (follow + 1) / (follow + 1).sum(1, keepdims=True)

    def _maximise(self, translated: Mapping[str, Shares]) -> None:
        families: defaultdict[str, Shares] = defaultdict(lambda: np.zeros(len(TAGS)))
        for word, count in self.counts.items():
            # Each word counts as one, however frequent: a rare word is like others with its ending, not like the most
            # frequent of them.
            families[self.classes.family(word)] += count / count.sum()
        for word, count in self.counts.items():
            prior = self.classes.shares(word)
            family = self.classes.family(word)
            weighted = count + ENDING_WEIGHT * prior
            if family:
                weighted += ENDING_WEIGHT * _allowed(families[family] / families[family].sum(), prior)
                if word in translated:
                    weighted += TRANSLATION_WEIGHT * _allowed(translated[word], prior)
            self._shares[word] = weighted / weighted.sum()


def _followers(tag: str) -> Shares:
    likely = Counter(FOLLOWERS[tag].split())
    weights = np.array([likely[each] + RARE_FOLLOWER for each in TAGS])
    shares: Shares = weights / weights.sum()
    return shares


def _allowed(shares: Shares, prior: Shares) -> Shares:
    kept: Shares = np.where(prior > 0, shares, 0.0)
    return kept / kept.sum() if kept.sum() > 0 else prior


def forward_backward(emitted: Shares, lengths: Ids, first: Shares, follow: Shares) -> tuple[Shares, Shares]:
    """(N, T, 17) probabilities of the tags, and (17, 17) expected successions. Rows are sorted, longest first."""
    steps = emitted.shape[1]
    forward, backward = np.ones_like(emitted), np.ones_like(emitted)
    active = [int((lengths > step).sum()) for step in range(steps)]
    for step in range(steps):
        here = slice(0, active[step])
        before = first if step == 0 else forward[here, step - 1] @ follow
        ahead = before * emitted[here, step]
        forward[here, step] = ahead / ahead.sum(-1, keepdims=True)
    successions = np.zeros_like(follow)
    for step in range(steps - 2, -1, -1):
        here = slice(0, active[step + 1])
        coming = emitted[here, step + 1] * backward[here, step + 1]
        back = coming @ follow.T
        scale = (forward[here, step] * back).sum(-1, keepdims=True)
        backward[here, step] = back / scale
        successions += follow * (forward[here, step].T @ (coming / scale))
    shares = forward * backward
    return shares / shares.sum(-1, keepdims=True), successions


def _corrected(words: Sequence[str], tags: list[str], classes: WordClasses) -> list[str]:
    """What two neighbours alone cannot decide, or decide wrongly.

    A word that is a determiner or a pronoun is a pronoun where nothing follows that it could determine; one that opens
    clauses is a relative pronoun behind a noun; an auxiliary that is a full verb elsewhere is one where no other verb
    goes with it: behind it, but for adverbs and the like (`after`), or anywhere in its clause (`within`).
    """
    after, within = classes.auxiliaries.get("after", frozenset()), classes.auxiliaries.get("within", frozenset())
    for place, word in enumerate(words):
        following = tags[place + 1] if place + 1 < len(words) else ""
        before = tags[place - 1] if place else ""
        undetermining = tags[place] == "DET" and following in UNDETERMINED and classes.may_be(word, "PRON")
        relative = tags[place] == "SCONJ" and before in ("NOUN", "PROPN") and word in classes.relatives
        if undetermining or relative:
            tags[place] = "PRON"
        elif word in after and tags[place] in ("AUX", "VERB"):
            behind = zip(words[place + 1 :], tags[place + 1 :], strict=True)
            rest = (tag for each, tag in behind if tag not in ("ADV", "PRON") and each not in NEGATIONS)
            tags[place] = "AUX" if next(rest, "") in ("VERB", "AUX") else "VERB"
        elif word in within and tags[place] == "AUX" and not {"VERB", "AUX"} & set(_clause(tags, place)):
            tags[place] = "VERB"
    return tags


def _clause(tags: Sequence[str], place: int) -> list[str]:
    """The tags around a place up to marks and conjunctions, without its own."""
    borders = [-1, *(at for at, tag in enumerate(tags) if tag in ("PUNCT", "CCONJ", "SCONJ")), len(tags)]
    begin = max(at for at in borders if at < place)
    end = min(at for at in borders if at > place)
    return [*tags[begin + 1 : place], *tags[place + 1 : end]]


def translated_shares(
    models: Mapping[str, TagModel], rows: Sequence[Mapping[str, Sequence[str]]]
) -> dict[str, dict[str, Shares]]:
    """For the words of each language: the mean shares of tags of the words that stand for them in other languages.

    `rows`: the words of aligned sentences by language, spelled as inside sentences. Two words stand for each other if
    few rows have one without the other (Dice's coefficient).
    """
    found: dict[str, dict[str, list[Shares]]] = {lang: defaultdict(list) for lang in models}
    for lang in models:
        for other in models:
            if lang == other:
                continue
            own, theirs = Counter[str](), Counter[str]()
            both: defaultdict[str, Counter[str]] = defaultdict(Counter)
            for row in rows:
                if lang not in row or other not in row:
                    continue
                here, there = (
                    {word for word in row[each] if models[each].classes.family(word)} for each in (lang, other)
                )
                own.update(here)
                theirs.update(there)
                for word in here:
                    both[word].update(there)
            for word, counts in both.items():
                dice = {each: 2 * count / (own[word] + theirs[each]) for each, count in counts.items()}
                if not dice:
                    continue
                best = min(dice, key=lambda each: (-dice[each], each))
                if counts[best] >= LEAST_TOGETHER and dice[best] >= LEAST_SHARE and best in models[other].counts:
                    count = models[other].counts[best]
                    found[lang][word].append(dice[best] * count / count.sum())
    return {
        lang: {word: np.sum(each, axis=0) / np.sum(each) for word, each in words.items()}
        for lang, words in found.items()
    }
