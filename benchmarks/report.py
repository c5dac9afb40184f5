"""Tables of results: as text for the terminal and for docs/benchmarks.md. Values in, text out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True)
class Table:
    """One section of the report: what was done, then what came out."""

    title: str
    method: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def render(self) -> str:
        """Return the section as Markdown, with columns aligned for those who read it in a terminal."""
        lines = [list(self.columns), *(list(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]

        def row(cells: Sequence[str]) -> str:
            first, *rest = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            return "| " + " | ".join([first, *rest]) + " |"

        ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([f"## {self.title}", "", self.method, "", row(lines[0]), ruler, *map(row, lines[1:])])


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return `median (min to max)` of several runs."""
    return f"{_number(median(values), digits)} ({_number(min(values), digits)} to {_number(max(values), digits)})"


def middle(values: Sequence[float], digits: int = 2) -> str:
    """Return the median alone."""
    return _number(median(values), digits)


def ratio(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the spread of run-by-run ratios: both were measured in turn, so what disturbed one disturbed the other."""
    return spread([value / other for value, other in zip(values, others, strict=True)], 2)


def document(
    tables: Sequence[Table], *, machine: Sequence[str], method: Sequence[str], date: str, command: str = "make bench"
) -> str:
    """Return the whole document that *command* writes."""
    facts = "\n".join(f"- {line}" for line in [f"Date: {date}", *machine, *method])
    head = (
        "# Benchmarks\n\n"
        f"Written by `{command}`; do not edit it by hand. The figures are of one machine\n"
        "at one time: compare ratios within a run, not figures of different runs.\n\n"
    )
    return head + facts + "\n\n" + "\n\n".join(table.render() for table in tables) + "\n"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"
