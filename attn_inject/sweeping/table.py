"""A sweep's rows as a table, and its files: CSV, Parquet, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..errors import CheckpointError
from ..files.atomic import write_atomically, write_text
from .rows import COLUMNS, Row

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from ..reporting.comparing import Comparison

ENDINGS = (".csv", ".parquet")
PARQUET_NEEDS = "a .parquet file needs the package pyarrow: pip install 'attn-inject[sweep]', or take .csv"
FORMAT, VERSION = "attn-inject sweep", 1


@dataclass(frozen=True, slots=True)
class SweepTable(Sequence[Row]):
    """What `sweep` gives: a sequence of rows, in the order they were asked for. Prints itself in a terminal."""

    rows: tuple[Row, ...]

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...

    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def errors(self) -> tuple[Row, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if row.error is not None)

    @classmethod
    def read(cls, path: str | Path) -> SweepTable:
        """The table of a `.csv` or `.parquet` file that a sweep wrote.

        Raises:
            CheckpointError: a file that is not there, or no sweep's table.

        """
        path = Path(path)
        must_be_table(path)
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}")
        try:
            found = list(_from_csv(path) if path.suffix.lower() == ".csv" else _from_parquet(path))
        except (OSError, ValueError, TypeError, csv.Error) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CheckpointError(f"{path} is not a sweep's table: {reason[0]}") from error
        return cls(tuple(found))

    def comparison(self) -> Comparison:
        """The rows side by side, as `compare` shows them; with `.plot()` for its chart, and accuracies where known.

        Raises:
            AttnInjectError: no row has figures.

        """
        from .compared import compared

        return compared(self.rows)

    def write(self, path: str | Path) -> None:
        """Write `.csv` or `.parquet`, by the path's ending, whole or not at all.

        Raises:
            CheckpointError: another ending, no pyarrow for Parquet, or a file that cannot be written.

        """
        path = Path(path)
        must_be_table(path)
        (self.to_csv if path.suffix.lower() == ".csv" else self.to_parquet)(path)

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file: a line of names, one line a row, nothing where a value is None."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_text(getattr(row, name)) for name in COLUMNS] for row in self.rows)
        write_text(path, text.getvalue())

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file, whose columns have their types even where nothing stands in them."""
        _must_have_pyarrow()
        import pyarrow
        import pyarrow.parquet

        kinds = {
            str: pyarrow.string(),
            int: pyarrow.int64(),
            float: pyarrow.float64(),
            bool: pyarrow.bool_(),
            tuple: pyarrow.list_(pyarrow.float64()),
        }
        schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        table = pyarrow.Table.from_pylist([row.to_dict() for row in self.rows], schema=schema)
        write_atomically(Path(path), lambda file: pyarrow.parquet.write_table(table, file))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return {"format": FORMAT, "version": VERSION, "rows": [row.to_dict() for row in self.rows]}

    def to_json(self, *, indent: int | None = 2) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from .shown import render

        yield from render(self.rows, width=options.max_width)

    def __str__(self) -> str:
        from ..reporting.views.plain import plain_text
        from .shown import render

        return plain_text(render(self.rows))


def must_be_table(path: Path) -> None:
    """Raise CheckpointError for an ending that no table has, a folder, or Parquet without pyarrow."""
    if path.suffix.lower() not in ENDINGS:
        raise CheckpointError(f"{path}: a table's ending is {' or '.join(ENDINGS)}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder")
    if path.suffix.lower() == ".parquet":
        _must_have_pyarrow()


def _must_have_pyarrow() -> None:
    if find_spec("pyarrow") is None:
        raise CheckpointError(PARQUET_NEEDS)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(repr, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _from_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file, strict=True)
        _must_have(lines.fieldnames or ())
        for line in lines:
            yield Row.of({name: _value(COLUMNS[name], text) for name, text in line.items() if name in COLUMNS})


def _value(kind: type, text: str | None) -> Any:
    if not text:
        return None
    if kind is tuple:
        return text.split()
    if kind is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else text
    return kind(text)


def _from_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    _must_have(table.column_names)
    yield from map(Row.of, table.to_pylist())


def _must_have(names: Sequence[str]) -> None:
    missing = [name for name in ("model", "attention", "placement") if name not in names]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
