"""What cards say of their aims."""

from xlmstream_worker.training.bars import verdict


def test_an_aim_is_reached_or_missed_by_a_figure() -> None:
    assert verdict("at least 0.88", {"en to fr": 0.91}, {"en to fr": 0.88}) == "Aim: at least 0.88. Reached.\n"
    missed = verdict("perplexity", {"en": 31.2, "fr": 27.0}, {"en": 30.0, "fr": 29.0}, at_most=True)
    assert missed == "Aim: perplexity. Missed: en (31.2 instead of 30).\n"
