"""The flags that say how a task is done, named as the keywords of the verbs: what a call and a job have in common."""

from __future__ import annotations

import argparse


def direction_flags(parser: argparse.ArgumentParser, *, source_required: bool = True) -> None:
    """Languages of a translation."""
    group = parser.add_argument_group("languages")
    told = "that of the texts" if source_required else "that of texts whose row names none"
    group.add_argument("--from", dest="source_language", required=source_required, metavar="CODE", help=told)
    group.add_argument("--to", dest="target_language", required=True, metavar="CODE", help="that of the translations")


def generation_flags(parser: argparse.ArgumentParser, most: str = "64") -> None:
    """How a text is written: what most calls set. `most`: how many tokens where nothing is said."""
    group = parser.add_argument_group("generation")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help=f"most tokens to generate (default: {most})")
    group.add_argument("--min-new-tokens", type=int, metavar="N", help="no end before so many tokens (default: 0)")
    group.add_argument("--temperature", type=float, metavar="T", help="0 takes the most likely token (default: 0)")
    group.add_argument("--top-k", type=int, metavar="K", help="sample among the K most likely tokens")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="sample among the likeliest that add up to P (default: 1)"
    )
    group.add_argument("--seed", type=int, metavar="N", help="same seed, same text (default: random)")
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    group.add_argument(
        "--stop-token-id", dest="stop_token_ids", type=int, action="append", metavar="ID", help="the same"
    )
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on after the end of sequence")


def more_generation_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How a text is written: everything else. Returns the group, for flags that only some tasks have."""
    group = parser.add_argument_group("generation, further")
    group.add_argument("--min-p", type=float, metavar="P", help="no token less likely than P times the likeliest")
    group.add_argument("--typical-p", type=float, metavar="P", help="sample among the most typical that add up to P")
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: less of what was said")
    group.add_argument("--presence-penalty", type=float, metavar="R", help="taken from the logit of what was said")
    group.add_argument("--frequency-penalty", type=float, metavar="R", help="the same, for each time it was said")
    group.add_argument("--no-repeat-ngram-size", type=int, metavar="N", help="no N tokens in a row come twice")
    group.add_argument("--bad-word", dest="bad_words", action="append", metavar="TEXT", help="never; may be repeated")
    group.add_argument(
        "--logit-bias", type=_bias, action="append", metavar="ID=BIAS", help="added to a token's logit; may be repeated"
    )
    group.add_argument("--num-return-sequences", type=int, metavar="N", help="candidates; --json shows all")
    group.add_argument("--num-beams", type=int, metavar="N", help="beam search of this width")
    group.add_argument("--length-penalty", type=float, metavar="R", help="beam search: above 0 favours longer texts")
    group.add_argument("--early-stopping", choices=["heuristic", "when_full", "never"], help="beam search: when to end")
    group.add_argument("--top-logprobs", type=int, metavar="K", help="tell the K likeliest tokens of each step")
    return group


def prompt_flags(group: argparse._ArgumentGroup) -> None:
    """What generation has and translation has not."""
    group.add_argument("--echo", action="store_true", default=None, help="the prompt, too")
    modes = ["next_token", "mask_append"]
    group.add_argument("--decoding-mode", choices=modes, help="where the next token is read (default: the model's)")


def _bias(given: str) -> tuple[int, float]:
    """ID=BIAS, as argparse wants it: a ValueError is told as wrong usage."""
    token_id, _, bias = given.partition("=")
    return int(token_id), float(bias)


def parameter_flags(name: str, parser: argparse.ArgumentParser) -> None:
    """The flags of a task that does not generate, by its name."""
    group = parser.add_argument_group("task") if name != "choose" else parser
    match name:
        case "embed":
            group.add_argument("--pooling", choices=["first", "mean", "max", "last", "none"], help="default: mean")
            group.add_argument("--layer", type=int, metavar="N", help="hidden states of this layer (default: the last)")
            group.add_argument("--normalize", action="store_true", default=None, help="scale vectors to length 1")
            group.add_argument("--dimensions", type=int, metavar="N", help="keep the first N numbers (default: all)")
            group.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], help="default: float32")
        case "fill_mask":
            group.add_argument("--top-k", type=int, metavar="K", help="candidates for each gap (default: 5)")
            group.add_argument(
                "--target", dest="targets", action="append", metavar="WORD", help="only such words; may be repeated"
            )
        case "classify":
            group.add_argument("--function", choices=["softmax", "sigmoid", "none"], help="default: the model's")
            group.add_argument("--top-k", type=int, metavar="K", help="labels to show (default: all)")
            group.add_argument(
                "--label", dest="labels", action="append", metavar="LABEL", help="only such labels; may be repeated"
            )
        case "tag":
            group.add_argument("--aggregation", choices=["simple", "first", "average", "max"], help="default: first")
            group.add_argument(
                "--ignore-label", dest="ignore_labels", action="append", metavar="LABEL", help="may be repeated"
            )
            group.add_argument("--include-tokens", action="store_true", default=None, help="all tokens, for --json")
        case "answer":
            group.add_argument("--top-k", type=int, metavar="K", help="answers to show (default: 1)")
            group.add_argument("--max-answer-tokens", type=int, metavar="N", help="longest answer (default: 15)")
            group.add_argument("--max-question-tokens", type=int, metavar="N", help="cut the question (default: 64)")
            group.add_argument("--window-tokens", type=int, metavar="N", help="tokens of one window (default: 384)")
            group.add_argument("--stride-tokens", type=int, metavar="N", help="from window to window (default: 128)")
            group.add_argument(
                "--allow-no-answer", action="store_true", default=None, help='let "no answer" win where it is likelier'
            )
        case "score":
            group.add_argument("--score-end", action="store_true", default=None, help="also the token that ends a text")
            group.add_argument("--include-tokens", action="store_true", default=None, help="every token, for --json")
