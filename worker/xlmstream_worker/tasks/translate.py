"""Translation: from a TranslateStreamRequest to the engine's request; all that follows is that of a generation.

The encoder reads `</s> X </s>` in the language of the source, the decoder begins with `</s>` in that of the target.
"""

from __future__ import annotations

import xlmstream.status as statuses
from xlmstream.v1.models_pb2 import DECODING_MODE_UNSPECIFIED
from xlmstream.v1.translation_pb2 import TranslateStreamRequest
from xlmstream_server.broker.v1.messages_pb2 import Envelope

from xlmstream_worker.models import LoadedModel
from xlmstream_worker.sequences import BeamRules, DecodingMode, Source
from xlmstream_worker.tasks.frames import fitted, read_text, single
from xlmstream_worker.tasks.generate import Asked, Generation
from xlmstream_worker.tasks.inputs import Refused, language_of
from xlmstream_worker.tasks.parameters import effective_parameters
from xlmstream_worker.xlm import XLMEncoderDecoder


class Translation(Generation):
    """One execution of a translation on this worker."""

    def _read(self, envelope: Envelope) -> Asked:
        request = TranslateStreamRequest.FromString(envelope.request)
        model, given, truncation = self._model, request.input, request.options.truncation
        source_language = language_of(model, given, "input")
        if not given.HasField("language"):
            known = ", ".join(model.card.languages)
            raise Refused(statuses.invalid_input([("input.language", f"must be set; the model's languages: {known}")]))
        if request.target_language not in model.languages:
            known = ", ".join(model.card.languages)
            raise Refused(statuses.invalid_input([("target_language", f"unknown; the model's languages: {known}")]))
        if problem := statuses.translation_problem(model.card, source_language, request.target_language):
            raise Refused(statuses.invalid_input([("input.language", problem)]))
        ids = single(model, fitted(model, read_text(model, given, "input", truncation), truncation, "input")).ids
        parameters = effective_parameters(
            request.parameters,
            envelope.seed,
            DECODING_MODE_UNSPECIFIED,
            default_new_tokens(len(ids), target_positions(model)),
        )
        return Asked(
            parameters=parameters,
            language=request.target_language,
            prompt=(model.end_id,),
            prompt_tokens=len(ids),
            mode=DecodingMode.NEXT_TOKEN,
            source=Source(ids, model.language_id(source_language)),
            beam_rules=BeamRules.ORIGINAL,
        )


def default_new_tokens(source_tokens: int, positions: int) -> int:
    """Most tokens of a translation whose caller sets no limit, its end included: XLM's int(1.5 * source + 10), which
    counts the token before the first one too, within the positions of the decoder."""
    return min(int(1.5 * source_tokens + 10), positions) - 1


def target_positions(model: LoadedModel) -> int:
    """Positions of the decoder of a translation model."""
    assert isinstance(model.network, XLMEncoderDecoder)
    return model.network.config.decoder.max_position_embeddings
