"""Files from one process, or one torch, to another: `python -m tests.saving.exchange write|read FOLDER [NETWORK ...]`.

`write` saves ten networks (or those named) in three precisions, and beside each what it holds and computes; `read`
compares. Tensors are
equal to the bit. Outputs are too within one torch; between two, whose kernels sum in other orders, they are close.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

# Relative to the largest output: (float32, float16, bfloat16).
CLOSE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def write(folder: Path, names: Sequence[str] = ()) -> None:
    from attn_inject import save

    from .nets import DTYPES, NETWORKS, patched

    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    for name in names or NETWORKS:
        attention, size = NETWORKS[name]
        injected = patched(name, attention, input_size=size)
        for dtype in DTYPES:
            model = copy.deepcopy(injected).to(dtype)
            x = torch.randn(2, *size).to(dtype)
            stem = f"{name.replace(':', '-')}-{str(dtype).removeprefix('torch.')}"
            with torch.no_grad():
                torch.save(
                    (torch.__version__.partition("+")[0], x, model(x), model.state_dict()), folder / f"{stem}.io"
                )
            for suffix in (".pt", ".safetensors"):
                save(model, folder / f"{stem}{suffix}")


def read(folder: Path) -> int:
    """The number of files read."""
    paths = sorted(path for path in folder.iterdir() if path.suffix != ".io")
    for path in paths:
        if path.suffix == ".pt":
            _, _, _, state = torch.load(path.with_suffix(".io"), weights_only=True)
            _assert_equal(torch.load(path, weights_only=True)["state_dict"], state)
    from attn_inject import load

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in `write`: sums are made in as many parts as there are threads
    try:
        for path in paths:
            version, x, expected, state = torch.load(path.with_suffix(".io"), weights_only=True)
            model = load(path)
            _assert_equal(model.state_dict(), state)
            with torch.no_grad():
                output = model(x)
            if version == torch.__version__.partition("+")[0]:
                assert torch.equal(output, expected), path.name
            apart = float((output.float() - expected.float()).abs().max())
            assert apart <= CLOSE[x.dtype] * max(float(expected.float().abs().max()), 1e-3), (path.name, apart)
    finally:
        torch.set_num_threads(threads)
    return len(paths)


def _assert_equal(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(given) == list(expected)
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.dtype, name
        assert torch.equal(given[name], tensor), name


if __name__ == "__main__":
    where = Path(sys.argv[2])
    if sys.argv[1] == "write":
        write(where, sys.argv[3:])
    else:
        print(f"torch {torch.__version__} reads {read(where)} files of {where.name}")
