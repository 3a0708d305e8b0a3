"""Buffers that code gives a new value (`self.mean = 0.9 * self.mean + 0.1 * x.mean()`): a graph writes it into them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from .nodes import has_value, value_of


@contextmanager
def proxies_in_buffers() -> Iterator[None]:
    """Let code put a proxy into the place of a buffer in here, which older torch refuses."""
    general: Any = nn.Module.__setattr__

    def assign(module: nn.Module, name: str, value: Any) -> None:
        buffers = vars(module).get("_buffers", {})
        if issubclass(type(value), fx.Proxy) and name in buffers:
            buffers[name] = value
        else:
            general(module, name, value)

    nn.Module.__setattr__ = assign  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.__setattr__ = general  # type: ignore[method-assign]


def put_back(skeleton: nn.Module, before: Mapping[str, torch.Tensor], graph: fx.Graph, tracer: fx.Tracer) -> bool:
    """Let a graph, whose code has just run, write what it gave to the buffers of `skeleton` into them, at its end.

    `before` are the buffers as they were. Who has read one has a copy: its backward pass wants the old value, which the
    code left as it was. Whether nothing is left behind: what is of another size or type is, and then the graph is not
    what the code does.
    """
    all_put = True
    known = {str(node.target): node for node in graph.nodes if node.op == "get_attr"}
    with graph.inserting_before(next(iter(reversed(graph.nodes)))):
        for path, module in skeleton.named_modules():
            for name, given in list(module._buffers.items()):
                target = f"{path}.{name}" if path else name
                if not issubclass(type(given), fx.Proxy):
                    continue
                if target not in before or not _fits(before[target], given.node):
                    all_put = False
                    continue
                module._buffers[name] = before[target]
                value = given
                if (first := known.get(target)) is not None:
                    with graph.inserting_after(first):
                        copied = tracer.create_proxy("call_method", "clone", (tracer.proxy(first),), {})
                    read = copied.node
                    first.replace_all_uses_with(read, delete_user_cb=lambda user, read=read: user is not read)
                    value = copied if given.node is first else given
                held = tracer.create_proxy("get_attr", target, (), {}) if first is None else tracer.proxy(first)
                tracer.create_proxy("call_method", "copy_", (held, value), {})
    return all_put


def _fits(before: torch.Tensor, given: fx.Node) -> bool:
    other = value_of(given) if has_value(given) else None
    # What the model's code asks of a buffer here would be of the graph.
    with torch._C.DisableTorchFunction():
        return isinstance(other, torch.Tensor) and (before.shape, before.dtype) == (other.shape, other.dtype)
