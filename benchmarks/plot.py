"""A bar chart as SVG, for the results that are kept: `python -m benchmarks.plot decode.json FILE.svg`.

Reads the JSON of `benchmarks.decode` and draws tokens per CPU second of transformers and of our engine, per setting.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path

COLOURS = ("#9aa5b1", "#5b7c99", "#2f855a", "#68b586")
BAR, GAP, LEFT, WIDTH = 18, 26, 150, 760


def main() -> int:
    source, target = map(Path, sys.argv[1:3])
    table = json.loads(source.read_text(encoding="utf-8"))["tables"][0]
    sides = [place for place, name in enumerate(table["columns"]) if name.startswith(("transformers", "ours"))]
    groups = []
    for row in table["rows"]:
        size, batch, new = row[0], int(row[1]), int(row[2])
        rates = [batch * new / float(row[place].split()[0].strip("~,")) for place in sides]
        groups.append((f"{size}, batch {batch}, {new} tokens", rates))
    target.write_text(chart([table["columns"][place] for place in sides], groups), encoding="utf-8")
    return 0


def chart(names: list[str], groups: list[tuple[str, list[float]]]) -> str:
    longest = max(rate for _, rates in groups for rate in rates)
    parts, y = [], 50
    for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        parts.append(f'<rect x="{10 + 190 * place}" y="10" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{27 + 190 * place}" y="21">{escape(name)}</text>')
    for label, rates in groups:
        parts.append(f'<text x="10" y="{y + 2 * BAR}">{escape(label)}</text>')
        for rate, colour in zip(rates, COLOURS, strict=False):
            width = max(1.0, rate / longest * (WIDTH - LEFT - 120))
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 3}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + width + 6:.1f}" y="{y + BAR - 6}">{rate:.0f} tokens/s</text>')
            y += BAR
        y += GAP
    style = "text { font: 12px sans-serif; fill: #222 } rect.paper { fill: #fff }"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}">'
    paper = f'<rect class="paper" width="{WIDTH}" height="{y}"/>'
    return f"{head}<style>{style}</style>{paper}{''.join(parts)}</svg>\n"


if __name__ == "__main__":
    sys.exit(main())
