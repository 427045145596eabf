"""The loops of one served model, as one: what computes, whatever it computes."""

from __future__ import annotations

import threading

from xlmstream_worker.admission import Admission
from xlmstream_worker.encode_loop import EncodeLoop
from xlmstream_worker.rows import Row
from xlmstream_worker.worker import DecodeLoop


class Loops:
    """The decode loop of a model that generates or translates, if it does, and its encode loop."""

    def __init__(self, decode: DecodeLoop | None, encode: EncodeLoop) -> None:
        self.decode = decode
        self.encode = encode

    def threads(self, model: str) -> list[threading.Thread]:
        """One for each loop, not started. Daemons: a step that never returns must not keep the process from ending."""
        threads = [threading.Thread(target=self.encode.run, name=f"encode {model}", daemon=True)]
        if self.decode is not None:
            threads.append(threading.Thread(target=self.decode.run, name=f"decode {model}", daemon=True))
        return threads

    def admission(self) -> Admission:
        """What may be in hand at once."""
        return Admission(0 if self.decode is None else self.decode.slots, self.encode.batch_tokens)

    def end(self, row: Row) -> None:
        """Compute a row no further; `row.ended` must be set already."""
        self.encode.end(row)
        if self.decode is not None:
            self.decode.end(row)

    def stop(self) -> None:
        """Let the loops return after what they are at."""
        self.encode.stop()
        if self.decode is not None:
            self.decode.stop()

    @property
    def stuck_s(self) -> float:
        """For how long the longest of the present steps has been running, in seconds."""
        return max(self.encode.stuck_s, 0.0 if self.decode is None else self.decode.stuck_s)
