"""A diagnosis without all rows in memory says what one of all rows says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fractionate import Objective, TeacherSignal, collect, diagnose, spectrum
from fractionate.data import Examples
from fractionate.records import Diagnosis
from fractionate.theory.spectrum import certainty, stream
from fractionate.theory.spectrum.certainty import contributions


def rows(examples: int = 300, classes: int = 12) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(examples, classes, generator=draw, dtype=torch.float64)
    return logits, torch.distributions.Categorical(logits=logits).sample() % (
        classes - 1
    )  # the last class has no example


def test_few_classes_at_once_give_the_same_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = TeacherSignal(*rows())
    whole, parts = spectrum(signal, 2.0), contributions(signal, 2.0)
    assert list(whole.nats.values()) == pytest.approx(parts.mean(0).tolist(), rel=1e-9)
    monkeypatch.setattr(stream, "MOST_SUMS_BYTES", 8 * 12 * 4)  # four classes
    monkeypatch.setattr(certainty, "ROWS_A_CHUNK_ELEMENTS", 12 * 7)  # seven rows: no class fits
    blocks = spectrum(signal, 2.0)
    assert blocks.examples == 300 and list(blocks.nats.values()) == pytest.approx(list(whole.nats.values()), rel=1e-12)
    torch.testing.assert_close(contributions(signal, 2.0), parts, rtol=1e-12, atol=1e-14)


def numbers(found: Diagnosis) -> dict[str, Any]:
    """What a diagnosis draws, as numbers."""
    assert found.rescaling is not None
    return {
        "spectra": [list(each.nats.values()) for each in (found.spectrum, *found.spectrum_over_temperature)],
        "terms": [[t.interval.low, t.interval.high, t.chance_nats or 0.0] for t in found.terms],
        "classes": [list(part.nats.values()) for part in found.class_parts],
        "relation": found.class_relation,
        "correlations": [each.matrix for each in found.class_correlations],
        "rescaling": [found.rescaling.mean, found.rescaling.deviation],
    }


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_compact_store_is_diagnosed_as_its_dense_rows(temperature: float, tmp_path: Path) -> None:
    logits, labels = rows()
    teacher = nn.Identity()
    store = collect(teacher, Examples(logits.float(), labels), tmp_path / "store", form="top-k", k=4)
    objective = Objective("kd", temperature=temperature)
    compact, dense = (numbers(diagnose(given, objective=objective)) for given in (store, store.signal()))
    for name, found in compact.items():
        torch.testing.assert_close(torch.tensor(found), torch.tensor(dense[name]), rtol=1e-5, atol=1e-6, msg=name)


def test_compact_rows_at_a_temperature_that_was_not_kept(tmp_path: Path) -> None:
    logits, labels = rows()
    store = collect(nn.Identity(), Examples(logits.float(), labels), tmp_path / "store", form="top-k", k=4)
    from dataclasses import replace

    signal = store.compact_signal()
    dense = signal.dense().at(4.0)
    assert not signal.knows(4.0) and replace(signal, estimated=True).knows(4.0)
    torch.testing.assert_close(replace(signal, estimated=True).at(4.0).confidence, dense.confidence)
    torch.testing.assert_close(replace(signal, estimated=True).at(4.0).dense().probabilities, dense.probabilities)
