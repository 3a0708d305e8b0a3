"""What must hold for a grown network."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from attn_inject import find_sites, inject
from attn_inject.types import Init

from .growing import Grown, grow

# One with two layers, and one that looks at neighbours. No ReLU inside, which could be shut for all of a batch.
ATTENTIONS: tuple[tuple[str, dict[str, object]], ...] = (("se", {"reduction": 2, "act": "silu"}), ("eca", {}))
# Reading a network is most of the time, so only every so many get a second injection, with the papers' own start.
PAPER_START = 4


def check(seed: int) -> int:
    """Assert it all, and say how many sites there are."""
    grown = grow(seed)
    if not grown.blocks:
        sites = find_sites(grown.model, input_size=grown.size)
        assert len(sites) == 0, f"too many: {[site.block for site in sites]}"
        return 0
    patched = _injected(grown, seed, "identity")
    found = sorted(insertion.site.block for insertion in patched.injection.plan.insertions)
    assert found == grown.blocks, f"too many: {_less(found, grown.blocks)}; missing: {_less(grown.blocks, found)}"
    x = torch.randn(2, *grown.size, generator=torch.Generator().manual_seed(seed))
    # Where there is AVX2 but no AVX-512, oneDNN's backward pass of strided 1x1 convolutions over channels-last maps of
    # fewer than eight channels writes past its memory (torch 2.14, one thread): the process aborts, in torch alone too.
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=False):
        return _checked(grown, patched, seed, x)


def _checked(grown: Grown, patched: nn.Module, seed: int, x: Tensor) -> int:
    _check_same(grown.model, patched, x)
    _open_rectifiers(grown.model)
    if seed % PAPER_START:
        _wake(patched)
    else:
        patched = _injected(grown, seed, "paper")
    _check_acting(grown.model, patched, x)
    return len(grown.blocks)


def _injected(grown: Grown, seed: int, init: Init) -> nn.Module:
    attention, options = ATTENTIONS[seed // PAPER_START % len(ATTENTIONS)]
    return inject(grown.model, attention, init=init, input_size=grown.size, **options)


def _less(blocks: list[str], others: list[str]) -> list[str]:
    return sorted((Counter(blocks) - Counter(others)).elements())


def _new_parameters(patched: nn.Module) -> dict[str, nn.Parameter]:
    new = tuple(f"{insertion.module}." for insertion in patched.injection.plan.insertions)
    return {name: parameter for name, parameter in patched.named_parameters() if name.startswith(new)}


def _open_rectifiers(model: nn.Module) -> None:
    """In a narrow network a batch can be below all thresholds of a layer, and nothing before it has a gradient."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("bias"):
                tensor.add_(1)


def _wake(patched: nn.Module) -> None:
    """Gates that have left their identity start."""
    with torch.no_grad():
        for parameter in _new_parameters(patched).values():
            parameter.normal_()


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    return [leaf for leaf in tree_leaves(model(x.clone())) if isinstance(leaf, Tensor)]


def _equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _check_same(model: nn.Module, patched: nn.Module, x: Tensor) -> None:
    for mode in (False, True):
        with torch.no_grad():
            theirs, ours = outputs(model.train(mode), x), outputs(patched.train(mode), x)
        assert all(out.isfinite().all() for out in theirs)
        assert _equal(ours, theirs), f"not the identity in {'train' if mode else 'eval'} mode"


class Reached:
    """Whether what one attention hands over gets a gradient: behind a rectifier that is shut, it is all zeros."""

    def __init__(self) -> None:
        self.gradients: list[bool] = []

    @property
    def only_zeros(self) -> bool:
        return bool(self.gradients) and not any(self.gradients)

    def watch(self, _module: nn.Module, _inputs: object, out: Tensor) -> None:
        out.register_hook(lambda gradient: self.gradients.append(bool(gradient.any())))


def _check_acting(model: nn.Module, patched: nn.Module, x: Tensor) -> None:
    before = outputs(model.eval(), x)
    reached = {insertion.module: Reached() for insertion in patched.injection.plan.insertions}
    handles = [patched.get_submodule(path).register_forward_hook(seen.watch) for path, seen in reached.items()]
    after = outputs(patched.eval(), x)
    for handle in handles:
        handle.remove()
    assert not _equal(before, after), "the attention changes nothing"
    torch.stack([out.square().sum() for out in after]).sum().backward()
    for name, parameter in _new_parameters(patched).items():
        assert parameter.grad is not None, f"{name} has no gradient"
        (seen,) = [seen for path, seen in reached.items() if name.startswith(f"{path}.")]
        assert parameter.grad.any() or seen.only_zeros, f"the gradient of {name} is zero"
    assert not all(seen.only_zeros for seen in reached.values()), "no attention gets a gradient"
