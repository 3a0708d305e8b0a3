"""What each site's attention costs: counted, or for latency measured, and where that says nothing, told by traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from torch import nn

from ..cost.counting import count
from ..cost.latency import BenchSettings, Contest
from ..cost.parameters import holding
from ..cost.samples import Latency
from ..tracing.inputs import Inputs
from .budget import Resource


@dataclass(frozen=True, slots=True)
class Price:
    """What the attention of one site adds: parameters, operations and bytes moved for one image, share of the time."""

    params: int = 0
    flops: int = 0
    traffic: int = 0
    latency: float = 0.0

    def of(self, resource: Resource) -> float:
        return 1.0 if resource == "sites" else float(getattr(self, resource))


def plain_price(model: nn.Module, inputs: Inputs) -> Price:
    """What the model itself has; its latency is 1."""
    total = count(model, inputs).total
    return Price(holding(model).parameters, total.flops, total.traffic, 1.0)


def prices(patched: nn.Module, modules: Sequence[str], plain: Price, inputs: Inputs) -> list[Price]:
    """Counted for each module, by its path; the latency is as if time went as the bytes that are moved."""
    parts = count(patched, inputs, watched=modules).parts
    return [
        Price(
            params=holding(patched.get_submodule(module)).parameters,
            flops=parts[module].flops,
            traffic=parts[module].traffic,
            latency=parts[module].traffic / plain.traffic,
        )
        for module in modules
    ]


def measured(found: Sequence[Price], latency: Latency) -> list[Price]:
    """The same with a measured latency of all of them together, each with the share that it has of the traffic."""
    traffic = sum(price.traffic for price in found)
    return [replace(price, latency=max(0.0, latency.ratio - 1) * price.traffic / traffic) for price in found]


def race(
    plain: nn.Module,
    patched: nn.Module,
    inputs: Inputs,
    device: str,
    seconds: float,
    tell: Callable[[str, float], None],
) -> dict[str, float]:
    """Time both in turns; a record of numbers, which are those of `Latency`."""
    run = Contest((plain, patched), inputs, BenchSettings(device=device, seconds=seconds)).inference(tell)
    return asdict(run.latency)


def latency_of(record: Mapping[str, float]) -> Latency:
    """What a record of `race` says."""
    return Latency(**{item.name: record[item.name] for item in fields(Latency)})  # type: ignore[arg-type]
