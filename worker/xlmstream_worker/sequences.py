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
    """The end-of-sequence id or one of the stop ids was produced."""
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

    Order of application, as in transformers: logit bias, repetition, presence and frequency penalties, no-repeat
    n-grams, bad words, minimum length; then, when sampling, temperature, top-k, top-p, min-p, typical-p.
    """

    temperature: float = 0.0
    """0 takes the best token each time; above 0 scores are divided by it and a token is drawn."""
    top_k: int = 0
    """Draw among this many best tokens; 0 is no limit."""
    top_p: float = 1.0
    """Draw among the fewest best tokens whose probabilities reach this sum, in (0, 1]."""
    seed: int = 0
    """Any int below 2**64. The draw depends on (seed, candidate, index of the token) and the scores alone."""


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
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    candidates: int = 1
    """How many sequences to generate, all from one computation of the prompt."""
    forced_ids: tuple[tuple[int, ...], ...] = ()
    """Per candidate, the tokens delivered by an earlier attempt: taken as given, not reported again, and generation
    goes on after them exactly as it would have. Empty, or one tuple per candidate."""
    ended_candidates: frozenset[int] = frozenset()
    """Candidates whose end an earlier attempt has delivered: not run again, not reported."""
    alone: bool = False
    """Run while no other request is in the batch (quarantine of a request suspected of killing workers)."""


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
    prefill_tokens: int = 256
    """Most prompt tokens computed per step, so that a long prompt never holds up the rows that decode."""

    def __post_init__(self) -> None:
        if self.max_slots < 1:
            raise ValueError(f"max_slots must be at least 1, got {self.max_slots}")
        if self.max_positions is not None and self.max_positions < 2:
            raise ValueError(f"max_positions must be at least 2, got {self.max_positions}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be float32, bfloat16 or float16, got {self.dtype!r}")
        if self.prefill_tokens < 1:
            raise ValueError(f"prefill_tokens must be at least 1, got {self.prefill_tokens}")
