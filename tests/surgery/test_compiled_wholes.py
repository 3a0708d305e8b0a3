"""Patched models that are compiled, in place or by a wrapper: copies, and what verbs make, do not run the old code."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from attn_inject import PlanError, attention_parameters, inject, optimize, optimize_training, remove
from attn_inject.zoo.cifar import models

from ..toys import gates_run

X = torch.randn(2, 3, 32, 32)


def _patched(scope: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    return inject(models()["resnet20"](), "se", scope=scope).eval()


def _compiled() -> nn.Module:
    patched = _patched()
    patched.compile(backend="eager")
    patched(X)
    return patched


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.slow
def test_a_copy_runs_its_own_weights(copied: Callable[[nn.Module], nn.Module]) -> None:
    other = copied(_compiled())
    assert torch.equal(other(X), _patched()(X))
    other.conv1 = nn.Conv2d(3, 16, 3, padding=1)
    nn.init.zeros_(other.conv1.weight)
    assert not torch.equal(other(X), _patched()(X))


def test_an_average_is_its_own() -> None:
    patched = _compiled()
    average = AveragedModel(patched).eval()
    with torch.no_grad():
        for parameter in patched.parameters():
            parameter.mul_(2)
    assert torch.equal(average(X), _patched()(X))


@pytest.mark.slow
def test_verbs_run_what_they_made() -> None:
    patched = _compiled()
    torch.testing.assert_close(optimize(patched)(X), _patched()(X))
    assert torch.equal(remove(patched).eval()(X), remove(_patched()).eval()(X))
    assert not hasattr(remove(patched).layer1[0], "se")
    fast = optimize_training(patched).train()
    fast(X).sum().backward()
    assert "GateAndAdd" in str(_functions(fast(X)))


def _functions(out: torch.Tensor) -> set[str]:
    """The names of all functions that the tensor was made by."""
    waiting, names, seen = [out.grad_fn], set(), set()
    while waiting:
        function = waiting.pop()
        if function is not None and function not in seen:
            seen.add(function)
            names.add(function.name())
            waiting += [each for each, _ in function.next_functions]
    return names


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.slow
def test_the_gates_of_a_copy_run(copied: Callable[[nn.Module], nn.Module]) -> None:
    other = copied(_compiled())
    for mode in (True, False):
        assert gates_run(other.train(mode), X) == 9


@pytest.mark.parametrize("scope", [None, "layer1"])
@pytest.mark.parametrize("verb", [optimize, optimize_training, remove])
@pytest.mark.slow
def test_what_a_wrapper_would_hide_is_refused(verb: Callable[..., nn.Module], scope: str | None) -> None:
    compiled: Any = torch.compile(_patched(scope), backend="eager")
    with pytest.raises(PlanError, match="pass the module inside"):
        verb(compiled)
    assert len(list(attention_parameters(compiled))) == len(list(attention_parameters(_patched(scope))))
    verb(compiled._orig_mod)
