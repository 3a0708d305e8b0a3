"""The pictures of pages that README shows: `python -m tests.reporting.pictures` draws them anew, in Chromium."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from .browser import BROWSER

FOLDER = Path(__file__).parent / "screenshots"
# File, the command's arguments, 0 for a dark system or 1 for a light one, the window.
PICTURES = (
    ("resnet50.png", ("resnet50", "-a", "se"), 1, "1200,690"),
    ("inception_v3.png", ("inception_v3", "-a", "eca"), 0, "1200,740"),
)


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments, scheme, size in PICTURES:
            page = f"{arguments[0]}.html"
            run = [sys.executable, "-m", "attn_inject", *arguments, "--no-bench", "--html", page]
            subprocess.run(run, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                     "--virtual-time-budget=5000", f"--user-data-dir={folder}/profile", f"--window-size={size}",
                     f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={FOLDER / name}"]  # fmt: skip
            subprocess.run([str(BROWSER), *flags, (Path(folder) / page).as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
