from __future__ import annotations

import pytest
import torch

from attn_inject.studying.effects import Differences
from attn_inject.studying.moments import MOST_CLASSES, ClassMoments, Moments


def test_moments_are_those_of_all_values_at_once() -> None:
    values = 1e6 + torch.randn(100, 3, dtype=torch.float64)
    values[::3, 1] = torch.nan
    moments = Moments(3)
    for part in values.split([1, 40, 9, 50]):
        moments.add(part)
    for channel in range(3):
        known = values[:, channel][values[:, channel].isfinite()]
        assert int(moments.count[channel]) == len(known)
        assert float(moments.mean[channel]) == pytest.approx(float(known.mean()), rel=1e-12)
        assert float(moments.variance[channel]) == pytest.approx(float(known.var(correction=0)), rel=1e-6)


def test_a_channel_that_was_never_seen() -> None:
    moments = Moments(2)
    moments.add(torch.tensor([[1.0, torch.nan], [3.0, torch.nan]], dtype=torch.float64))
    assert moments.known.tolist() == [True, False]
    assert moments.mean.tolist() == [2.0, 0.0]


def test_epsilon_squared_is_that_of_the_textbook() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (90,))
    values = torch.randn(90, 2, dtype=torch.float64) + torch.stack([labels, torch.zeros(90)], 1)
    by_class = ClassMoments(2)
    for part, of in zip(values.split(32), labels.split(32), strict=True):
        by_class.add(part, of)
    parts = by_class.parts()
    assert parts is not None
    between, total = parts
    assert by_class.classes == (0, 1, 2)
    groups = [values[labels == label] for label in range(3)]
    torch.testing.assert_close(by_class.means, torch.stack([group.mean(0) for group in groups]))
    within = sum((group - group.mean(0)).square().sum(0) for group in groups)
    whole = (values - values.mean(0)).square().sum(0)
    expected = 1 - (within / (90 - 3)) / (whole / (90 - 1))
    torch.testing.assert_close(between / total, expected.clamp(min=0))
    assert expected[0] > 0.3


def test_classes_make_no_difference_by_chance() -> None:
    torch.manual_seed(0)
    found = []
    for _ in range(50):
        by_class = ClassMoments(40)
        by_class.add(torch.randn(60, 40, dtype=torch.float64), torch.randint(0, 10, (60,)))
        parts = by_class.parts()
        assert parts is not None
        found.append(float(parts[0].sum() / parts[1].sum()))
    # Without the adjustment it were 9 / 59, 15 %; what is left is that shares below zero are cut off.
    assert sum(found) / 50 < 0.05


def test_more_classes_than_are_followed_and_too_few() -> None:
    many, one = ClassMoments(1), ClassMoments(1)
    many.add(torch.randn(1000, 1, dtype=torch.float64), torch.arange(1000) % 200)
    assert len(many.classes) == len(many.means) == MOST_CLASSES
    one.add(torch.randn(10, 1, dtype=torch.float64), torch.zeros(10, dtype=torch.long))
    assert one.parts() is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    torch.manual_seed(0)
    hits = {"accuracy": 0, "loss": 0}
    for _ in range(400):
        draws = torch.rand(80)
        for measure, values, truth in (
            ("accuracy", (draws < 0.06).double() - (draws > 0.97).double(), 0.03),
            ("loss", torch.randn(80) + 0.3, 0.3),
        ):
            differences = Differences()
            differences.add(values)
            effect = differences.effect(measure, 1)
            hits[measure] += effect.low <= truth <= effect.high
    assert 0.92 <= hits["accuracy"] / 400 <= 0.99
    assert 0.92 <= hits["loss"] / 400 <= 0.98


def test_no_difference_is_no_certainty_and_many_sites_widen_it() -> None:
    none = Differences()
    none.add(torch.zeros(100))
    one, many = none.effect("accuracy", 1), none.effect("accuracy", 16)
    assert many.low < one.low < 0 < one.high < many.high
