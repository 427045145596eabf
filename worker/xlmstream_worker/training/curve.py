"""The losses of a run as a picture, drawn from RUN/log.jsonl without a plotting library."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from .trainer import read_log

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 130, 24, 44
COLOURS = ("#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#dd4477", "#66aa00")

Point = tuple[float, float]


def write_curve(run: Path, path: Path, title: str) -> None:
    """Draw the training losses (thin lines) and validation losses (dots joined) of `run` over the steps, as `path`."""
    series: defaultdict[str, list[Point]] = defaultdict(list)
    for line in read_log(run):
        for kind in ("train", "valid"):
            losses, step = line.get(kind), line["step"]
            if isinstance(losses, Mapping) and isinstance(step, int):
                for name, loss in losses.items():
                    series[f"{kind} {name}"].append((step, float(loss)))
    path.write_text(draw(series, title), encoding="utf-8")


def draw(series: Mapping[str, Sequence[Point]], title: str) -> str:
    """An SVG of (step, nats) series, named `train` or `valid` and the loss, which has one colour. `valid` gets dots."""
    points = [point for line in series.values() for point in line]
    last = max((x for x, _ in points), default=1.0)
    top = math.ceil(max((y for _, y in points), default=1.0))
    bottom = math.floor(min((y for _, y in points), default=0.0))

    def place(point: Point) -> Point:
        x = LEFT + point[0] / last * (WIDTH - LEFT - RIGHT)
        y = TOP + (top - point[1]) / max(top - bottom, 1) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [_text(LEFT, TOP - 8, f"{title}: loss in nats over steps")]
    for value in range(bottom, top + 1, max(1, (top - bottom) // 8)):
        _, y = place((0, value))
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 24, y + 4, str(value)))
    parts.extend(
        _text(place((step, bottom))[0] - 12, HEIGHT - BOTTOM + 18, f"{step:,.0f}")
        for step in (0.0, last / 4, last / 2, last * 3 / 4, last)
    )
    losses = list(dict.fromkeys(map(_loss, series)))
    for index, (name, line) in enumerate(series.items()):
        colour = COLOURS[losses.index(_loss(name)) % len(COLOURS)]
        placed = [place(point) for point in line]
        route = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline points="{route}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        if name.startswith("valid"):
            parts.extend(f'<circle cx="{x}" cy="{y}" r="2.4" fill="{colour}"/>' for x, y in placed)
        parts.append(_text(WIDTH - RIGHT + 10, TOP + 16 * index + 12, name, colour))
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, colour: str = "#333") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}">{escape(text)}</text>'


def _loss(name: str) -> str:
    """What a series is of."""
    return name.partition(" ")[2]
