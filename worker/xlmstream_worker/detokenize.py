"""Token ids to text, while they are generated.

Owns the rule that turns generated ids into text (pieces joined, a piece's ending `</w>` read as one space, special
tokens left out, no space at either end) and the search for stop strings across token borders. Text leaves only once no
later token can change it, so concatenating what `push` and `finish` return gives the final text exactly.
Knows nothing of models, requests or events.
"""

from collections.abc import Collection, Mapping, Sequence

WORD_END = "</w>"


class PieceTexts:
    """What each token id adds to the text; one table per tokenizer, shared by all requests.

    `vocabulary` maps pieces to ids. Ids in `special_ids`, and ids without a piece, add nothing.
    """

    def __init__(self, vocabulary: Mapping[str, int], special_ids: Collection[int]) -> None:
        texts = [""] * (max(vocabulary.values(), default=-1) + 1)
        for piece, token_id in vocabulary.items():
            if token_id not in special_ids:
                texts[token_id] = f"{piece.removesuffix(WORD_END)} " if piece.endswith(WORD_END) else piece
        self._texts: Sequence[str] = texts

    def __getitem__(self, token_id: int) -> str:
        return self._texts[token_id] if token_id < len(self._texts) else ""


class _StopString:
    """Knuth-Morris-Pratt over one stop string: how much of it the text read so far ends in."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0  # the longest proper prefix of `stop` that the text ends in
        # border[n]: the longest proper prefix of `stop` that stop[:n] ends in.
        self._border = [0] * (len(stop) + 1)
        length = 0
        for n in range(1, len(stop)):
            while length and stop[n] != stop[length]:
                length = self._border[length]
            length += stop[n] == stop[length]
            self._border[n + 1] = length

    def read(self, character: str) -> bool:
        """Take the next character; True when the text now ends in the whole stop string."""
        while self.matched and self.stop[self.matched] != character:
            self.matched = self._border[self.matched]
        self.matched += self.stop[self.matched] == character
        complete = self.matched == len(self.stop)
        if complete:
            self.matched = self._border[self.matched]
        return complete


class Detokenizer:
    """The text of one candidate, growing token by token.

    A stop string counts when it is completed by token number `min_new_tokens` (counted from 1) or later; the text then
    ends before it. Of several stop strings the one completed first ends the text, the longest of those completed by
    the same character. Cost per token: its characters times the number of stop strings.
    """

    def __init__(self, pieces: PieceTexts, stop: Sequence[str] = (), min_new_tokens: int = 0) -> None:
        self._pieces = pieces
        self._stops = [_StopString(string) for string in stop]
        self._min_new_tokens = min_new_tokens
        self._tokens = 0
        self._held = ""  # text not given out yet: a later token may turn it into a stop string or a trailing space
        self._begun = False
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that became certain; sets `stopped` when a stop string is complete.

        Nothing may be pushed after that.
        """
        if self.stopped:
            raise ValueError("the text has ended: a stop string was found")
        self._tokens += 1
        counts = self._tokens >= self._min_new_tokens
        for character in self._pieces[token_id]:
            self._held += character
            completed = [len(stop.stop) for stop in self._stops if stop.read(character)]
            if completed and counts:
                self.stopped = True
                self._held = self._held[: len(self._held) - max(completed)]
                return self._release(len(self._held))
        return self._release(len(self._held) - max((stop.matched for stop in self._stops), default=0))

    def finish(self) -> str:
        """The last of the text, when generation ended without a stop string."""
        return self._release(len(self._held))

    def _release(self, limit: int) -> str:
        """Give out the first `limit` held characters, less spaces at either end of the text as it then stands."""
        text = self._held[:limit].rstrip(" ")
        self._held = self._held[len(text) :]
        if not self._begun:
            text = text.lstrip(" ")
            self._begun = bool(text)
        return text
