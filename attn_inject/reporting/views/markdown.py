"""A `Report` as GitHub-flavoured Markdown, for a paper or a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ..data import BlockDiff, ReportData, Speed
from . import speed_words, words
from .tables import TOTALS_HEADER, sites_table, speed_rows, stages_table, totals_rows


def to_markdown(report: ReportData, *, full: bool = False, diff: bool = False) -> str:
    """The report as Markdown text; `full` gives every site a row of its own, `diff` adds the blocks' changed code."""
    parts = [f"## {_escaped(report.title)}", f"{_escaped(words.inputs(report))}, per image, inference."]
    told = " ".join(filter(None, (words.convention(report), words.fallen_peak(report))))
    parts += [table(TOTALS_HEADER, totals_rows(report)), told]
    if report.sites:
        sites, stages = sites_table(report, full=full), stages_table(report)
        parts.append(table(sites.header, [*sites.rows, *sites.sums], left=sites.text_columns))
        if len(sites.rows) > len(stages.rows) > 1:
            parts.append(table(stages.header, stages.rows, left=0))
    parts += [part for speed in report.speeds for part in _speed(speed)]
    remarks = words.remarks(report)
    if remarks:
        parts.append("\n".join(f"- {_escaped(remark)}" for remark in remarks))
    checks = words.checks(report)
    if checks is not None:
        parts.append(_escaped(checks[0].upper() + checks[1:]) + ".")
    parts += [part for each in report.diffs for part in _diff(each)] if diff else []
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table whose first `left` columns are text and the rest are numbers."""
    rule = ["---" if index < left else "---:" for index in range(len(header))]
    lines = [header, rule, *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _speed(speed: Speed) -> Iterator[str]:
    yield f"**{speed_words.title(speed)}**: {speed_words.ratio(speed)}."
    yield table(["", "before", "after"], speed_rows(speed))
    yield "\n".join(f"- {_escaped(line)}" for line in speed_words.details(speed))


def _diff(diff: BlockDiff) -> Iterator[str]:
    yield f"Changed in {_escaped(words.blocks(diff.blocks))}:"
    yield "```diff\n" + "\n".join(words.diff_line(line) for line in diff.lines) + "\n```"


def _escaped(text: str) -> str:
    """Text that a Markdown table cannot mistake for its own marks."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("_", "\\_").replace("*", "\\*").replace("<", "&lt;")
