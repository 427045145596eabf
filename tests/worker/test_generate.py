"""Generations without threads or broker: requests in, events out, and a second attempt after every cut of the first."""

from __future__ import annotations

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from worker.requests import generate, row
from xlmstream.v1.common_pb2 import (
    FINISH_REASON_EOS,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP_SEQUENCE,
    TRUNCATION_KEEP_END,
    TRUNCATION_KEEP_START,
    RequestOptions,
    TextInput,
    TokenIds,
)
from xlmstream.v1.inference_pb2 import GenerateStreamRequest
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.rows import Row
from xlmstream_worker.sequences import EndReason, EngineConfig, Failure, FailureKind, TokenOutput
from xlmstream_worker.tasks.generate import Generation
from xlmstream_worker.tasks.inputs import Refused


@pytest.fixture(scope="module")
def engine(toy: LoadedModel) -> DecoderEngine:
    return DecoderEngine(toy.network, EngineConfig(max_slots=4))


def run(row: Row, toy: LoadedModel, engine: DecoderEngine) -> list[Event]:
    """All events of one generation, alone."""
    generation = Generation(row, toy, "w")
    events = list(generation.opening())
    engine.add(generation.begin())
    while not generation.ended:
        result = engine.step()
        for output in result.tokens:
            if not generation.ended:
                events += generation.push(output, result.batch_size)
                if generation.ended:
                    engine.finish(output.key, output.candidate)
    while not engine.idle:
        engine.step()
    return events


def tokens(events: list[Event]) -> list[int]:
    return [token for event in events for token in event.delta.token_ids]


def text(events: list[Event]) -> str:
    return "".join(event.delta.text for event in events)


def kinds(events: list[Event]) -> list[str | None]:
    return [event.WhichOneof("kind") for event in events]


def refusal(toy: LoadedModel, request: GenerateStreamRequest) -> Refused:
    with pytest.raises(Refused) as caught:
        Generation(row(request), toy, "w")
    return caught.value


def test_the_events_of_a_generation(toy: LoadedModel, engine: DecoderEngine) -> None:
    events = run(row(generate("the lord", max_new_tokens=7, ignore_eos=True), seed=5), toy, engine)
    assert kinds(events) == ["started", *["delta"] * 7, "candidate_finished", "finished"]
    started = events[0].started
    assert (started.execution_id, started.model, started.prompt_tokens) == ("00x", "toy@1", 3)
    assert started.resume_token == ""
    assert text(events) == toy.tokenizer.decode(tokens(events))
    assert events[-2].candidate_finished.finish_reason == FINISH_REASON_LENGTH
    usage, timing = events[-1].finished.usage, events[-1].finished.timing
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 7)
    assert (timing.queue_us, timing.worker_id, timing.batch_size) == (250_000, "w", 1)
    assert timing.total_us >= timing.queue_us + timing.tokenize_us + timing.compute_us > timing.queue_us


def test_the_parameters_in_effect(toy: LoadedModel) -> None:
    effective = Generation(row(generate(), seed=77), toy, "w").opening()[0].started.parameters
    assert effective.max_new_tokens == 64
    assert effective.HasField("temperature")
    assert effective.temperature == 0
    assert effective.top_p == 1
    assert effective.seed == 77
    assert not effective.HasField("top_k")
    asked = generate(max_new_tokens=3, temperature=0.5, top_k=4, top_p=0.25, seed=0, stop=["x"], ignore_eos=True)
    effective = Generation(row(asked, seed=77), toy, "w").opening()[0].started.parameters
    assert (effective.seed, effective.top_k, list(effective.stop), effective.ignore_eos) == (0, 4, ["x"], True)


def test_the_prompt_of_both_input_formats(toy: LoadedModel) -> None:
    assert Generation(row(generate("the lord")), toy, "w").begin().prompt_ids[0] == toy.config.eos_index
    ids = [5, 20, 21]
    request = GenerateStreamRequest(input=TextInput(token_ids=TokenIds(ids=ids)))
    assert Generation(row(request), toy, "w").begin().prompt_ids == tuple(ids)


def test_the_language_chooses_the_embedding(toy: LoadedModel) -> None:
    assert Generation(row(generate()), toy, "w").begin().language_id == 0
    assert Generation(row(generate(language="fr")), toy, "w").begin().language_id == 1


def test_usage_tells_what_was_reused(toy: LoadedModel) -> None:
    """Of one tenant, in one language; the rest of the prompt is computed."""
    engine = DecoderEngine(toy.network, EngineConfig(max_slots=4))
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f g h"
    cached = []
    asked = [(long, "en", "a"), (f"{long} i j", "en", "a"), (long, "fr", "a"), (long, "en", "b")]
    for number, (text_, language, tenant) in enumerate(asked):
        request = row(generate(text_, language=language, max_new_tokens=2, ignore_eos=True), execution_id=f"{number}")
        request.taken.envelope.tenant = tenant
        cached.append(run(request, toy, engine)[-1].finished.usage.cached_tokens)
    assert cached == [0, 32, 0, 0]


def test_end_of_sequence_is_no_text(toy: LoadedModel) -> None:
    generation = Generation(row(generate()), toy, "w")
    word = toy.tokenizer.convert_tokens_to_ids("the</w>")
    request = generation.begin()
    assert request.eos_id == toy.config.eos_index
    generation.push(TokenOutput(request.key, 0, 0, word), 1)
    delta, finished, _ = generation.push(TokenOutput(request.key, 0, 1, request.eos_id, EndReason.EOS), 1)
    assert (list(delta.delta.token_ids), delta.delta.text) == ([1], "")
    assert finished.candidate_finished.finish_reason == FINISH_REASON_EOS


def test_a_stop_string_ends_the_candidate_and_is_no_text(toy: LoadedModel, engine: DecoderEngine) -> None:
    free = text(run(row(generate("the lord", max_new_tokens=30, ignore_eos=True)), toy, engine))
    stop = free[9:13]
    events = run(row(generate("the lord", max_new_tokens=30, ignore_eos=True, stop=[stop])), toy, engine)
    assert text(events) == free[: free.index(stop)].rstrip(" ")
    assert events[-2].candidate_finished.finish_reason == FINISH_REASON_STOP_SEQUENCE


@pytest.mark.parametrize(
    ("failure", "reason"), [(FailureKind.COMPUTE, "INTERNAL"), (FailureKind.OUT_OF_MEMORY, "DEVICE_OOM")]
)
def test_a_failed_row_ends_with_its_status(toy: LoadedModel, failure: FailureKind, reason: str) -> None:
    generation = Generation(row(generate()), toy, "w")
    key = generation.begin().key
    output = TokenOutput(key, 0, 0, None, EndReason.FAILED, Failure(failure, "cuda says: secret text"))
    (event,) = generation.push(output, 1)
    assert generation.ended
    assert reason.encode() in event.failed.SerializeToString()
    assert "secret" not in str(event.failed)


@settings(max_examples=examples(25))
@given(cut=st.integers(1, 20), sampled=st.booleans(), stopping=st.booleans())
def test_a_second_attempt_goes_on_where_the_journal_ends(
    toy: LoadedModel, engine: DecoderEngine, cut: int, sampled: bool, stopping: bool
) -> None:
    request = generate(
        "and the",
        max_new_tokens=18,
        ignore_eos=True,
        temperature=1.0 if sampled else 0.0,
        stop=["ing 1", " !"] if stopping else [],
    )
    whole = run(row(request, seed=3), toy, engine)
    # A step's events enter the journal together, so the last three never come apart.
    journal = whole[: min(cut, len(whole) - 3)]
    rest = run(row(request, seed=3, journal=journal), toy, engine)
    assert tokens(journal) + tokens(rest) == tokens(whole)
    assert text(journal) + text(rest) == text(whole)
    assert kinds(journal) + kinds(rest) == kinds(whole)
    usages = [events[-1].finished.usage for events in (rest, whole)]
    assert len({(usage.prompt_tokens, usage.completion_tokens) for usage in usages}) == 1


def test_too_long_names_the_field_and_the_figures(toy: LoadedModel) -> None:
    long = refusal(toy, generate("é " * 96))
    assert "input.text: 97 tokens, the model takes at most 95" in long.status.message
    ids = GenerateStreamRequest(input=TextInput(token_ids=TokenIds(ids=[20] * 96)))
    assert "input.token_ids.ids: 96 tokens" in refusal(toy, ids).status.message


def test_the_longest_prompt_leaves_room_for_one_token(toy: LoadedModel, engine: DecoderEngine) -> None:
    events = run(row(generate("é " * 94)), toy, engine)
    assert len(tokens(events)) == 1


@pytest.mark.parametrize(("keep", "word"), [(TRUNCATION_KEEP_START, "a</w>"), (TRUNCATION_KEEP_END, "z</w>")])
def test_truncation_leaves_room_for_the_output(toy: LoadedModel, keep: int, word: str) -> None:
    request = generate("a " + "b " * 200 + "z", max_new_tokens=20)
    request.options.CopyFrom(RequestOptions(truncation=keep))
    prompt = Generation(row(request), toy, "w").begin().prompt_ids
    assert len(prompt) == 96 - 20
    assert prompt[0] == toy.begin_id
    assert toy.tokenizer.convert_tokens_to_ids(word) in prompt
    request.parameters.max_new_tokens = 1000
    assert len(Generation(row(request), toy, "w").begin().prompt_ids) == 48


def test_a_far_too_long_text_is_not_tokenised_whole(toy: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    tokenize = type(toy.tokenizer).__call__

    def watched(tokenizer: object, text: str, **options: object) -> object:
        seen.append(len(text))
        return tokenize(tokenizer, text, **options)

    monkeypatch.setattr(type(toy.tokenizer), "__call__", watched)
    megabyte = "a " + "b c " * 250_000 + "z"
    assert "at least " in refusal(toy, generate(megabyte)).status.message
    request = generate(megabyte, max_new_tokens=20)
    for keep, word in ((TRUNCATION_KEEP_START, "a</w>"), (TRUNCATION_KEEP_END, "z</w>")):
        request.options.truncation = keep
        prompt = Generation(row(request), toy, "w").begin().prompt_ids
        assert len(prompt) == 76
        assert toy.tokenizer.convert_tokens_to_ids(word) in prompt
    assert max(seen) <= 64 * 96


def test_white_space_does_not_make_a_text_too_long(toy: LoadedModel) -> None:
    prompt = Generation(row(generate("a" + " " * 10_000 + "b")), toy, "w").begin().prompt_ids
    assert prompt == Generation(row(generate("a b")), toy, "w").begin().prompt_ids


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (generate(language="xx"), "input.language"),
        (generate("\u200d\u0007"), "input.text"),
        (GenerateStreamRequest(input=TextInput(token_ids=TokenIds(ids=[20, 123]))), "input.token_ids.ids[1]"),
        (GenerateStreamRequest(input=TextInput(token_ids=TokenIds())), "input.token_ids.ids"),
    ],
)
def test_refusals_name_the_field(toy: LoadedModel, request_: GenerateStreamRequest, field: str) -> None:
    assert refusal(toy, request_).status.message.startswith(f"{field}: ")


def test_special_tokens_in_text_are_literal_unless_allowed(toy: LoadedModel) -> None:
    literal = generate("a </s> b")
    assert toy.end_id not in Generation(row(literal), toy, "w").begin().prompt_ids[1:]
    literal.input.allow_special_tokens = True
    assert toy.end_id in Generation(row(literal), toy, "w").begin().prompt_ids[1:]


def test_several_candidates_end_one_by_one_and_resume(toy: LoadedModel, engine: DecoderEngine) -> None:
    request = generate("and the", max_new_tokens=12, temperature=1.5, num_return_sequences=3, stop=["e"], echo=True)
    whole = run(row(request, seed=4), toy, engine)
    assert kinds(whole).count("candidate_finished") == 3
    assert kinds(whole)[-1] == "finished"
    texts = candidate_texts(whole)
    assert len(set(texts)) == 3
    assert all(one.startswith("and the") for one in texts)
    for cut in (1, 3, 5, 9, len(whole) - 2):
        rest = run(row(request, seed=4, journal=whole[:cut]), toy, engine)
        assert candidate_texts([*whole[:cut], *rest]) == texts
        assert rest[-1].finished.usage.completion_tokens == whole[-1].finished.usage.completion_tokens


def candidate_texts(events: list[Event]) -> list[str]:
    deltas = [event.delta for event in events if event.HasField("delta")]
    return ["".join(delta.text for delta in deltas if delta.candidate == index) for index in range(3)]


def test_beams_and_log_probabilities_reach_the_events(toy: LoadedModel, engine: DecoderEngine) -> None:
    beams = run(row(generate("and the", max_new_tokens=6, num_beams=3, num_return_sequences=2)), toy, engine)
    assert kinds(beams).count("candidate_finished") == 2
    assert beams[0].started.parameters.length_penalty == 1.0
    likely = run(row(generate("and the", max_new_tokens=4, top_logprobs=2)), toy, engine)
    deltas = [event.delta for event in likely if event.HasField("delta")]
    assert all(len(delta.logprobs) == len(delta.token_ids) == 1 for delta in deltas)
    assert all(delta.logprobs[0].top_token_ids[0] == delta.token_ids[0] for delta in deltas)
    assert all(delta.logprobs[0].top_logprobs[0] == delta.logprobs[0].logprob <= 0 for delta in deltas)


def test_every_sampling_parameter_reaches_the_engine(toy: LoadedModel) -> None:
    asked = generate(
        "and the", min_p=0.25, typical_p=0.5, repetition_penalty=1.5, presence_penalty=0.25, frequency_penalty=0.75,
        no_repeat_ngram_size=3, bad_words=["the"], logit_bias={7: 1.5}, stop_token_ids=[9], top_logprobs=0,
    )  # fmt: skip
    request = Generation(row(asked), toy, "w").begin()
    sampling = request.sampling
    assert (sampling.min_p, sampling.typical_p, sampling.repetition_penalty) == (0.25, 0.5, 1.5)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.25, 0.75)
    assert sampling.no_repeat_ngram_size == 3
    assert sampling.logit_bias == ((7, 1.5),)
    assert request.stop_ids == (9,)
    assert request.top_logprobs == 0
    (word,) = sampling.bad_words
    assert "".join(toy.pieces[token] for token in word).strip() == "the"
