"""What goes into the decoder engine and what comes out of it: plain values, no tensors, no text, no protobuf.

The worker loop turns a client's request into one `SequenceRequest` and each `TokenOutput` into an event. A request
has one or more candidates; a candidate is one generated sequence, numbered from 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class DecodingMode(enum.Enum):
    """Which position the next token is read from."""

    NEXT_TOKEN = "next_token"  # noqa: S105 - no password
    """The last real token predicts its successor: how causal models are trained. Needs a causal model."""
    MASK_APPEND = "mask_append"
    """A mask token is appended and its own logits are read: what `generate` of transformers does for every XLM."""


class EndReason(enum.Enum):
    """Why the engine ended a candidate. What the caller ends by `cancel` or `finish` is not reported back."""

    EOS = "eos"
    """One of the request's `end_ids` was produced."""
    LENGTH = "length"
    """`max_new_tokens` was reached, or the model has no further positions."""
    FAILED = "failed"
    """The row could not be computed even alone; `TokenOutput.failure` says why."""


class FailureKind(enum.Enum):
    OUT_OF_MEMORY = "out_of_memory"
    """The device had no memory for this row even when it ran alone."""
    COMPUTE = "compute"
    """Computing this row raised, or its scores were not numbers."""


@dataclass(frozen=True, slots=True)
class Failure:
    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How the next token is chosen from the scores. The defaults are greedy and change no score.

    Applied in the order of the fields, which is that of transformers; all from `temperature` on only when drawing.
    """

    logit_bias: tuple[tuple[int, float], ...] = ()
    """(id, what to add to its score), each id at most once."""
    repetition_penalty: float = 1.0
    """Above 0. Scores of all ids in the prompt and output are divided by it where positive, multiplied elsewhere."""
    presence_penalty: float = 0.0
    """Subtracted from the score of every id that is in the output."""
    frequency_penalty: float = 0.0
    """Subtracted from the score of an id once per occurrence in the output."""
    no_repeat_ngram_size: int = 0
    """No sequence of this many ids occurs twice in prompt and output; 0 is no limit."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Sequences of ids that are never completed."""
    temperature: float = 0.0
    """0 to 100. 0 takes the best token each time; above 0 scores are divided by it and a token is drawn."""
    top_k: int = 0
    """Draw among this many best tokens; 0 is no limit."""
    top_p: float = 1.0
    """Draw among the fewest best tokens whose probabilities reach this sum, in (0, 1]."""
    min_p: float = 0.0
    """Draw among tokens at least this fraction as probable as the best one, in [0, 1]."""
    typical_p: float = 1.0
    """Draw among the fewest tokens of the most typical information content that reach this sum, in (0, 1]."""
    seed: int = 0
    """Any int below 2**64. The draw depends on (seed, candidate, index of the token) and the scores alone."""


class EarlyStopping(enum.Enum):
    """When beam search is content with the finished sequences it has. The values are those of transformers."""

    HEURISTIC = "heuristic"
    """Until no running beam scores better at its present length (`False`, the default, in transformers)."""
    WHEN_FULL = "when_full"
    """As soon as `beams` sequences have finished (`True`)."""
    NEVER = "never"
    """Until no running beam could score better at any length (`"never"`)."""


class BeamRules(enum.Enum):
    """Whose beam search it is; they differ in which ends they keep and in when they are content."""

    TRANSFORMERS = "transformers"
    """The vectorised one of transformers: an end counts only among the best `beams` candidates of its step."""
    ORIGINAL = "original"
    """That of XLM's translation: every end counts that is met before the beams of the next step are found."""


@dataclass(frozen=True, slots=True)
class BeamParameters:
    """Beam search: keep the `beams` best beginnings, return the best finished sequences."""

    beams: int
    """At least 1 and at least as many as candidates are asked for."""
    length_penalty: float = 1.0
    """A finished sequence scores its summed log-probability / length ** this, which is -10 to 10."""
    early_stopping: EarlyStopping = EarlyStopping.HEURISTIC
    """The original rules know WHEN_FULL; all else is NEVER to them."""
    rules: BeamRules = BeamRules.TRANSFORMERS


@dataclass(frozen=True, slots=True)
class Source:
    """The text that a translation is made from."""

    ids: tuple[int, ...]
    """At least one id; special tokens included, exactly as the encoder shall see them."""
    language_id: int | None = None
    """Row of the encoder's language embedding; None adds none."""


@dataclass(frozen=True, slots=True)
class SequenceRequest:
    """One prompt to continue. Values are checked by `DecoderEngine.add`, which raises ValueError naming the field."""

    key: str
    """Unique among the requests in the engine: the execution id."""
    prompt_ids: tuple[int, ...]
    """At least one id; special tokens included, exactly as the model shall see them."""
    language_id: int | None = None
    """Row of the language embedding added at every position; None adds none."""
    mode: DecodingMode = DecodingMode.NEXT_TOKEN
    mask_id: int | None = None
    """The token that MASK_APPEND appends; None is the `mask_token_id` of the model's configuration."""
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    """No end of sequence before this many tokens."""
    eos_id: int | None = None
    """Ends a candidate and is its last token; None never ends one."""
    stop_ids: tuple[int, ...] = ()
    """Further ids that end a candidate as `eos_id` does."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    beam_search: BeamParameters | None = None
    """Given, nothing is drawn (temperature must be 0), and all tokens come together with the end of the candidate."""
    candidates: int = 1
    """How many sequences to generate, all from one computation of the prompt."""
    top_logprobs: int | None = None
    """Report the log-probability of each token and of this many best ones; None reports none. They are the model's own,
    before penalties and temperature. Not with beam search."""
    forced_ids: tuple[tuple[int, ...], ...] = ()
    """Per candidate, the tokens delivered by an earlier attempt: taken as given, not reported again, and generation
    goes on after them exactly as it would have. Empty, or one tuple per candidate."""
    ended_candidates: frozenset[int] = frozenset()
    """Candidates whose end an earlier attempt has delivered: not run again, not reported."""
    prefix_scope: str | None = None
    """Requests with the same scope (a tenant) reuse the keys and values of common beginnings of their prompts; None
    shares with nobody, nor does a translation, whose keys and values depend on its source."""
    alone: bool = False
    """Run while no other request is in the batch (quarantine of a request suspected of killing workers)."""
    source: Source | None = None
    """What the decoder of a translation model reads; it needs one, and no other model takes one."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """All ids that end a candidate."""
        return self.stop_ids if self.eos_id is None or self.eos_id in self.stop_ids else (self.eos_id, *self.stop_ids)

    @property
    def rows(self) -> int:
        """Slots it occupies while it decodes."""
        if self.beam_search is not None:
            return self.beam_search.beams
        return self.candidates - len(self.ended_candidates)


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One generated token, the end of a candidate, or both."""

    key: str
    candidate: int
    index: int
    """Which token of the candidate this is, counted from 0 and from `forced_ids`; with `token_id` None, how many it
    has."""
    token_id: int | None
    """None where a candidate ends without a further token: its forced prefix used up the room, or it failed."""
    finished: EndReason | None = None
    """Set on the last output of the candidate."""
    failure: Failure | None = None
    """Set when `finished` is FAILED."""
    logprob: float | None = None
    """Natural log-probability of the token, where the request asked for it."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The best ids and their log-probabilities, best first."""
    cached_tokens: int = 0
    """How many tokens of the prompt were reused from earlier requests; the same in every output of a candidate."""
    score: float | None = None
    """What beam search ranks candidates by; the same in every output of a candidate."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step brought. Outputs of one candidate are in order; a step may bring none (a long prompt in chunks)."""

    tokens: tuple[TokenOutput, ...]
    batch_size: int
    """Rows that decoded in this step."""
    prefill_tokens: int
    """Prompt tokens computed in this step."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes and device of one engine. `ValueError` names a field out of range."""

    max_slots: int = 32
    """Rows of the K/V cache: the most candidates that decode at once."""
    max_positions: int | None = None
    """Positions per slot; None is the model's own limit."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:N"."""
    dtype: str = "float32"
    """"float32", "bfloat16" or "float16". Scores are chosen from in float32 always."""
    late_readback: bool | None = None
    """Hand out each step's tokens with the next step's, so that the device need not wait for the host. None: on a
    GPU."""
    static_shapes: bool | None = None
    """Decode a fixed number of slots and positions, more than the rows need, so that a GPU can launch a whole step as
    one recorded graph. None: on a GPU."""
    rowwise: bool | None = None
    """Choose tokens row by row in compiled code, which only a CPU can; otherwise by operations on all rows. None: on a
    CPU."""
    prefill_tokens: int = 256
    """Most prompt tokens computed per step, and as many of sources, so that a long text never holds up the rows that
    decode."""
    prefix_cache_bytes: int = 2**28
    """Memory for the keys and values of beginnings of prompts that later requests may share; 0 keeps none."""

    def __post_init__(self) -> None:
        if self.max_slots < 1:
            raise ValueError(f"max_slots must be at least 1, got {self.max_slots}")
        if self.max_positions is not None and self.max_positions < 2:
            raise ValueError(f"max_positions must be at least 2, got {self.max_positions}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be float32, bfloat16 or float16, got {self.dtype!r}")
        if self.prefix_cache_bytes < 0:
            raise ValueError(f"prefix_cache_bytes must be at least 0, got {self.prefix_cache_bytes}")
        if self.rowwise and self.device != "cpu":
            raise ValueError(f"rowwise needs the device cpu, got {self.device!r}")
        if self.prefill_tokens < 1:
            raise ValueError(f"prefill_tokens must be at least 1, got {self.prefill_tokens}")
