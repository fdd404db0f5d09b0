"""Probes of how a signal was kept: whole rows, the largest entries, or random draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.records import Evidence
from fractionate.theory.topk_signal import CompactSignal

KINDS = ("dense", "top-k", "sampled")


@probes.register("stored-form")
@dataclass(frozen=True)
class StoredForm:
    """Are these the teacher's rows, or what a store kept of them?

    Sampled rows hold random draws of the classes beside the label: unbiased for training, but the shape of a row is then mostly the
    draw, and instance.shape counts that noise as knowledge. Warning. Of the k largest entries the mass left out is spread evenly;
    information where it is above `left_out` = 2 % on average, since shapes are then understated.
    """

    left_out: float = 0.02
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        signal = case.signal
        evidence = [Evidence("form", float(KINDS.index(case.stored)), "0 dense, 1 top-k, 2 sampled")]
        if isinstance(signal, CompactSignal):
            evidence.append(Evidence("entries a row", float(signal.logits.shape[1]), "entries"))
            out = float((1 - signal.captured.double()).mean())
            evidence.append(Evidence("mass left out", out, "probability", None, self.left_out))
        return Measurement(tuple(evidence), about=f"{case.spectrum.instance_shape_nats:.3g}")

    def judge(self, measured: Measurement) -> Judgement:
        kind = KINDS[int(measured["form"])]
        if kind == "sampled":
            return Judgement(
                "warning", 0.5, f"these rows are random draws: instance.shape ({measured.about} nats) counts their noise",
                "The store was collected with form=sampled, which is made for training, not for reading.",
                "Train with it as it is; for a spectrum collect a few thousand rows with form=top-k or dense.",
            )  # fmt: skip
        out = next((item.value for item in measured.evidence if item.name == "mass left out"), 0.0)
        if out > self.left_out:
            return Judgement(
                "info", 1 - out, f"{out:.1%} of the teacher's mass is not among the stored entries and counts as even",
                "The store keeps the largest entries only.", "Collect with more entries where shapes matter.",
            )  # fmt: skip
        return fine(f"{kind} rows, {out:.1%} of the mass left out", 1 - out)
