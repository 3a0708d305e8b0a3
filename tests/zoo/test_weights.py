"""`--checkpoint`: which files give a model its weights, what is said about it, and what is refused."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attn_inject import inject, save
from attn_inject.errors import SourceError
from attn_inject.zoo.weights import load_weights

State = dict[str, torch.Tensor]


class Net(nn.Module):
    """Two layers and a norm; `inner` is what the second half is called."""

    def __init__(self, inner: str = "tail", seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.add_module(inner, nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)))
        nn.init.normal_(self.get_submodule(inner)[0].running_mean)


@pytest.fixture
def state() -> State:
    return Net(seed=1).state_dict()


def _holds(model: nn.Module, state: State) -> bool:
    own = model.state_dict()
    return list(own) == list(state) and all(torch.equal(own[name], state[name]) for name in own)


def _prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PTH", ".safetensors"])
def test_plain_files(state: State, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = Net()
    assert load_weights(model, path) == f"9 of 9 tensors from w{suffix}"
    assert _holds(model, state)


WRAPPED: dict[str, tuple[Callable[[State], Any], str | None]] = {
    "ordered": (OrderedDict, ""),
    "state_dict": (lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {}}}, " (its 'state_dict')"),
    "model": (lambda s: {"model": s}, " (its 'model')"),
    "model_ema": (lambda s: {"model": _other(s), "model_ema": s}, " (its 'model_ema')"),
    "state_dict_ema": (lambda s: {"state_dict": _other(s), "state_dict_ema": s}, " (its 'state_dict_ema')"),
    "nested": (lambda s: {"model": {"state_dict": s}}, " (its 'model.state_dict')"),
    "module.": (lambda s: _prefixed("module.", s), ", without the prefix 'module.'"),
    "_orig_mod.": (lambda s: _prefixed("_orig_mod.", s), ", without the prefix '_orig_mod.'"),
    "lightning": (
        lambda s: {"state_dict": _prefixed("model.", s)},
        " (its 'state_dict'), without the prefix 'model.'",
    ),
    "compiled in parallel": (
        lambda s: {"model": _prefixed("module._orig_mod.", s)},
        " (its 'model'), without the prefix 'module._orig_mod.'",
    ),
    "a tensor beside the wrapper": (lambda s: {"epoch": torch.tensor(3), "state_dict": s}, " (its 'state_dict')"),
    "words beside the tensors": (lambda s: {**s, "epoch": 3, "arch": "net"}, ""),
    "a compiled half": (lambda s: {k.replace("tail.", "tail._orig_mod."): v for k, v in s.items()}, None),
    "one compiled layer": (lambda s: {k.replace("conv.", "conv._orig_mod."): v for k, v in s.items()}, None),
}


def _other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_and_prefixes(state: State, name: str, tmp_path: Path) -> None:
    wrap, where = WRAPPED[name]
    torch.save(wrap(state), tmp_path / "w.pth")
    model = Net()
    said = load_weights(model, tmp_path / "w.pth")
    assert said == f"9 of 9 tensors from w.pth{', without the prefix _orig_mod.' if where is None else where}".replace(
        "prefix _orig_mod.", "prefix '_orig_mod.'"
    )
    assert _holds(model, state)


@pytest.mark.parametrize("inner", ["model", "module", "net", "state_dict_"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: _prefixed("module.", s)])
def test_a_submodule_that_is_called_like_a_wrapper(inner: str, wrap: Callable[[State], Any], tmp_path: Path) -> None:
    theirs = Net(inner, seed=1).state_dict()
    torch.save(wrap(theirs), tmp_path / "w.pth")
    model = Net(inner)
    load_weights(model, tmp_path / "w.pth")
    assert _holds(model, theirs)


def test_a_model_that_is_one_submodule_called_model(tmp_path: Path) -> None:
    """All its names begin with a prefix, and are right as they are."""
    for given in ("model.", "module.model.", "model.model.", ""):
        theirs, own = nn.ModuleDict({"model": Net(seed=1)}), nn.ModuleDict({"model": Net()})
        torch.save(_prefixed(given, theirs["model"].state_dict()), tmp_path / "w.pth")
        if given:
            load_weights(own, tmp_path / "w.pth")
            assert _holds(own, theirs.state_dict())
        else:
            with pytest.raises(SourceError, match=r"lacks model\.conv\.weight"):
                load_weights(own, tmp_path / "w.pth")


def test_a_prefix_on_some_names_only_is_a_mismatch(state: State, tmp_path: Path) -> None:
    mixed = {("module." if "conv" in name else "") + name: tensor for name, tensor in state.items()}
    torch.save(mixed, tmp_path / "w.pth")
    with pytest.raises(SourceError, match=r"\(7 of 9 tensors match\): it lacks conv\.weight"):
        load_weights(Net(), tmp_path / "w.pth")


def test_counters_that_old_files_lack_and_frozen_norms_have_no_use_for(state: State, tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}
    torch.save(without, tmp_path / "w.pth")
    model = Net()
    model.tail[0].num_batches_tracked.fill_(7)
    assert load_weights(model, tmp_path / "w.pth") == "8 of 9 tensors from w.pth; 1 num_batches_tracked as they were"
    assert int(model.tail[0].num_batches_tracked) == 7
    torch.save(state, tmp_path / "w.pth")
    frozen = Net()
    del frozen.tail[0].num_batches_tracked
    frozen.tail[0].num_batches_tracked = None
    assert load_weights(frozen, tmp_path / "w.pth") == "8 of 8 tensors from w.pth"
    assert torch.equal(frozen.tail[0].running_mean, state["tail.0.running_mean"])


def test_precision_may_differ_and_kind_may_not(state: State, tmp_path: Path) -> None:
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "w.pth")
    model = Net()
    load_weights(model, tmp_path / "w.pth")
    assert model.conv.weight.dtype == torch.float32
    assert torch.equal(model.conv.weight, state["conv.weight"].half().float())
    torch.save({**state, "conv.weight": torch.ones(4, 3, 3, 3, dtype=torch.int64)}, tmp_path / "w.pth")
    with pytest.raises(SourceError, match=r"\(8 of 9 tensors match\): it has other types for conv\.weight"):
        load_weights(model, tmp_path / "w.pth")


class Extra(Net):
    def get_extra_state(self) -> Any:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        raise AssertionError


def test_state_that_is_no_tensor_is_left_to_the_model(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth")
    model = Extra()
    assert load_weights(model, tmp_path / "w.pth") == "9 of 9 tensors from w.pth"
    assert torch.equal(model.conv.weight, state["conv.weight"])


MISFITS: dict[str, tuple[Callable[[State], Any], str]] = {
    "missing": (
        lambda s: {k: v for k, v in s.items() if k != "conv.bias"},
        "(8 of 9 tensors match): it lacks conv.bias",
    ),
    "unexpected": (
        lambda s: {**s, "head.weight": torch.ones(1)},
        "(9 of 9 tensors match): it has unexpected head.weight",
    ),
    "reshaped": (
        lambda s: {**s, "conv.weight": torch.ones(4, 3, 5, 5)},
        "(8 of 9 tensors match): it has other shapes for conv.weight 4x3x5x5 for 4x3x3x3",
    ),
    "another model": (
        lambda s: _prefixed("x.", s),
        "(0 of 9 tensors match): it lacks conv.weight, conv.bias, tail.0.weight",
    ),
    "a line break": (lambda s: {**s, "a\nb": torch.ones(1)}, "it has unexpected 'a\\nb'"),
    "empty": (lambda s: {}, "holds no state dict"),
    "a list": (lambda s: list(s.values()), "holds no state dict"),
    "a tensor": (lambda s: torch.ones(3), "holds no state dict"),
    "only an optimizer": (lambda s: {"optimizer": s, "epoch": 1}, "holds no state dict"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfits_are_one_line_and_leave_the_model_alone(state: State, name: str, tmp_path: Path) -> None:
    spoil, words = MISFITS[name]
    torch.save(spoil(state), tmp_path / "w.pth")
    model = Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SourceError) as caught:
        load_weights(model, tmp_path / "w.pth")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _holds(model, before)


def test_many_wrappers_end(state: State, tmp_path: Path) -> None:
    content: Any = state
    for _ in range(30):
        content = {"model": content}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(SourceError, match="holds no state dict"):
        load_weights(Net(), tmp_path / "w.pth")


class Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_a_pickle_with_code_is_not_read(state: State, tmp_path: Path) -> None:
    for wrapped in (Payload(tmp_path / "canary"), {"state_dict": state, "hook": Payload(tmp_path / "canary")}):
        torch.save(wrapped, tmp_path / "w.pth")
        with pytest.raises(SourceError, match="no tensor needs"):
            load_weights(Net(), tmp_path / "w.pth")
    torch.save(Net(), tmp_path / "w.pth")
    with pytest.raises(SourceError, match="no tensor needs"):
        load_weights(Net(), tmp_path / "w.pth")
    assert not (tmp_path / "canary").exists()


def test_files_that_are_none(state: State, tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("hello")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name, words in (
        ("absent.pth", "there is no such file"),
        ("folder.pth", "it is a folder"),
        ("empty.pth", "is empty"),
        ("text.pth", "is no whole torch file"),
        ("text.safetensors", "there is no such file"),
        ("old.pth", "has the file format of torch before 1.6"),
        (f"{'x' * 300}.pth", "File name too long"),
    ):
        with pytest.raises(SourceError, match=words) as caught:
            load_weights(Net(), tmp_path / name)
        assert "\n" not in str(caught.value)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from attn_inject import load
    from attn_inject.cli.main import run
    from attn_inject.zoo.building import build
    from attn_inject.zoo.parsing import parse_source

    state = build(parse_source("cifar:resnet20", seed=9)).state_dict()
    torch.save({"model": _other(state), "model_ema": _prefixed("module.", state)}, tmp_path / "f.pth")
    command = ["cifar:resnet20", "--attention", "eca", "--checkpoint", str(tmp_path / "f.pth"), "--no-bench"]
    assert run([*command, "--out", str(tmp_path / "m.pt")]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert f"{len(state)} of {len(state)} tensors from f.pth (its 'model_ema'), without the prefix 'module.'" in words
    loaded = load(tmp_path / "m.pt").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    torch.save({"state_dict": Net().state_dict()}, tmp_path / "f.pth")
    assert run([*command, "--out", str(tmp_path / "n.pt")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "tensors match): it lacks" in error
    assert not (tmp_path / "n.pt").exists()


def test_a_patched_models_own_files_are_weights_for_its_like(tmp_path: Path) -> None:
    """A saved file of this library holds its plan beside a `state_dict`: with the same attention in place, it fits."""
    from ..toys import Block, Toy, _iadd

    patched = [inject(Toy(Block(_iadd)), "se", input_size=(3, 16, 16)) for _ in range(2)]
    for suffix in (".pt", ".safetensors"):
        save(patched[0], tmp_path / f"m{suffix}")
        load_weights(patched[1], tmp_path / f"m{suffix}")
        assert _holds(patched[1], patched[0].state_dict())
