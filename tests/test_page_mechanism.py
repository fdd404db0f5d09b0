"""What is measured inside the students along training stands on the page, with its numbers; what was not, does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fractionate.data.hierarchy import Hierarchy
from fractionate.models.zoo import mlp
from fractionate.page import report
from fractionate.records import Training, Tuning
from fractionate.study import dissect


def test_geometry_along_training_is_on_the_page(tmp_path: Path) -> None:
    world = Hierarchy()
    groups = tuple(c // 3 for c in range(12))
    study = dissect(
        lambda: mlp(12)((16,), 12),
        world.draw(80, seed=1),
        world.oracle(80, seed=1),
        cells=("kd", "ls"),
        seeds=2,
        training=Training(epochs=6, batch_size=16, learning_rate=0.01),
        validation=world.draw(60, seed=2),
        points=3,
        superclasses=groups,
        tune=Tuning((1.0,), (0.5, 0.9)),
        progress="off",
    )
    for run in study.runs:
        for point in run.history:
            assert -1 <= point.rows_to_relation <= 1 and 0 <= point.distance_order <= 1
            assert -1 <= point.rows_within_superclass <= 1 and -1 <= point.rows_between_superclasses <= 1
    kd = [run.history for run in study.runs if run.arm == "kd"]
    assert all(history[-1].rows_to_relation > history[0].rows_to_relation for history in kd)  # it learns the relations
    text = report(study, tmp_path / "study.html").read_text(encoding="utf-8")
    for words in ("takes on the teacher’s class relations", "rows of one superclass", "order of wrong classes"):
        assert words in text
    assert "kd: temperature 1, teacher weight 0." in text and "chosen on validation data of 2 settings tried" in text
    plain = replace(study, tries=(), runs=tuple(replace(run, history=()) for run in study.runs))
    text = report(plain, tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "order of wrong classes" not in text and "settings tried" not in text
