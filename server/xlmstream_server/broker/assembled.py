"""The whole result of a generation from the events it left: for callers that want it in one piece, not as it grows."""

from __future__ import annotations

from collections.abc import Sequence

from xlmstream.v1.generation_pb2 import Candidate, GenerateResult

from xlmstream_server.broker.v1.messages_pb2 import Event


def assemble(events: Sequence[Event]) -> GenerateResult:
    """The whole result of an execution that ended well, from its events."""
    result = GenerateResult()
    candidates: dict[int, Candidate] = {}
    texts: dict[int, list[str]] = {}
    for event in events:
        kind = event.WhichOneof("kind")
        if kind == "started":
            result.parameters.CopyFrom(event.started.parameters)
        elif kind == "delta":
            index = event.delta.candidate
            candidate = candidates.setdefault(index, Candidate(index=index))
            candidate.token_ids.extend(event.delta.token_ids)
            candidate.logprobs.extend(event.delta.logprobs)
            texts.setdefault(index, []).append(event.delta.text)
        elif kind == "candidate_finished":
            end = event.candidate_finished
            candidate = candidates.setdefault(end.candidate, Candidate(index=end.candidate))
            candidate.finish_reason = end.finish_reason
            if end.HasField("score"):
                candidate.score = end.score
        elif kind == "finished":
            result.usage.CopyFrom(event.finished.usage)
            result.timing.CopyFrom(event.finished.timing)
    for index in sorted(candidates):
        candidates[index].text = "".join(texts.get(index, ()))
        result.candidates.append(candidates[index])
    return result
