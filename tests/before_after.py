"""One way to check a surgery: structure and numbers, before against after, with tolerances that are stated here.

    check_surgery(model, patched, blocks={...}, inputs=(x,))

asserts that the new modules stand where they should, that every original tensor kept its name, shape, value and memory,
that nothing else is new, and that each gate ran. With `same_output`, the outputs must be equal to the bit in both
modes, the gradients of every original parameter equal within `GRADIENT`, and the norms' statistics equal after a train
step.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

# Relative to the largest gradient of the tensor: sums in another order, in float32.
GRADIENT = 1e-4


def tensors(outputs: Any) -> list[torch.Tensor]:
    """The tensors of any structure of outputs."""
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def every_gate_runs(patched: Any, *inputs: Any) -> list[torch.Tensor]:
    """Assert that each gate runs in eval mode, as often as its block; the outputs."""
    runs: Counter[str] = Counter()
    insertions = patched.injection.plan.insertions
    assert insertions
    handles = [
        patched.get_submodule(i.module).register_forward_hook(lambda *_, path=i.module: runs.update([path]))
        for i in insertions
    ]
    with torch.no_grad():
        outputs = tensors(patched.eval()(*inputs))
    for handle in handles:
        handle.remove()
    assert runs == Counter({i.module: i.site.calls for i in insertions})
    return outputs


def check_surgery(
    model: nn.Module,
    patched: nn.Module,
    *,
    blocks: Iterable[str] | None = None,
    inputs: tuple[torch.Tensor, ...] = (),
    same_output: bool = False,
) -> None:
    """Assert everything the module's docstring says."""
    insertions = patched.injection.plan.insertions
    new = tuple(f"{insertion.module}." for insertion in insertions)
    if blocks is not None:
        assert [insertion.site.block for insertion in insertions] == list(blocks)
    before, after = model.state_dict(keep_vars=True), patched.state_dict(keep_vars=True)
    assert [key for key in after if not key.startswith(new)] == list(before)
    for key, tensor in before.items():
        assert after[key].data_ptr() == tensor.data_ptr(), f"{key} was copied"
        assert torch.equal(after[key], tensor), key
    assert all(not key.startswith(new) for key in before)
    with torch.no_grad():
        theirs, ours = tensors(model.eval()(*_copies(inputs))), every_gate_runs(patched, *_copies(inputs))
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    if same_output:
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)), "eval outputs differ"
        _check_training(model, patched, inputs)


def _check_training(model: nn.Module, patched: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Three passes of training on copies, seeded alike; nothing is updated, so the last one's gradients tell all."""
    ours, theirs = copy.deepcopy(patched).train(), copy.deepcopy(model).train()
    for step in range(3):
        outputs = []
        for net in (ours, theirs):
            torch.manual_seed(step)
            with torch.set_grad_enabled(step == 2):
                out = tensors(net(*_copies(inputs)))
            outputs.append([o.detach() for o in out])
            if step == 2:
                sum((o.float() ** 2).mean() for o in out if o.is_floating_point()).backward()
        assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True)), f"train outputs differ in step {step}"
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        if parameter.grad is None:
            assert gradients[name] is None, name
            continue
        scale = parameter.grad.abs().max().clamp(min=1e-12)
        assert (gradients[name] - parameter.grad).abs().max() <= GRADIENT * scale, f"gradient of {name}"
    buffers = dict(ours.named_buffers())
    for name, buffer in theirs.named_buffers():
        assert torch.equal(buffers[name], buffer), f"statistics {name}"


def _copies(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(value.clone() for value in inputs)
