"""Recipes: everything that decides what a training run computes, read from a TOML file.

Two runs of one recipe on the same files give the same weights on the same machine. Where files lie, how many threads
run and how progress is shown is not part of a recipe.
"""

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

PRESETS = resources.files(__package__) / "presets"
# Objectives that train a head, and what the head is called. One trains alone, for a model that only labels, or several
# together with the masked body that they share.
HEADS = {"language": "language", "tags": "tags", "ruled_tags": "tags", "entities": "entities", "answers": "answers"}
OBJECTIVES = ("clm", "mlm", "tlm", "ranking", "translation", *HEADS)
ALONE = ("clm", "translation")
MASKED = ("mlm", "tlm")
# These read text of whatever language, and are not told which.
LANGUAGE_BLIND = ("language", "tags")
# Their labels are made by rules over aligned text, which exist for these languages and start from English.
RULED_HEADS = {"ruled_tags", "entities", "answers"}
RULED = ("de", "en", "es", "fr")


class RecipeError(ValueError):
    """A recipe that cannot be trained; the message names the field."""


@dataclass(frozen=True)
class Architecture:
    """Shape of the body; see XLMConfig. Attention weights are not dropped out, which keeps the fused kernel in use."""

    emb_dim: int
    n_layers: int
    n_heads: int
    max_positions: int = 256
    dropout: float = 0.1


@dataclass(frozen=True)
class Objective:
    """One term of the loss: its weight, in every how many steps it takes part, and the tokens (ranking: the pairs) it
    then takes. `neighbours`: how many rows that follow each other in the corpus stay together in a ranking batch;
    `smoothing`: the share of each target of a translation that is spread over the vocabulary."""

    weight: float = 1.0
    every: int = 1
    batch_tokens: int = 4096
    batch_pairs: int = 96
    neighbours: int = 1
    smoothing: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Learning rate over `steps`: linear warm-up, then the peak, then half a cosine to zero.

    `hold` is the share of the steps after warm-up that stay at the peak; 0 is the ordinary cosine. A run that holds
    can be prolonged or cut short before its decay begins, without having wasted a step.
    """

    steps: int
    peak_lr: float = 2e-3
    warmup_steps: int = 200
    hold: float = 0.0
    weight_decay: float = 0.1
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A training run. `init` names the run directory or model whose weights it starts from; empty: fresh weights. Of a
    translation model this is the encoder, and `init_decoder` a causal model for the decoder."""

    name: str
    languages: tuple[str, ...]
    architecture: Architecture
    objectives: dict[str, Objective]
    schedule: Schedule
    vocabulary_size: int = 8192
    seed: int = 1
    validate_every: int = 250
    init: str = ""
    init_decoder: str = ""

    def __post_init__(self) -> None:
        for condition, problem in (
            (bool(self.objectives), "objectives: at least one is needed"),
            (set(self.objectives) <= set(OBJECTIVES), f"objectives: only {', '.join(OBJECTIVES)} are known"),
            (
                all(min(entry.every, entry.neighbours) > 0 for entry in self.objectives.values()),
                "objectives: every and neighbours must be positive",
            ),
            (
                len(self.objectives) == 1 or not set(self.objectives) & set(ALONE),
                f"objectives: {', '.join(ALONE)} train alone",
            ),
            (
                len(self.objectives) == 1 or not self.heads or bool(set(self.objectives) & set(MASKED)),
                f"objectives: several heads share a body, which needs {' or '.join(MASKED)}",
            ),
            (
                len(self.heads) == len({HEADS[name] for name in self.heads}),
                "objectives: tags and ruled_tags train the same head",
            ),
            (
                len(self.languages) > 1 or not {"tlm", "ranking", "translation", "language"} & set(self.objectives),
                "objectives: tlm, ranking, translation and language need more than one language",
            ),
            (
                all(0 <= entry.smoothing < 1 for entry in self.objectives.values()),
                "objectives: smoothing must lie in [0, 1)",
            ),
            (
                self.translates or not self.init_decoder,
                "init_decoder: only a translation model has a decoder",
            ),
            (
                not RULED_HEADS & set(self.objectives) or set(self.languages) <= set(RULED),
                f"languages: the rules of {', '.join(sorted(RULED_HEADS))} know {', '.join(RULED)}",
            ),
            (
                not RULED_HEADS & set(self.objectives) or "en" in self.languages,
                f"languages: {', '.join(sorted(RULED_HEADS))} need en, whose names are carried over to the others",
            ),
            (len(set(self.languages)) == len(self.languages) > 0, "languages: a list without repetition is needed"),
            (self.architecture.emb_dim % self.architecture.n_heads == 0, "architecture: n_heads must divide emb_dim"),
            (self.schedule.steps > self.schedule.warmup_steps >= 0, "schedule: steps must exceed warmup_steps"),
            (0 <= self.schedule.hold <= 1, "schedule: hold must lie in [0, 1]"),
        ):
            if not condition:
                raise RecipeError(f"{self.name}: {problem}")

    @property
    def causal(self) -> bool:
        """Whether the body sees only the past."""
        return "clm" in self.objectives

    @property
    def translates(self) -> bool:
        """Whether it is a translation model."""
        return "translation" in self.objectives

    @property
    def heads(self) -> tuple[str, ...]:
        """The objectives that train heads."""
        return tuple(name for name in self.objectives if name in HEADS)

    @property
    def head(self) -> str | None:
        """The objective of a model that only labels; None where a language model is trained, with or without heads."""
        return self.heads[0] if len(self.objectives) == len(self.heads) else None

    @property
    def states_languages(self) -> bool:
        """Whether the model has language embeddings."""
        return self.head not in LANGUAGE_BLIND

    @property
    def lang2id(self) -> dict[str, int]:
        """Language ids: alphabetical, as in the published multilingual checkpoints."""
        return {lang: index for index, lang in enumerate(sorted(self.languages))}


def load_recipe(name_or_path: str) -> Recipe:
    """A preset by its name, or a TOML file by its path.

    Raises RecipeError for unknown names, unknown or missing fields, wrong types and impossible values.
    """
    path = Path(name_or_path)
    preset = PRESETS / f"{name_or_path}.toml"
    source = path if path.suffix == ".toml" else preset
    if not source.is_file():
        names = ", ".join(preset_names())
        raise RecipeError(f"no recipe {name_or_path!r}: give a .toml file or one of {names}")
    try:
        values = tomllib.loads(source.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: {error}") from error
    return recipe_from(values)


def preset_names() -> list[str]:
    """The recipes shipped with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in PRESETS.iterdir() if entry.name.endswith(".toml"))


Section = TypeVar("Section", Architecture, Objective, Schedule, Recipe)


def recipe_from(values: dict[str, object]) -> Recipe:
    """The recipe of a parsed TOML document."""
    values = dict(values)
    objectives = values.get("objectives", {})
    values["architecture"] = _section(Architecture, "architecture", values.get("architecture", {}))
    values["schedule"] = _section(Schedule, "schedule", values.get("schedule", {}))
    values["objectives"] = {
        name: _section(Objective, f"objectives.{name}", table)
        for name, table in _table("objectives", objectives).items()
    }
    return _section(Recipe, "recipe", values)


def to_document(recipe: Recipe) -> dict[str, object]:
    """The inverse of `recipe_from`: plain values for a JSON file."""
    return dataclasses.asdict(recipe)


def _section(kind: type[Section], where: str, values: object) -> Section:
    table = _table(where, values)
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    if unknown := sorted(set(table) - set(known)):
        raise RecipeError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(known)}")
    checked = {name: _value(f"{where}.{name}", known[name].type, value) for name, value in table.items()}
    try:
        return kind(**checked)  # type: ignore[arg-type]  # each value was checked against its field
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _table(where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: a table is needed, not {value!r}")
    return value


def _value(where: str, kind: object, value: object) -> object:
    """The value, checked against the field's type; whole numbers pass as floats, lists as tuples."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == tuple[str, ...]:
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise RecipeError(f"{where}: a list of strings is needed, not {value!r}")
    if kind in (int, float, str) and (not isinstance(value, kind) or isinstance(value, bool)):
        raise RecipeError(f"{where}: {getattr(kind, '__name__', kind)} is needed, not {value!r}")
    return value
