"""attach on classes of every make, in wrappers, with hooks and parametrizations, on one block in two places."""

from __future__ import annotations

import abc
import copy
import dataclasses
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from attn_inject import PlanError, attach, detach, inject
from attn_inject.attention.gating import ChannelGate

from ..toys import Toy, conv

SMALL = (3, 16, 16)
IMAGE = torch.randn(2, *SMALL, generator=torch.Generator().manual_seed(0))
relu = torch.relu


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(relu(self.a(x)))


class Slotted(Block):
    __slots__ = ("extra",)

    def __init__(self) -> None:
        super().__init__()
        self.extra = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.extra * self.b(relu(self.a(x)))


class Asked(Block):
    def __getattr__(self, name: str) -> Any:
        return self.b if name == "second" else super().__getattr__(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(relu(self.a(x)))


class Called(Block):
    def __call__(self, x: torch.Tensor) -> Any:
        return super().__call__(x * 2)


@dataclasses.dataclass(eq=False)
class Data(nn.Module):
    width: int = 16

    def __post_init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(self.width, 16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(relu(self.a(x)))


class Registering(Block):
    kinds: dict[str, type] = {}  # noqa: RUF012  # as registries are written

    def __init_subclass__(cls, *, key: str) -> None:
        super().__init_subclass__()
        Registering.kinds[key] = Registering.kinds[cls.__name__] = cls


class Registered(Registering, key="one"):
    pass


class Abstract(nn.Module, abc.ABC):
    @abc.abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...


class Concrete(Abstract):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 16), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(relu(self.a(x)))


class Locked(Block):
    def __setattr__(self, name: str, value: Any) -> None:
        if not (name.startswith("_") or name == "training" or isinstance(value, nn.Module)):
            raise AttributeError(name)
        super().__setattr__(name, value)


def _in_a_function() -> nn.Module:
    scale = 3.0

    class Inner(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + scale * self.b(relu(self.a(x)))

    return Inner()


def _by_type() -> nn.Module:
    made: nn.Module = type("Made", (Block,), {"forward": lambda m, x: x + m.b(relu(m.a(x)))})()
    return made


def _attached(model: nn.Module) -> Any:
    return attach(model.eval(), "se", reduction=4, input_size=SMALL)


def _runs(model: nn.Module) -> int:
    ran: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, ChannelGate):
            module.register_forward_hook(lambda gate, *_: ran.append(gate))
    with torch.no_grad():
        model(IMAGE)
    return len(ran)


@pytest.mark.parametrize("make", [Slotted, Asked, Called, Data, Registered, Concrete, Locked, _in_a_function, _by_type])
def test_classes_of_every_make(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    kinds = dict(Registering.kinds)
    block = make()
    model = Toy(block).eval()
    attached = _attached(model)
    assert isinstance(attached.body, type(block))
    assert torch.equal(detach(attached)(IMAGE), model(IMAGE))
    assert not torch.equal(attached(IMAGE), model(IMAGE))
    assert Registering.kinds == kinds
    # torch's own copies leave out what slots hold.
    twins = [copy.copy(attached)] if make is Slotted else [copy.copy(attached), copy.deepcopy(attached)]
    if make not in (Slotted, _in_a_function, _by_type):
        twins.append(pickle.loads(pickle.dumps(attached)))
    for twin in twins:
        assert torch.equal(twin(IMAGE), attached(IMAGE))
    assert all(_runs(twin) == 1 for twin in (twins[-1], attached))


def test_a_class_that_is_called_past_its_forward_is_refused() -> None:
    class Past(Block):
        def __call__(self, x: torch.Tensor) -> Any:
            return x + self.b(relu(self.a(x)))

    with pytest.raises(PlanError, match="is run by its class's own __call__, which runs no forward"):
        _attached(Toy(nn.Sequential(Past(), nn.Identity())))


@pytest.mark.zoo
def test_a_fresh_process_reads_what_was_pickled(tmp_path: Path) -> None:
    """Classes of a script, which is `__main__` there and here."""
    script = tmp_path / "net.py"
    script.write_text(
        textwrap.dedent("""
        import pickle, sys
        import torch
        from torch import nn
        from attn_inject import attach

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            def forward(self, x):
                return x + self.b(torch.relu(self.a(x)))

        image = torch.ones(1, 3, 8, 8)
        if sys.argv[1] == "write":
            model = attach(nn.Sequential(Block(), Block()).eval(), "eca", input_size=(3, 8, 8))
            pickle.dump((model, model(image)), open(sys.argv[2], "wb"))
        else:
            model, before = pickle.load(open(sys.argv[2], "rb"))
            assert torch.equal(model(image), before)
            with torch.no_grad():
                for parameter in model[1].eca.parameters():
                    parameter.add_(1)
            assert not torch.equal(model(image), before)
        """)
    )
    for verb in ("write", "read"):
        subprocess.run([sys.executable, str(script), verb, str(tmp_path / "model")], check=True)


def test_one_block_in_two_places_is_one_site_that_runs_twice() -> None:
    torch.manual_seed(0)
    block = Block()
    model = Toy(nn.Sequential(block, nn.ReLU(), block)).eval()
    attached, patched = _attached(model), inject(model, "se", reduction=4, input_size=SMALL).eval()
    patched.load_state_dict(attached.state_dict())
    assert torch.equal(attached(IMAGE), patched(IMAGE))
    assert attached.body[0] is attached.body[2]
    assert _runs(attached) == 2


def test_parametrized_modules_are_gated_and_stay_parametrized() -> None:
    class Gained(Block):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(16, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.gain * self.b(relu(self.a(x)))

    torch.manual_seed(0)
    model: Any = Toy(nn.Sequential(Gained(), Block(), Block())).eval()
    parametrize.register_parametrization(model.body[0], "gain", nn.Softplus())
    parametrizations.weight_norm(model.body[1].b)
    nn.utils.weight_norm(model.body[2].b)
    attached, patched = _attached(model), inject(model, "se", reduction=4, input_size=SMALL).eval()
    patched.load_state_dict(attached.state_dict())
    assert torch.equal(attached(IMAGE), patched(IMAGE))
    attached.train()(IMAGE).square().sum().backward()
    assert attached.body[0].parametrizations.gain.original.grad is not None
    assert parametrize.is_parametrized(attached.body[0])
    assert _runs(attached) == 3


def test_hooks_on_blocks_and_children_go_on_and_see_nothing_of_the_comparison() -> None:
    class Scaled(Block):
        def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return x + self.b(relu(self.a(x))) * scale

    model: Any = Toy(nn.Sequential(Scaled(), Scaled())).eval()
    seen: list[str] = []

    def before(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        seen.append("before")
        return (args[0] * 2,), kwargs

    def child(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
        seen.append("child")
        return out * 3

    model.body[0].register_forward_pre_hook(before, with_kwargs=True)
    model.body[0].register_forward_hook(lambda *_: seen.append("after"), with_kwargs=True)
    model.body[1].b.register_forward_hook(child)
    attached = _attached(model)
    assert seen == []
    assert torch.equal(detach(attached)(IMAGE), model(IMAGE))
    seen.clear()
    assert _runs(attached) == 2
    assert seen == ["before", "after", "child"]


def test_wrappers_come_off_and_go_on_again() -> None:
    model = Toy(nn.Sequential(Block(), Block())).eval()
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        attached = _attached(wrapped)
        assert type(attached) is Toy
        assert _runs(attached) == 2
    model.body[0].compile(backend="eager")
    assert _runs(_attached(model)) == 2


def test_what_was_attached_in_two_calls_comes_off_in_one_and_the_first_stays() -> None:
    model = Toy(nn.Sequential(Block(), Block())).eval()
    first = attach(model, "se", reduction=4, input_size=SMALL, include="body.0")
    both: Any = attach(first, "se", reduction=4, input_size=SMALL, include="body.1")
    assert torch.equal(detach(both)(IMAGE), model(IMAGE))
    assert (_runs(first), _runs(both)) == (1, 2)
    for refused in (
        lambda: attach(both, "se", reduction=4, input_size=SMALL),
        lambda: inject(both, "eca", input_size=SMALL),
        lambda: attach(inject(model, "eca", input_size=SMALL), "se", reduction=4, input_size=SMALL),
    ):
        with pytest.raises(PlanError):
            refused()


def test_a_state_dict_without_the_attention_says_which_keys_are_missing() -> None:
    model = Toy(Block()).eval()
    attached = _attached(model)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "body\.se\.fc1\.weight"'):
        attached.load_state_dict(model.state_dict())
    missing, unexpected = attached.load_state_dict(model.state_dict(), strict=False)
    assert (missing, unexpected) == (["body.se.fc1.weight", "body.se.fc2.weight"], [])
