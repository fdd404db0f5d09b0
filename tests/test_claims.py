"""The tables of the papers' claims, of what improves distillation and where it fails are made of the committed records."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

LAB = Path(__file__).parents[1] / "lab"


@pytest.fixture(autouse=True)
def modules_of_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LAB))


@pytest.mark.parametrize("name", ["claims", "what_improves", "failure_cases"])
def test_the_committed_table_is_the_generated_one(name: str) -> None:
    made = importlib.import_module(name).table()
    assert made == (LAB / "results" / f"{name}.md").read_text(encoding="utf-8"), f"PYTHONPATH=src python lab/{name}.py"


def test_every_claim_has_evidence_or_a_reason() -> None:
    claims = importlib.import_module("claims")
    for paper in yaml.safe_load((LAB / "claims.yaml").read_text(encoding="utf-8")).values():
        for claim in paper["claims"]:
            if "test" in claim:
                file, _, test = claim["test"].partition("::")
                assert f"def {test}(" in (LAB.parent / file).read_text(encoding="utf-8"), claim
            else:
                assert claims.evidence(claim) or {"share", "untested"} & set(claim), claim


def test_effects_over_data_sets_equal_the_formulas() -> None:
    """DerSimonian and Laird, and Hartung, Knapp, Sidik and Jonkman, written out; alike sets have no variance between them."""
    import numpy as np
    from scipy import stats

    joined = importlib.import_module("random_effects").joined
    for gains, variances in (([1.0, 2.5, -0.5, 0.2], [0.1, 0.2, 0.05, 0.3]), ([1.0, 1.1, 0.9], [0.5, 0.4, 0.6])):
        y, v = np.array(gains), np.array(variances)
        w = 1 / v
        q = float((w * (y - (w * y).sum() / w.sum()) ** 2).sum())
        between = max(0.0, (q - (len(y) - 1)) / (w.sum() - (w**2).sum() / w.sum()))
        w = 1 / (v + between)
        mean = float((w * y).sum() / w.sum())
        error = float(((w * (y - mean) ** 2).sum() / ((len(y) - 1) * w.sum())) ** 0.5)
        half = float(stats.t.ppf(0.975, len(y) - 1)) * error
        assert joined(gains, variances)[:3] == pytest.approx((mean, mean - half, mean + half))
