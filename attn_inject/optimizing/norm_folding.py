"""Eval batch norms folded into the convolutions before them.

    W' = W * gamma / sqrt(var + eps),    b' = beta + (b - mean) * gamma / sqrt(var + eps)

with torch's own `fuse_conv_bn_weights`. Conditions:
 N1. The norm is exactly a `torch.nn` batch norm with running statistics, called once in the graph.
 N2. Its input is a `torch.nn` convolution, called once, whose output nothing else reads.
"""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norms(root: nn.Module, graph: fx.Graph) -> int:
    """Fold where N1 and N2 hold; `root` gets new convolutions in their places. Returns how many norms are gone."""
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    folded = 0
    for node in list(graph.nodes):
        conv_node = _foldable(root, node, calls)
        if conv_node is None:
            continue
        conv = root.get_submodule(str(conv_node.target))
        norm = root.get_submodule(str(node.target))
        home, _, child = str(conv_node.target).rpartition(".")
        setattr(root.get_submodule(home), child, _folded(conv, norm))
        node.replace_all_uses_with(conv_node)
        graph.erase_node(node)
        folded += 1
    return folded


def _foldable(root: nn.Module, node: fx.Node, calls: dict[str, int]) -> fx.Node | None:
    if node.op != "call_module" or calls[str(node.target)] != 1 or len(node.args) != 1:
        return None
    norm = root.get_submodule(str(node.target))
    source = node.args[0]
    if type(norm) not in _NORMS or not isinstance(source, fx.Node) or source.op != "call_module":
        return None
    if getattr(norm, "running_mean", None) is None or len(source.users) != 1 or calls[str(source.target)] != 1:
        return None
    return source if type(root.get_submodule(str(source.target))) in _CONVOLUTIONS else None


def _folded(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """A convolution with the norm in its weights; the given ones stay as they are."""
    assert isinstance(conv, _CONVOLUTIONS)
    assert isinstance(norm, _NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    twin = conv.__new__(type(conv))
    twin.__dict__ = {
        **vars(conv),
        "_parameters": {"weight": weight.requires_grad_(False), "bias": bias.requires_grad_(False)},
    }
    return twin.eval()
