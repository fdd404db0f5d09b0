"""Probes of tasks without classes: is what the teacher says of an example about this example?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.records import Evidence, Interval
from fractionate.tasks.metric import Metric
from fractionate.tasks.predictions import Predictions
from fractionate.theory.number_signal import NumberSignal


@probes.register("unrelated-numbers")
@dataclass(frozen=True)
class UnrelatedNumbers:
    """Of tasks without classes: is the teacher better than itself on the rows of other examples?

    The task's deciding metric of the teacher's numbers, against the same numbers shuffled over the examples `draws` times. Error
    where no more than one in twenty shuffles is clearly worse: the rows belong to other examples, or the teacher knows nothing.
    """

    draws: int = 40
    needs: ClassVar[tuple[Need, ...]] = ("data",)

    def __call__(self, case: Case) -> Measurement:
        if not isinstance(case.signal, NumberSignal):
            return Measurement((), skipped="rows are distributions over classes")
        assert case.data is not None
        kind, metric = case.data.task.reader, case.data.task.deciding
        if kind.distributions:
            return Measurement((), skipped=f"the task {type(kind).__name__} has classes, and these are numbers")
        batch = Batch(inputs=None, labels=case.data.labels, index=case.data.example)
        rows = kind.outputs(case.signal.values, batch)
        own = self._score(metric, rows, batch)
        others = (kind.outputs(case.signal.shuffled(seed), batch) for seed in range(self.draws))
        shuffled = [self._score(metric, kind.unrelated(rows, other), batch) for other in others]
        drawn = [value for value in shuffled if value is not None]
        if own is None or not drawn:
            return Measurement((), skipped=f"{metric.name} has no value on these data")
        values = torch.tensor(drawn, dtype=torch.float64)
        worse = (values > own) if metric.better == "less" else (values < own)
        low, high = (float(values.quantile(q)) for q in (0.025, 0.975))
        return Measurement(
            (
                Evidence(f"{metric.name} of the teacher", own, metric.unit),
                Evidence("of its numbers shuffled over the examples", float(values.mean()), metric.unit, Interval(low, high)),
                Evidence("shuffles that are worse", float(worse.double().mean()), "share", None, 0.95),
            ),
            about=metric.name,
        )  # fmt: skip

    @staticmethod
    def _score(metric: Metric, rows: Tensor, batch: Batch) -> float | None:
        state = metric.start()
        metric.add(state, Predictions(logits=rows, labels=batch.labels, place=None, batch=batch), None)
        return metric.value(state)

    def judge(self, measured: Measurement) -> Judgement:
        share = measured["shuffles that are worse"]
        own, other = (item.value for item in measured.evidence[:2])
        text = f"{measured.about} of the teacher {own:.4g}, of its numbers shuffled over the examples {other:.4g}"
        if share >= 0.95:
            return fine(text, share)
        return Judgement(
            "error", share / 2, f"what the teacher says is not about these examples: {text}",
            "The cached numbers belong to other examples, or the teacher has learned nothing that these labels tell.",
            "Collect the numbers again on these very data; evaluate the teacher on them.",
        )  # fmt: skip
