"""Tensors from a file lie where torch would have put them; `tests/saving` sees to whole files."""

from __future__ import annotations

import torch

from attn_inject.files.aligned import ALIGNMENT, all_aligned


def test_pieces_of_one_flat_buffer_get_storages_of_their_own() -> None:
    """As sharded trainings keep their parameters."""
    flat = torch.arange(10_000.0)
    pieces = flat[1:-1].split(1001)
    assert any(piece.data_ptr() % ALIGNMENT for piece in pieces)
    loose = all_aligned({str(index): piece for index, piece in enumerate(pieces)})
    assert not any(piece.data_ptr() % ALIGNMENT for piece in loose.values())
    assert len({piece.untyped_storage().data_ptr() for piece in loose.values()}) == len(pieces)
    assert torch.equal(torch.cat(list(loose.values())), flat[1:-1])


def test_what_lies_well_and_what_cannot_lie_at_all_stays() -> None:
    whole, empty, expanded = torch.ones(64), torch.empty(0, 3), torch.ones(1).expand(2**40)
    moved = all_aligned({"whole": whole, "empty": empty, "expanded": expanded})
    assert moved["whole"] is whole
    assert moved["empty"] is empty
    assert moved["expanded"] is expanded


def test_one_tensor_under_two_names_stays_one() -> None:
    odd = torch.arange(9.0)[1:].reshape(2, 4).t()
    moved = all_aligned({"a": odd, "b": odd, "c": odd.clone()})
    assert moved["a"] is moved["b"]
    assert moved["a"].stride() == odd.stride()
    assert torch.equal(moved["a"], odd)
    assert moved["c"] is not moved["a"]
