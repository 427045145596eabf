"""What the shipped models are meant to reach, and how their cards say whether they do."""

from collections.abc import Mapping

# Perplexity per token on the validation chapters, at most.
PERPLEXITY = {"xlm-clm-demo": {"en": 30.0, "fr": 29.0, "de": 43.0, "es": 38.0}}
# Accuracy of translation retrieval from and to English, at least.
RETRIEVAL = {"xlm-mlm-demo": 0.88}
# Mean accuracy over the languages on whole held-out sentences, at least.
LANGUAGE = {"xlm-mlm-demo-language": 0.98}
# Accuracy of tags against those of people, in each language, at least.
TAGS = {"xlm-mlm-demo-tags": 0.75}


def verdict(aim: str, measured: Mapping[str, float], bars: Mapping[str, float], *, at_most: bool = False) -> str:
    """One line for a card: the aim, and that it was reached or by what it was missed."""
    missed = [
        f"{name} ({value:.3g} instead of {bars[name]:.3g})"
        for name, value in measured.items()
        if (value > bars[name] if at_most else value < bars[name])
    ]
    return f"Aim: {aim}. {'Missed: ' + ', '.join(missed) if missed else 'Reached'}.\n"
