"""The short form of the fuzzer: the same inputs each time, in processes of their own (the audit hook never leaves one).

`tests/fuzz/RESULTS.md` has the long runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = {"load": 120, "safetensors": 120, "plan": 1_000, "recipe": 2_000}


@pytest.mark.slow
@pytest.mark.parametrize("target", RUNS)
def test_nothing_but_the_documented_errors_comes_out(target: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.fuzz", "--target", target, "--plain", "--runs", str(RUNS[target])]
    command += ["--seed", "7", "--findings", str(tmp_path / "found"), "--report", str(tmp_path / "report.json")]
    ran = subprocess.run(command, check=False, cwd=root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["inputs"] == RUNS[target]
    assert report["found"] == {}
    # Some inputs get all the way through: the fuzzer tests more than the first check.
    assert sum(count for end, count in report["ends"].items() if "read" in end.split("/")) > RUNS[target] // 25


BREAKING = (
    "open('/tmp/attn-inject-fuzz-escape', 'w')",
    "__import__('os').remove('/tmp/attn-inject-no-such-file')",
    "__import__('os').system('true')",
    "__import__('subprocess').run(['true'])",
    "__import__('socket').getaddrinfo('localhost', 80)",
    "__import__('canary_module')",
    "__import__('pathlib').Path('../canary').touch()",
    "__import__('pathlib').Path('../another').touch()",
    "{}['x']",
    "raise_(PlanError('a' + chr(10) + 'b'))",
    "raise_(PlanError(''))",
    "len(b'x' * 1500 * 2**20)",
)
WATCHED = """
import json, pathlib, sys
from attn_inject import PlanError
from tests.fuzz import __main__, targets

def raise_(error):
    raise error

def wild(data):
    if not seeded:
        return calm(data)
    try:
        exec(breaking.pop(0))
    except (OSError, ImportError):
        pass
    raise PlanError("refused")

def begun(self, *arguments):
    begin(self, *arguments)
    seeded.append(True)

def cleaned(self, data):
    one(self, data)
    pathlib.Path("../another").unlink(missing_ok=True)

breaking = json.loads(sys.argv.pop())
seeded, calm = [], targets.plan_from_json
targets.plan_from_json = targets.plan_from_toml = wild
begin, one = __main__.Run.__init__, __main__.Run.one
__main__.Run.__init__, __main__.Run.one = begun, cleaned
sys.exit(__main__.main())
"""


@pytest.mark.slow
def test_the_fuzzer_sees_what_no_reader_may_do(tmp_path: Path) -> None:
    """However a reader swallows its exceptions, each of these is found out."""
    command = [sys.executable, "-c", WATCHED, "--target", "plan", "--plain", "--runs", str(len(BREAKING))]
    command += ["--findings", str(tmp_path / "found"), "--report", str(tmp_path / "report.json"), json.dumps(BREAKING)]
    ran = subprocess.run(command, check=False, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert json.loads((tmp_path / "report.json").read_text())["ends"] == {"WRONG": len(BREAKING)}, ran.stdout
    assert not Path("/tmp/attn-inject-fuzz-escape").exists()
