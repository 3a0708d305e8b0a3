"""`attn-inject inspect FILE`: what a saved model is, without running code from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that --out wrote.")]) -> None:
    """Say what a saved model is: source, plan, sites, versions."""
    from rich.console import Console

    from attn_inject.checkpoint import inspect

    Console().print(inspect(file))
