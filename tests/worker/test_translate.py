"""Translations without threads or broker: requests in, events out; a model that knows a toy text by heart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from worker.requests import row
from worker.toy_translator import END, LANGUAGES, LONGEST, PAIRS, POSITIONS, parallel_text
from xlmstream.v1.common_pb2 import (
    FINISH_REASON_EOS,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP_SEQUENCE,
    TASK_DETOKENIZE,
    TASK_EMBED,
    TASK_TOKENIZE,
    TASK_TRANSLATE,
    TRUNCATION_KEEP_START,
    RequestOptions,
    TextInput,
    TokenIds,
)
from xlmstream.v1.generation_pb2 import GenerationParameters, TokenDelta
from xlmstream.v1.models_pb2 import INPUT_FORMAT_ORIGINAL
from xlmstream.v1.translation_pb2 import TranslateStreamRequest
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_worker.config import ConfigError, DeviceConfig, ModelConfig
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.models import LoadedModel, load_model
from xlmstream_worker.rows import Row
from xlmstream_worker.sequences import EngineConfig, SequenceRequest
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.translate import Translation, default_new_tokens
from xlmstream_worker.xlm import XLMEncoderDecoder


@pytest.fixture(scope="module")
def model(translator_directory: Path) -> LoadedModel:
    return load_model(ModelConfig(translator_directory, "translator"), DeviceConfig())


def engine_of(model: LoadedModel, slots: int = 4) -> DecoderEngine:
    assert isinstance(model.network, XLMEncoderDecoder)
    return DecoderEngine(model.network, EngineConfig(max_slots=slots, prefill_tokens=16))


def request(text: str, source: str = "en", target: str = "fr", **parameters: object) -> TranslateStreamRequest:
    return TranslateStreamRequest(
        input=TextInput(text=text, language=source),
        target_language=target,
        parameters=GenerationParameters(**parameters),  # type: ignore[arg-type]
    )


def translate(model: LoadedModel, rows: list[Row], slots: int = 4) -> list[list[Event]]:
    """The events of translations that run together."""
    engine = engine_of(model, slots)
    running = {one.key: Translation(one, model, "w") for one in rows}
    events = {key: list(translation.opening()) for key, translation in running.items()}
    for translation in running.values():
        engine.add(translation.begin())
    while not engine.idle:
        result = engine.step()
        for output in result.tokens:
            translation = running[output.key]
            if not translation.ended:
                events[output.key] += translation.push(output, result.batch_size)
                if translation.ended:
                    engine.cancel(output.key)
    return list(events.values())


def one(model: LoadedModel, asked: TranslateStreamRequest, *journal: Event) -> list[Event]:
    [events] = translate(model, [row(asked, TASK_TRANSLATE, journal=journal)])
    return events


def text_of(events: list[Event], candidate: int = 0) -> str:
    return "".join(event.delta.text for event in events if event.delta.candidate == candidate)


def begun(model: LoadedModel, asked: TranslateStreamRequest) -> tuple[tuple[int, ...], SequenceRequest]:
    """The source as the encoder gets it, and the engine's request."""
    sequence = Translation(row(asked, TASK_TRANSLATE), model, "w").begin()
    assert sequence.source is not None
    return sequence.source.ids, sequence


def ids_of(model: LoadedModel, text: str) -> list[int]:
    """Without special tokens."""
    found: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def refusal(model: LoadedModel, asked: TranslateStreamRequest) -> Refused:
    with pytest.raises(Refused) as caught:
        Translation(row(asked, TASK_TRANSLATE), model, "w")
    return caught.value


def test_the_card(model: LoadedModel) -> None:
    card = model.card
    assert list(card.tasks) == [TASK_TRANSLATE, TASK_TOKENIZE, TASK_DETOKENIZE, TASK_EMBED]
    assert list(card.languages) == sorted(LANGUAGES)
    assert (card.input_format, card.max_input_tokens) == (INPUT_FORMAT_ORIGINAL, POSITIONS)
    assert not card.decoding_modes
    assert not card.translation_directions


def test_what_was_learnt_is_translated_perfectly_in_every_direction(model: LoadedModel) -> None:
    """Thirty-six ragged texts through four slots, a few layers of the long ones at a time."""
    asked = [(text, source, target) for text in parallel_text() for source, target in PAIRS]
    rows = [
        row(request(text[source], source, target), TASK_TRANSLATE, f"{number:03}")
        for number, (text, source, target) in enumerate(asked)
    ]
    for (text, _, target), events in zip(asked, translate(model, rows), strict=True):
        assert text_of(events) == text[target]
        assert events[-2].candidate_finished.finish_reason == FINISH_REASON_EOS


def test_the_events_of_a_translation(model: LoadedModel) -> None:
    [started, *deltas, finished, end] = one(model, request(LONGEST["en"]))
    tokens = len(ids_of(model, LONGEST["en"])) + 2
    assert started.started.prompt_tokens == tokens
    assert started.started.parameters.max_new_tokens == int(1.5 * tokens + 10) - 1
    assert (started.started.parameters.decoding_mode, started.started.model) == (0, "translator@1")
    assert [token for delta in deltas for token in delta.delta.token_ids] == [*ids_of(model, LONGEST["fr"]), END]
    assert not finished.candidate_finished.HasField("score")
    usage = end.finished.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (tokens, len(deltas), 0)


def test_beams_come_best_first_with_their_scores(model: LoadedModel) -> None:
    events = one(model, request(LONGEST["en"], num_beams=4, num_return_sequences=3))
    assert text_of(events) == LONGEST["fr"]
    scores = [event.candidate_finished.score for event in events if event.HasField("candidate_finished")]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    ids = torch.tensor([[END, *ids_of(model, LONGEST["en"]), END]])
    assert isinstance(model.network, XLMEncoderDecoder)
    [expected] = model.network.generate(
        ids,
        langs=torch.full_like(ids, LANGUAGES["en"]),
        target_langs=torch.tensor([LANGUAGES["fr"]]),
        num_beams=4,
        num_return_sequences=3,
    )
    assert scores == pytest.approx([one.score for one in expected], abs=1e-4)
    texts = [model.tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in expected]
    assert [text_of(events, candidate) for candidate in range(3)] == texts


@pytest.mark.parametrize("sent", [1, 2, 9, 20])
def test_a_second_attempt_continues_what_was_sent(model: LoadedModel, sent: int) -> None:
    asked = request(LONGEST["de"], "de", "en")
    whole = one(model, asked)
    assert one(model, asked, *whole[:sent])[:-1] == whole[sent:-1]


def test_what_was_sent_is_never_contradicted(model: LoadedModel) -> None:
    """A journal that says what this model would not: it stands, and the text goes on behind it."""
    asked = request(LONGEST["en"], max_new_tokens=10, min_new_tokens=10)
    [wrong] = ids_of(model, "Berg")
    started, first, *_ = one(model, asked)
    assert list(first.delta.token_ids) != [wrong]
    events = one(model, asked, started, Event(delta=TokenDelta(token_ids=[wrong], text="Berg")))
    assert not any(event.HasField("started") for event in events)
    assert sum(len(event.delta.token_ids) for event in events) == 9
    assert events[-1].finished.usage.completion_tokens == 10


def test_limits_and_stop_strings(model: LoadedModel) -> None:
    french = LONGEST["fr"]
    events = one(model, request(LONGEST["en"], max_new_tokens=5))
    assert [token for event in events for token in event.delta.token_ids] == ids_of(model, french)[:5]
    assert french.startswith(text_of(events))
    assert events[-2].candidate_finished.finish_reason == FINISH_REASON_LENGTH
    stop = french.split()[7]
    for beams in ({}, {"num_beams": 3}):
        events = one(model, request(LONGEST["en"], stop=[stop], **beams))
        assert text_of(events) == french[: french.index(stop)].rstrip()
        end = next(event.candidate_finished for event in events if event.HasField("candidate_finished"))
        assert end.finish_reason == FINISH_REASON_STOP_SEQUENCE
        assert end.HasField("score") == bool(beams)


def test_the_end_may_follow_a_repetition_penalty(model: LoadedModel) -> None:
    """A translation begins with the token that ends it; a penalty on what was said must not keep it from ending."""
    events = one(model, request(parallel_text()[0]["en"], repetition_penalty=1.5))
    assert text_of(events) == parallel_text()[0]["fr"]
    assert events[-2].candidate_finished.finish_reason == FINISH_REASON_EOS


def test_ids_are_taken_as_they_are(model: LoadedModel) -> None:
    source, _ = begun(model, request(LONGEST["en"]))
    asked = TranslateStreamRequest(input=TextInput(token_ids=TokenIds(ids=source), language="en"), target_language="fr")
    assert begun(model, asked)[0] == source == (END, *ids_of(model, LONGEST["en"]), END)
    assert text_of(one(model, asked)) == LONGEST["fr"]


def test_a_source_that_is_too_long(model: LoadedModel) -> None:
    long = request("the king sees the city . " * 20)
    assert "INPUT_TOO_LONG" in str(refusal(model, long).status)
    long.options.CopyFrom(RequestOptions(truncation=TRUNCATION_KEEP_START))
    source, sequence = begun(model, long)
    assert len(source) == POSITIONS
    assert sequence.max_new_tokens == POSITIONS - 1


def test_languages_that_are_unknown(model: LoadedModel) -> None:
    for asked, field in ((request("a", "xx"), "input.language"), (request("a", "en", "xx"), "target_language")):
        refused = refusal(model, asked)
        assert refused.status.message.startswith(field)
        assert "de, en, fr" in refused.status.message


def test_default_lengths() -> None:
    assert [default_new_tokens(source, 512) for source in (3, 4, 100, 400)] == [13, 15, 159, 511]


def test_the_directions_of_a_model(translator_directory: Path) -> None:
    config = ModelConfig(translator_directory, "translator", translations=["en-fr", "fr-de"])
    card = load_model(config, DeviceConfig()).card
    pairs = [(each.source_language, each.target_language) for each in card.translation_directions]
    assert pairs == [("en", "fr"), ("fr", "de")]


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"translations": ["en-xx"]}, "no translation 'en-xx'; its languages: de, en, fr"),
        ({"translations": ["en-en"]}, "no translation 'en-en'"),
        ({"translations": "en-fr"}, "must be a list"),
        ({"causal": True}, "causal is no choice"),
        ({"input_format": "huggingface"}, "must be original"),
    ],
)
def test_choices_that_do_not_fit_a_translation_model(
    translator_directory: Path, choices: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_model(ModelConfig(translator_directory, "translator", **choices), DeviceConfig())  # type: ignore[arg-type]


def test_directions_are_for_translation_models(toy: LoadedModel) -> None:
    config = ModelConfig(toy.directory, "toy", translations=["en-fr"])
    with pytest.raises(ConfigError, match="translations are for translation models"):
        load_model(config, DeviceConfig())
