"""Fuzz the readers: `python -m tests.fuzz --target plan --seconds 600`, or `--runs 2000 --seed 1`.

With atheris installed (`pip install attn-inject[fuzz]`) the search is guided by the coverage of attn_inject; without,
or with `--plain`, it is a repeatable random walk from the seeds. On every input: nothing but the documented errors come
out, in one line; nothing outside a temporary folder is written, nothing runs and no server is asked (see `guard`); no
payload in the seeds runs; memory grows by no more than a bound. What breaks one of these is written to `--findings`
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import logging
import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    atheris = None

# Above what the process takes once all is imported and a first input is read.
MEMORY = 512 * 2**20
LONGEST = 100_000
SLOW = 20.0


class Run:
    """One target's inputs, and what came of them."""

    def __init__(self, target: Any, folder: Path, findings: Path, stop: float) -> None:
        from .guard import Guard
        from .mutate import CANARY

        self.target, self.folder, self.findings, self.stop = target, folder, findings, stop
        self.canary = folder / "canary"
        (folder / f"{CANARY}.py").write_text(f"open({str(self.canary)!r}, 'w').close()\ndef make(): pass\n")
        self.seeds = target.seeds(folder)
        self.ends: collections.Counter[str] = collections.Counter()
        self.found: dict[str, str] = {}
        self.begun, self.slowest = time.monotonic(), 0.0
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        self.work = folder / "work"
        self.work.mkdir()
        self.guard = Guard(folder, CANARY)
        for seed in self.seeds:
            target.check(seed, self.work)
        self.memory = _peak()

    def one(self, data: bytes) -> None:
        begun, ended = time.monotonic(), ""
        try:
            with self.guard.watching():
                ended = self.target.check(data, self.work)
            self._check_after()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._note(data, error)
            ended = "WRONG"
        self.ends[ended] += 1
        took = time.monotonic() - begun
        self.slowest = max(self.slowest, took)
        if took > SLOW:
            self._note(data, AssertionError(f"took {took:.0f} seconds"))

    def _check_after(self) -> None:
        assert not self.guard.seen, self.guard.seen[0]
        assert not self.canary.exists(), "a payload ran"
        assert len(list(self.work.iterdir())) <= 3, "more files than were given"
        assert {p.name for p in self.folder.iterdir()} <= {self.work.name, "canary_module.py"}, (
            "a file beside the folder"
        )
        peak = _peak()
        if peak > self.memory + MEMORY:
            grown, self.memory = peak - self.memory, peak
            raise AssertionError(f"memory grew by {grown / 2**20:.0f} MiB")

    def _note(self, data: bytes, error: BaseException) -> None:
        self.canary.unlink(missing_ok=True)
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "attn_inject" in f.filename][-1:]
        key = f"{type(error).__name__} at {''.join(ours)}"
        if key in self.found:
            return
        self.found[key] = str(error)[:300]
        self.findings.mkdir(parents=True, exist_ok=True)
        stem = f"{self.target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
        (self.findings / stem).write_bytes(data)
        (self.findings / f"{stem}.txt").write_text("".join(traceback.format_exception(error)))
        print(f"FOUND {key}: {str(error)[:300]}", flush=True)

    def summary(self) -> dict[str, Any]:
        return {
            "target": self.target.name,
            "inputs": sum(self.ends.values()),
            "seconds": round(time.monotonic() - self.begun),
            "ends": dict(self.ends.most_common()),
            "slowest_seconds": round(self.slowest, 2),
            "grown_mib": round((_peak() - self.memory) / 2**20),
            "found": self.found,
        }


def _peak() -> int:
    """The most bytes this process held. Not `ru_maxrss` where Linux says better: it begins with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _plain(run: Run, runs: int, seed: int) -> None:
    """A random walk: mostly from a seed, sometimes from an input that was read whole."""
    chance = random.Random(seed)
    kept = list(run.seeds)
    for _ in range(runs):
        if time.monotonic() > run.stop:
            return
        data = run.target.change(chance.choice(kept), chance)[:LONGEST]
        before = dict(run.ends)
        run.one(data)
        if len(kept) < 500 and any(run.ends[e] > before.get(e, 0) for e in run.ends if e.startswith("read")):
            kept.append(data)


def _guided(run: Run, runs: int, seconds: float, seed: int, corpus: Path, report: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(run.seeds):
        (corpus / f"seed{number}").write_bytes(content)

    def changed(data: bytes, most: int, number: int) -> bytes:
        chance = random.Random(number)
        if chance.random() < 0.15:
            # libFuzzer stacks its changes: without a fresh start now and then, few inputs keep their outer form.
            data = chance.choice(run.seeds)
        elif chance.random() < 0.15:
            return atheris.Mutate(data, most)
        return run.target.change(bytes(data), chance)[:most]

    for content in run.seeds:
        run.target.check(content, run.work)
    run.memory = _peak()  # of this process
    found = 0

    def test(data: bytes) -> None:
        nonlocal found
        run.one(data)
        if sum(run.ends.values()) % 100 == 0 or len(run.found) > found:
            found = len(run.found)
            report.write_text(json.dumps(run.summary(), indent=1) + "\n")

    # Corpus, leak and memory limits are this program's own.
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_len={LONGEST}",
        "-rss_limit_mb=0",
        "-timeout=300",
        "-len_control=0",
        "-mutate_depth=3",
    ]
    arguments += [f"-seed={seed + 1}", "-print_final_stats=1", "-reload=0"]
    arguments += [f"-runs={runs}"] if runs < 2**31 else []
    arguments += [f"-max_total_time={seconds:.0f}"] if seconds < 1e9 else []
    atheris.Setup(arguments, test, custom_mutator=changed)
    atheris.Fuzz()


def _forked(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """libFuzzer ends its process itself: it has one of its own, whose report says how it went to the last hundred."""
    report = args.report or Path(tempfile.mkdtemp()) / "report.json"
    report.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _guided(run, args.runs, args.seconds, args.seed, args.corpus or Path(tempfile.mkdtemp()), report)
    os.waitpid(child, 0)
    summary: dict[str, Any] = json.loads(report.read_text())
    return summary


def _covered(run: Run, inputs: list[bytes]) -> None:
    """Which lines of the readers a set of inputs runs, by settrace."""
    import attn_inject

    home = str(Path(attn_inject.__file__).parent)
    lines: dict[str, set[int]] = {}

    def local(frame: Any, event: str, argument: Any) -> Any:
        lines.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return local

    sys.settrace(lambda frame, event, argument: local if frame.f_code.co_filename.startswith(home) else None)
    for data in inputs:
        run.one(data)
    sys.settrace(None)
    names = (
        "planning/tables",
        "planning/text",
        "planning/recipe",
        "zoo/weights",
        "saving/checkpoint",
        "saving/loading",
        "saving/formats",
        "saving/inspection",
        "saving/refusals",
        "saving/record",
        "saving/exported",
        "files/pt",
        "files/safetensors_file",
    )
    for name in names:
        path = Path(home) / f"{name}.py"
        whole = _lines(compile(path.read_text(), str(path), "exec"))
        print(f"{name}: {len(lines.get(str(path), set()) & whole)} of {len(whole)} lines of functions")


def _lines(code: Any, inside: bool = False) -> set[int]:
    own = {line for _, _, line in code.co_lines() if line and line != code.co_firstlineno} if inside else set()
    is_function = bool(code.co_flags & 2)
    return own.union(
        *(_lines(c, bool(c.co_flags & 2) or is_function) for c in code.co_consts if hasattr(c, "co_lines"))
    )


def main() -> int:
    from .targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--runs", type=int, default=2**62)
    parser.add_argument("--seconds", type=float, default=1e12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="a repeatable random walk, without atheris")
    parser.add_argument("--corpus", type=Path, help="where atheris keeps the inputs that reached something new")
    parser.add_argument("--coverage", action="store_true", help="run --corpus once and print the lines that it reaches")
    parser.add_argument("--findings", type=Path, default=Path(tempfile.gettempdir()) / "attn-inject-findings")
    parser.add_argument("--report", type=Path, help="where to write the summary, and again every 100 inputs")
    args = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    for name in ("findings", "report", "corpus"):
        if getattr(args, name) is not None:
            setattr(args, name, getattr(args, name).resolve())
    with tempfile.TemporaryDirectory() as folder:
        run = Run(TARGETS[args.target], Path(folder).resolve(), args.findings, time.monotonic() + args.seconds)
        if args.coverage:
            _covered(run, [path.read_bytes() for path in sorted(args.corpus.iterdir())])
        elif atheris is None or args.plain:
            _plain(run, args.runs, args.seed)
        summary = run.summary() if atheris is None or args.plain or args.coverage else _forked(run, args)
        if args.report is not None:
            args.report.write_text(json.dumps(summary, indent=1) + "\n")
        print(json.dumps(summary, indent=1), flush=True)
        os.chdir("/")
    return 1 if summary["found"] else 0


if __name__ == "__main__":
    if atheris is not None and "--plain" not in sys.argv:
        with atheris.instrument_imports(include=["attn_inject"]):
            import attn_inject.planning.recipe
            import attn_inject.saving.checkpoint
            import attn_inject.saving.loading
            import attn_inject.zoo.weights  # noqa: F401
    sys.exit(main())
