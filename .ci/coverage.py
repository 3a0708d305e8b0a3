"""Print what the fast tests cover of each file, branches included; fail where that is too little.

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
    "attn_inject/__main__.py": "runs in processes of its own",
    "attn_inject/optimizing/gate_kernel.py": "runs on a GPU, and in an interpreter in a process of its own",
    "attn_inject/optimizing/triton_kernels.py": "as gate_kernel.py",
    "attn_inject/cost/device.py": "its clock, memory and name of a GPU run where there is one",
    "attn_inject/sweeping/compared.py": "its tests take seconds (`slow`)",
    "attn_inject/saving/onnx_names.py": "as sweeping/compared.py, its rarer ways",
    "attn_inject/tracing/shapes.py": "as onnx_names.py",
    "cli/compare.py": "as onnx_names.py",
    "cli/gates.py": "as sweeping/compared.py",
    "cli/inspect.py": "as onnx_names.py",
    "cli/sweep.py": "as sweeping/compared.py",
    "attn_inject/saving/exported.py": "what exporters refuse differs from release to release; the sweeps export more",
}


def main() -> int:
    """The exit code: 1 if a file is below `LEAST` and no reason is given."""
    subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", "coverage.json"], check=True)
    measured = json.loads(Path("coverage.json").read_text())
    shares = {name: entry["summary"]["percent_covered"] for name, entry in measured["files"].items()}
    for name, share in sorted(shares.items(), key=lambda item: item[1]):
        print(f"{share:6.1f} %  {name}  {REASONS.get(name, '')}".rstrip())
    print(f"{measured['totals']['percent_covered']:6.1f} %  in all, lines and branches")
    low = [name for name, share in shares.items() if share < LEAST and name not in REASONS]
    for name in low:
        print(f"{name} is below {LEAST:g} %: test it, or say why in {__file__}")
    return bool(low)


if __name__ == "__main__":
    sys.exit(main())
