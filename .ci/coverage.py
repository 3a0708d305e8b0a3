"""Print what the fast tests cover of each file, branches included; fail where that is too little without a reason.

Reads the data file that `pytest --cov` left in the working folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LEAST = 85.0

# Files that may be below, and why.
REASONS = {
    "attn_inject/optimizing/triton_kernels.py": "kernels run on CUDA, or in Triton's interpreter, which no tracer sees",
}


def main() -> int:
    """The exit code: 1 if a file is below `LEAST` and no reason is given, or is above and one is given still."""
    subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", "coverage.json"], check=True)
    measured = json.loads(Path("coverage.json").read_text())
    shares = {name: entry["summary"]["percent_covered"] for name, entry in measured["files"].items()}
    for name, share in sorted(shares.items(), key=lambda item: item[1]):
        print(f"{share:6.1f} %  {name}  {REASONS.get(name, '')}".rstrip())
    print(f"{measured['totals']['percent_covered']:6.1f} %  in all, lines and branches")
    low = [name for name, share in shares.items() if share < LEAST and name not in REASONS]
    stale = [name for name in REASONS if shares.get(name, 0.0) >= LEAST]
    for name in low:
        print(f"{name} is below {LEAST:g} %: test it, or say why in {__file__}")
    for name in stale:
        print(f"{name} is not below {LEAST:g} % any more: take its reason out of {__file__}")
    return bool(low or stale)


if __name__ == "__main__":
    sys.exit(main())
