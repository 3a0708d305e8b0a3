"""What a node does to a feature map, judged by the operation alone.

The residual principle needs four facts about every node: does it carry the map on, is it nonlinear, does it hold a
convolution, does it change the resolution upwards. Modules are judged by the `torch.nn` file their base class comes
from and by what they contain, functions by the operation's name; a name that is not known counts as nonlinear, so that
an unknown operation can hide a site but never invent a shortcut.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from ..tracing.nodes import value_of
from ..tracing.spelled import plain_name
from .vocabulary import (
    ADDITIONS,
    AFFINE,
    AFFINE_HOMES,
    AS_ANOTHER,
    CONCATENATIONS,
    CONVOLUTIONS,
    DIVISIONS,
    DROPS,
    MULTIPLICATIONS,
    REARRANGEMENTS,
    SCALED_ADDITIONS,
    SHAPE_ONLY,
    SLICES,
    SUBTRACTIONS,
    UPSAMPLINGS,
    WIDENINGS,
)


def name_of(node: fx.Node) -> str:
    """The plain name of the operation: `add` for `operator.add`, `torch.add` and `Tensor.add` alike."""
    if node.op in ("call_method", "get_attr", "placeholder", "output"):
        return str(node.target)
    if node.op == "call_function":
        # The numbers themselves, and not a fact about them.
        if node.target is getattr and node.args[1:2] == ("data",):
            return "detach"
        return plain_name(node.target)
    return "module"


def numbers_read(node: fx.Node) -> list[fx.Node]:
    """The inputs of a node whose numbers it may read: not what it only takes a type or a shape from."""
    if node.op in ("call_function", "call_method") and name_of(node) in AS_ANOTHER:
        return [arg for arg in node.args[:1] if isinstance(arg, fx.Node)]
    return node.all_input_nodes


def is_map(value: Any) -> bool:
    """Whether a value can be a feature map or a sequence: floating, with an axis beside batch and channels."""
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() >= 3


class Operations:
    """Answers about the nodes of one graph; `root` resolves module targets."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.root = root
        self._traits: dict[str, tuple[bool, bool, bool]] = {}
        self.carries: dict[fx.Node, bool] = {}
        for node in graph.nodes:
            self.carries[node] = self._carries(node)

    def _carries(self, node: fx.Node) -> bool:
        """Whether the node's value depends on the input's numbers (not only on its shape)."""
        if node.op == "placeholder":
            return True
        if node.op == "get_attr" or (node.op in ("call_function", "call_method") and name_of(node) in SHAPE_ONLY):
            return False
        if not _holds_tensor(value_of(node)):
            return node.op == "output"
        return any(self.carries[source] for source in numbers_read(node))

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of a node that carry the network's data."""
        return [source for source in numbers_read(node) if self.carries[source]]

    def module(self, node: fx.Node) -> nn.Module:
        return self.root.get_submodule(str(node.target))

    def _module_traits(self, node: fx.Node) -> tuple[bool, bool, bool]:
        """(nonlinear, holds a convolution, upsamples) of a leaf module."""
        path = str(node.target)
        if path not in self._traits:
            module = self.module(node)
            parts = list(module.modules())
            self._traits[path] = (
                not _is_affine(module),
                any(isinstance(part, nn.modules.conv._ConvNd) for part in parts),
                any(
                    isinstance(part, (nn.Upsample, nn.PixelShuffle, nn.modules.conv._ConvTransposeNd)) for part in parts
                ),
            )
        return self._traits[path]

    def is_nonlinear(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return self._module_traits(node)[0]
        if node.op == "placeholder" or node.op == "output":
            return False
        name = name_of(node)
        if name in SCALED_ADDITIONS:
            return not self.adds_maps(node)
        if name in MULTIPLICATIONS | DIVISIONS:
            return len(self.sources(node)) > 1 or not _first_source_scaled(node, self)
        return name not in AFFINE

    def holds_convolution(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return self._module_traits(node)[1]
        return node.op == "call_function" and name_of(node) in CONVOLUTIONS

    def is_weighted_by_own_code(self, node: fx.Node) -> bool:
        """A module kept whole that is none of torch's own and holds weights itself: matrices or kernels."""
        if node.op != "call_module":
            return False
        module = self.module(node)
        return not type(module).__module__.startswith("torch.nn.") and any(
            weight.dim() > 1 for weight in module.parameters(recurse=False)
        )

    def runs_modules(self, node: fx.Node) -> bool:
        """Whether a function that was kept whole is handed modules with convolutions, which it runs by itself."""
        handed = [arg for arg in node.all_input_nodes if arg.op == "get_attr"] if node.op == "call_function" else []
        return any(self._convolves(str(arg.target)) for arg in handed)

    def _convolves(self, path: str) -> bool:
        try:
            module = self.root.get_submodule(path)
        except AttributeError:  # A tensor.
            return False
        return any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())

    def upsamples(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return self._module_traits(node)[2]
        return name_of(node) in UPSAMPLINGS

    def adds_maps(self, node: fx.Node) -> bool:
        """Whether the node adds two values, however it is spelled: `addends` says which."""
        return self.is_addition(node) or self.maps_added_at_once(node) == 2

    def maps_added_at_once(self, node: fx.Node) -> int:
        """How many maps the node adds that are in a `stack`, or scaled as they are added."""
        return len(self._summed(node)) if isinstance(value_of(node), torch.Tensor) else 0

    def addends(self, node: fx.Node) -> tuple[Any, Any]:
        """The two operands of a node that `adds_maps`."""
        if summed := self._summed(node):
            return summed[0], summed[1]
        operands = list(node.args)
        operands += [node.kwargs[key] for key in ("input", "other") if key in node.kwargs]
        return operands[0], operands[1]

    def _summed(self, node: fx.Node) -> list[Any]:
        """What the sum or mean over the axis of a `stack` adds, or `addcmul` or `lerp` with one map for a factor."""
        name = name_of(node)
        if name in SCALED_ADDITIONS:
            operands = [
                *node.args,
                *(node.kwargs[key] for key in ("input", "tensor1", "tensor2", "end", "weight") if key in node.kwargs),
            ]
            maps = [factor for factor in operands[1:] if isinstance(factor, fx.Node) and self.carries[factor]]
            return [operands[0], *maps] if len(maps) == 1 else []
        sources = self.sources(node) if name in ("sum", "mean") else []
        if len(sources) != 1 or name_of(sources[0]) != "stack":
            return []
        rank = value_of(sources[0]).dim()
        over = {axis % rank for axis in axes_of(node)}
        return parts_of(sources[0]) if over == {axis_of(sources[0])} and value_of(node).dim() < rank else []

    def is_addition(self, node: fx.Node) -> bool:
        """`a + b` in its usual spellings, where either may be a number."""
        return (
            node.op in ("call_function", "call_method")
            and name_of(node) in ADDITIONS
            and isinstance(value_of(node), torch.Tensor)
        )

    def subtracts(self, node: fx.Node) -> bool:
        """`a - b` in its usual spellings, where both carry the input's data."""
        return (
            self.carries[node]
            and node.op in ("call_function", "call_method")
            and name_of(node) in SUBTRACTIONS
            and len(self.sources(node)) == 2
        )

    def is_multiplication(self, node: fx.Node) -> bool:
        return node.op in ("call_function", "call_method") and name_of(node) in MULTIPLICATIONS

    def is_concatenation(self, node: fx.Node) -> bool:
        return node.op == "call_function" and name_of(node) in CONCATENATIONS

    def is_slice(self, node: fx.Node) -> bool:
        """Takes a part of the channels (or of a tuple of parts)."""
        return node.op in ("call_function", "call_method") and name_of(node) in SLICES

    def is_gain(self, node: fx.Node) -> bool:
        """Scales the map without looking at it: layer scale, a scalar, dropout, drop path, identity."""
        if node.op == "call_module":
            module = self.module(node)
            return isinstance(module, (nn.modules.dropout._DropoutNd, nn.Identity))
        name = name_of(node)
        # The builtin `sum` starts with 0 + x.
        if name in DROPS or (self.is_addition(node) and 0 in [a for a in node.args if isinstance(a, int)]):
            return True
        return name in MULTIPLICATIONS | DIVISIONS and not self.is_nonlinear(node)

    def is_rearrangement(self, node: fx.Node) -> bool:
        return node.op in ("call_function", "call_method") and name_of(node) in REARRANGEMENTS

    def leaves_type_of_weights(self, node: fx.Node) -> bool:
        """Whether the node casts a map of the weights' type to another, in which no new weights could work."""
        if name_of(node) in WIDENINGS:
            return True
        source = self.sources(node)[0]
        weights = next((p.dtype for p in self.root.parameters() if p.is_floating_point()), None)
        return bool(value_of(source).dtype == weights != value_of(node).dtype)

    def spatial_kernel(self, node: fx.Node) -> int:
        """Largest kernel extent of a convolution node; 0 if the node is none."""
        if node.op == "call_module":
            module = self.module(node)
            if isinstance(module, nn.modules.conv._ConvNd):
                return max(int(k) for k in module.kernel_size)
            return 0
        if self.holds_convolution(node):
            weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
            value = value_of(weight) if isinstance(weight, fx.Node) else None
            return max(value.shape[2:], default=0) if isinstance(value, torch.Tensor) else 0
        return 0


def _is_affine(module: nn.Module) -> bool:
    if isinstance(module, nn.Identity):
        return True
    if not any(base.__module__ in AFFINE_HOMES for base in type(module).__mro__):
        return False
    # A norm that carries an activation (timm's BatchNormAct2d) is what its activation is.
    return all(_is_affine(child) or _is_quantization_stub(child) for child in module.children())


def _is_quantization_stub(module: nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.ao.quantization", "torch.nn.utils.parametrize"))


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_tensor(item) for item in value)
    if isinstance(value, dict):
        return any(_holds_tensor(item) for item in value.values())
    return isinstance(value, torch.Tensor)


def _first_source_scaled(node: fx.Node, operations: Operations) -> bool:
    """`x * g` and `x / g` scale x; `g / x` does not, and `x * x` squares it."""
    sources = operations.sources(node)
    if not sources:
        return True
    tensors = [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]
    if tensors.count(sources[0]) > 1:
        return False
    return name_of(node) in MULTIPLICATIONS or bool(node.args and node.args[0] is sources[0])


def parts_of(node: fx.Node) -> list[fx.Node]:
    """The tensors that a concatenation joins."""
    sequence = node.args[0] if node.args else node.kwargs.get("tensors")
    return [part for part in sequence if isinstance(part, fx.Node)] if isinstance(sequence, (tuple, list)) else []


def axis_of(node: fx.Node) -> int:
    """The axis along which a concatenation or a stack joins, counted from the front."""
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
    value = value_of(node)
    return int(axis) % value.dim() if isinstance(axis, int) else 0


def axes_of(node: fx.Node) -> tuple[int, ...]:
    """The axes that a reduction names, as they are written; none for a reduction of everything."""
    axes: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", ()))
    return (axes,) if isinstance(axes, int) else tuple(axes or ())
