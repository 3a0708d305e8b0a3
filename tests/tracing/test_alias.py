"""The same model again: other modules, the same storage."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from attn_inject import inject
from attn_inject.tracing.alias import alias

from .. import toys


def _model() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    return model


def test_parameters_are_new_objects_over_the_same_storage() -> None:
    model = _model()
    twin = alias(model)
    for (name, ours), (other, theirs) in zip(twin.named_parameters(), model.named_parameters(), strict=True):
        assert name == other
        assert ours is not theirs
        assert type(ours) is nn.Parameter
        assert ours.data_ptr() == theirs.data_ptr()
        assert ours.requires_grad is theirs.requires_grad
    assert all(a is b for a, b in zip(twin.buffers(), model.buffers(), strict=True))
    assert all(a is not b and type(a) is type(b) for a, b in zip(twin.modules(), model.modules(), strict=True))


def test_ties_and_attributes_of_parameters_are_kept() -> None:
    model: Any = _model()
    model[0].weight.note = "tied"
    twin: Any = alias(model)
    assert twin[2].weight is twin[0].weight
    assert twin[0].weight.note == "tied"
    twin[0].weight.note = "changed"
    assert model[0].weight.note == "tied"


def test_a_parameter_of_another_class_is_shared() -> None:
    class Own(nn.Parameter):
        pass

    model = nn.Linear(4, 4)
    model.weight = Own(torch.zeros(4, 4))
    assert alias(model).weight is model.weight


def test_modes_flags_and_children_are_the_aliases_own() -> None:
    model: Any = _model()
    twin: Any = alias(model)
    twin.eval().requires_grad_(False)
    twin[1] = nn.Identity()
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True, True]
    assert isinstance(model[1], nn.BatchNorm1d)


def test_tensors_with_a_history_are_shared() -> None:
    model: Any = _model()
    model.kept, model.plain = model[0].weight * 2, torch.ones(2)
    twin: Any = alias(model)
    assert twin.kept is model.kept
    # As deep supervision keeps the heads of the last pass.
    model.heads = [model.kept, {"last": model.kept + 1}]
    assert alias(model).heads[1]["last"] is model.heads[1]["last"]
    assert twin.plain is not model.plain
    assert torch.equal(twin.plain, model.plain)


def test_a_patched_models_graphs_are_shared() -> None:
    patched = inject(toys.Toy(toys.Block(toys._iadd)), "eca", input_size=(3, 8, 8))
    twin: Any = alias(patched)
    assert twin is not patched
    for mode in ("train", "eval"):
        assert twin.graph_of(mode) is patched.graph_of(mode)
        assert twin.pristine_graph_of(mode) is patched.pristine_graph_of(mode)


def test_what_modules_share_beside_tensors_the_alias_shares_too() -> None:
    model: Any = _model()
    model[0].notes = model[1].notes = []
    model[0].sizes = [3, 5]
    model.modules_by_name = {"first": model[0]}
    twin: Any = alias(model)
    assert twin[0].notes is twin[1].notes
    assert twin[0].notes is not model[0].notes
    twin[0].sizes.append(7)
    assert model[0].sizes == [3, 5]
    assert twin.modules_by_name["first"] is twin[0]


def test_a_class_that_copies_in_its_own_way_does_so() -> None:
    class Counting(nn.ReLU):
        copies = 0

        def __deepcopy__(self, memo: dict[int, Any]) -> Counting:
            Counting.copies += 1
            return Counting()

    class Restoring(nn.ReLU):
        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            self.restored = True

    model: Any = nn.Sequential(nn.Linear(2, 2), Counting(), Restoring())
    twin: Any = alias(model)
    assert Counting.copies == 1
    assert twin[2].restored
    assert twin[0].weight.data_ptr() == model[0].weight.data_ptr()


def test_hooks_come_along_and_are_the_aliases_own() -> None:
    model: Any = _model()
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("ran"))
    twin: Any = alias(model)
    twin(torch.zeros(2, 4))
    assert seen == ["ran"]
    twin[0]._forward_hooks.clear()
    model(torch.zeros(2, 4))
    assert seen == ["ran", "ran"]
