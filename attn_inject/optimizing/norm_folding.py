"""Eval batch norms folded into the convolutions before them.

    W' = W * gamma / sqrt(var + eps),    b' = beta + (b - mean) * gamma / sqrt(var + eps)

with torch's own `fuse_conv_bn_weights`. Conditions:
 N1. The norm is a `torch.nn` batch norm with running statistics, called once in the graph; or one with layers of its
     own behind it (a norm and an activation in one module), which then stay.
 N2. Its input is a `torch.nn` convolution, called once, whose output nothing else reads.
 N3. Neither has hooks.
 N4. The graph itself neither reads nor writes a tensor of either: a tied weight, one that is merged anew in every run.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..tracing.hook_tables import is_hooked
from ..tracing.nodes import inherit

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(root: nn.Module, graph: fx.Graph) -> int:
    """Fold where N1 to N4 hold; `root` gets new convolutions in their places. Returns how many norms are gone."""
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    held = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    folded = 0
    for node in list(graph.nodes):
        conv_node = _foldable(root, node, calls)
        if conv_node is None or held & {str(conv_node.target), str(node.target)}:
            continue
        conv = root.get_submodule(str(conv_node.target))
        norm = root.get_submodule(str(node.target))
        home, _, child = str(conv_node.target).rpartition(".")
        setattr(root.get_submodule(home), child, _folded(conv, norm))
        last = conv_node
        for name, layer in norm.named_children():
            if type(layer) is not nn.Identity:
                with graph.inserting_before(node):
                    last = graph.call_module(f"{node.target}.{name}", (last,))
                inherit(last, node)
        node.replace_all_uses_with(last)
        graph.erase_node(node)
        folded += 1
    return folded


def _foldable(root: nn.Module, node: fx.Node, calls: dict[str, int]) -> fx.Node | None:
    if node.op != "call_module" or calls[str(node.target)] != 1 or len(node.args) != 1:
        return None
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
        return None
    conv, norm = (root.get_submodule(str(each.target)) for each in (source, node))
    if type(conv) not in _CONVOLUTIONS or calls[str(source.target)] != 1 or is_hooked(conv) or is_hooked(norm):
        return None
    return source if is_eval_norm(norm) else None


def is_eval_norm(norm: nn.Module) -> bool:
    """Whether `norm` is a batch norm with running statistics, followed by its own layers if it has any (N1)."""
    if not isinstance(norm, _NORMS) or norm.running_mean is None:
        return False
    return type(norm) in _NORMS or _is_norm_then_layers(norm)


def is_batch_norm(norm: nn.Module) -> bool:
    """Whether `norm` is a batch norm and nothing else: torch's own, or one with identities behind it."""
    if type(norm) in _NORMS:
        return True
    if any(type(layer) is not nn.Identity for layer in norm.children()):
        return False
    # Tried in eval mode, and on numbers of its own: what is told must not hang on whether the norm has any yet.
    trial = copy.copy(norm)
    own = {
        table: {name: None if held is None else _numbers(held) for name, held in vars(norm)[table].items()}
        for table in ("_parameters", "_buffers")
    }
    vars(trial).update(own, training=False)
    return is_eval_norm(trial)


def _numbers(like: torch.Tensor) -> torch.Tensor:
    made = (
        torch.linspace(0.5, 1.5, like.numel(), device="cpu")
        if like.is_floating_point()
        else torch.zeros(like.shape, device="cpu")
    )
    return made.reshape(like.shape)


def _is_norm_then_layers(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    """Told by trying it: its forward is somebody's code."""
    mean = norm.running_mean
    if mean is None or mean.is_meta:
        return False
    rank = next(rank for rank, kind in zip((1, 2, 3), _NORMS, strict=True) if isinstance(norm, kind))
    channels = mean.numel()
    x = torch.linspace(-2, 2, 2 * channels, device=mean.device, dtype=mean.dtype)
    x = x.reshape(1, channels, *(1,) * (rank - 1), 2)
    with torch.no_grad():
        expected = nn.functional.batch_norm(x, mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        for layer in norm.children():
            expected = layer(expected)
        return torch.equal(norm(x.clone()), expected)


def norm_of(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """(scale, shift) of an eval norm in float64: norm(z) = scale * z + shift, before its own layers."""
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


def _folded(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """A convolution with the norm in its weights; the given ones stay as they are."""
    assert isinstance(conv, _CONVOLUTIONS)
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    for parameter in (weight, bias):
        parameter.requires_grad = False
    folded = conv.__new__(type(conv))
    folded.__dict__ = {**vars(conv), "_parameters": {"weight": weight, "bias": bias}}
    return folded.eval()
