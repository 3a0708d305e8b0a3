"""The pictures of pages that README shows: `python -m tests.reporting.pictures` draws them anew, in Chromium."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from .browser import photograph

FOLDER = Path(__file__).parent / "screenshots"
# File, the command's arguments, whether the system is dark, the window.
PICTURES = (
    ("resnet50.png", ("resnet50", "-a", "se"), False, "1200,690"),
    ("inception_v3.png", ("inception_v3", "-a", "eca"), True, "1200,740"),
)


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments, dark, size in PICTURES:
            page = f"{arguments[0]}.html"
            run = [sys.executable, "-m", "attn_inject", *arguments, "--no-bench", "--html", page]
            subprocess.run(run, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            photograph(Path(folder) / page, FOLDER / name, profile=Path(folder) / "profile", dark=dark, size=size)


if __name__ == "__main__":
    main()
