"""How hard property tests look. By default a few examples, the same on every run, so that a red build is red again;

    XLMSTREAM_TEST_EFFORT=deep pytest --timeout 0

looks at twenty times as many, new ones on every run, and at every sentence of the published data. A failure prints what
reproduces it.
"""

import os

from hypothesis import HealthCheck, settings

DEEP = os.environ.get("XLMSTREAM_TEST_EFFORT", "ci") == "deep"


def examples(number: int) -> int:
    """For `max_examples`: how many where `number` are enough for every day."""
    return 20 * number if DEEP else number


def load_profile() -> None:
    """What every `@settings` builds on. No deadlines: a busy machine must not fail a property."""
    calm = settings(deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("ci", calm, max_examples=examples(100), derandomize=True)
    settings.register_profile("deep", calm, max_examples=examples(100))
    settings.load_profile("deep" if DEEP else "ci")
