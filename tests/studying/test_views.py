"""Several maps of one image, beside one another or batch by batch: classes are those of the right images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from attn_inject import gates
from attn_inject.studying.data import GatesData
from attn_inject.studying.views import are_beside
from tests.studying.planted import MOVING, SELECTIVE, batches, planted

Make = Callable[[torch.Tensor], torch.Tensor]


class Viewed(nn.Module):
    """Several images of each, and the mean of what comes out for them."""

    def __init__(self, inner: nn.Module, views: Make, gather: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        super().__init__()
        self.inner, self.views, self.gather = inner, views, gather

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gather(self.inner(self.views(x)), len(x))


def beside(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, x.flip(3), x.flip(2)], 1).flatten(0, 1)


def batch_by_batch(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.flip(3), x.flip(2)])


def mirrored(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.flip(0), x])


def of_neighbours(out: torch.Tensor, images: int) -> torch.Tensor:
    return out.view(images, -1, out.shape[1]).mean(1)


def of_batches(out: torch.Tensor, images: int) -> torch.Tensor:
    return out.view(-1, images, out.shape[1]).mean(0)


def found(views: Make, gather: Callable[[torch.Tensor, int], torch.Tensor], **options: bool) -> GatesData:
    return gates(Viewed(planted(**options), views, gather), batches(), ablation=False)


@pytest.mark.parametrize("form", ["inject", "attach"])
@pytest.mark.parametrize(("views", "gather"), [(beside, of_neighbours), (batch_by_batch, of_batches)])
def test_classes_are_those_of_the_images_that_maps_were_made_of(form: str, views: Make, gather: Callable) -> None:
    made = found(views, gather, form=form)
    (row,) = made.sites
    assert row.figures.between[SELECTIVE] > 0.99
    assert row.figures.between[MOVING] < 0.05
    assert not any("several maps" in note for note in made.notes)


def test_where_neither_order_fits_classes_are_left_out_and_that_is_said() -> None:
    made = found(mirrored, of_batches)
    assert made.sites[0].figures.between == ()
    assert "the model makes several maps of one image at 1 site, and of which image is not known" in "\n".join(
        made.notes
    )


def test_a_model_that_stops_at_what_is_no_number_is_read_until_then() -> None:
    def checked(out: torch.Tensor, images: int) -> torch.Tensor:
        assert bool(out.isfinite().all())
        return of_batches(out, images)

    assert found(batch_by_batch, checked).sites[0].figures.between[SELECTIVE] > 0.99


def test_maps_that_all_hold_it_tell_nothing() -> None:
    assert are_beside(torch.ones(4, dtype=torch.bool), 2) is None
    assert are_beside(torch.zeros(4, dtype=torch.bool), 2) is None
