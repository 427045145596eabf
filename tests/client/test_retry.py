"""The decisions about another attempt, under a clock that only the test moves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xlmstream import DeadlineExceeded, InvalidInput, QueueFull, RetryPolicy, Unavailable, XlmstreamError
from xlmstream.retry import Attempts, Failover


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def attempts(policy: RetryPolicy, timeout_s: float | None = None) -> tuple[Attempts, Clock]:
    clock = Clock()
    return Attempts(policy, timeout_s, now=clock), clock


@given(
    failures=st.integers(min_value=1, max_value=12),
    retry_after_s=st.none() | st.floats(min_value=0, max_value=100),
    initial=st.floats(min_value=0, max_value=1),
)
def test_waits_grow_to_their_bound_and_never_undercut_what_the_service_asks(
    failures: int, retry_after_s: float | None, initial: float
) -> None:
    trial, _ = attempts(RetryPolicy(max_attempts=20, initial_backoff_s=initial, max_backoff_s=2.0))
    error = Unavailable("down", retry_after_s=retry_after_s)
    asked = retry_after_s or 0.0
    for number in range(failures):
        backoff = min(initial * 2**number, 2.0)
        assert asked + backoff / 2 <= trial.wait_s(error) <= asked + backoff


def test_attempts_are_counted_and_progress_starts_anew() -> None:
    trial, _ = attempts(RetryPolicy(max_attempts=3))
    error = Unavailable("down")
    trial.wait_s(error)
    trial.wait_s(error)
    trial.progressed()
    trial.wait_s(error)
    trial.wait_s(error)
    with pytest.raises(Unavailable) as caught:
        trial.wait_s(error)
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [InvalidInput("wrong", reason="INVALID_INPUT"), QueueFull("full", reason="QUEUE_FULL"), XlmstreamError("?")],
)
def test_what_is_not_retryable_is_raised_at_once(error: XlmstreamError) -> None:
    trial, _ = attempts(RetryPolicy())
    with pytest.raises(type(error)):
        trial.wait_s(error)


def test_the_total_time_limit_bounds_attempts_and_waits() -> None:
    trial, clock = attempts(RetryPolicy(initial_backoff_s=0), timeout_s=10.0)
    assert trial.remaining_s() == 10.0
    clock.now += 4
    assert trial.remaining_s() == 6.0
    assert trial.wait_s(QueueFull("full", retry_after_s=5.0)) == 5.0
    too_late = QueueFull("full", retry_after_s=6.0)
    with pytest.raises(QueueFull) as caught:
        trial.wait_s(too_late)
    assert caught.value is too_late, "the caller learns what was wrong, not only that time ran out"
    clock.now += 6
    with pytest.raises(DeadlineExceeded):
        trial.remaining_s()


def test_without_a_time_limit_there_is_none() -> None:
    trial, clock = attempts(RetryPolicy())
    clock.now += 1e9
    assert trial.remaining_s() is None


@pytest.mark.parametrize(("attempt", "first", "most"), [(0, 0.1, 1), (1, -1, 1), (1, 2, 1)])
def test_a_policy_that_makes_no_sense_is_refused(attempt: int, first: float, most: float) -> None:
    with pytest.raises(ValueError, match="max_attempts"):
        RetryPolicy(max_attempts=attempt, initial_backoff_s=first, max_backoff_s=most)


def test_failover_stays_with_what_answers_and_is_moved_once_by_many() -> None:
    targets = ["a", "b", "c"]
    failover = Failover(targets)
    assert failover.current() == "a"
    for _ in range(5):  # five calls met the same trouble
        failover.leave("a")
    assert failover.current() == "b"
    failover.leave("b")
    failover.leave("c")
    assert failover.current() == "a"
