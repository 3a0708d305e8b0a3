"""`python -m tests.random_networks --seeds 5000`: checks that many networks, and names the seeds that fail."""

from __future__ import annotations

import argparse
import sys
import time
import warnings

from .checking import check


def main() -> int:
    parser = argparse.ArgumentParser(description="Random networks whose sites are known by construction.")
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    start, sites, failed = time.perf_counter(), 0, 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            sites += check(seed)
        # Whatever goes wrong in one network is told, and the next one is tried.
        except Exception as error:
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    print(f"{arguments.seeds} networks, {sites} sites, {failed} failures, {time.perf_counter() - start:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
