"""What compression bought, on the page."""

from __future__ import annotations

from fractionate.page.cost_plots import cost_figure
from fractionate.records import Run

COST = {
    "student_parameters": 2_000.0,
    "teacher_parameters": 80_000.0,
    "student_latency_ms": 3.0,
    "teacher_latency_ms": 2.0,
}


def run(**cost: float) -> Run:
    return Run(
        arm="kd", seed=0, status="completed", contract=None, steps=1, wall_seconds=1.0, parameters=2000, cost=cost
    )


def test_the_student_stands_beside_its_teacher():
    figure = cost_figure([run(), run(**COST)])
    assert figure is not None
    assert figure.title == "The student has 2.50 % of the teacher’s parameters"
    assert figure.rows == (("parameters", 2000.0, 80000.0, ""), ("latency", 3.0, 2.0, "ms"))
    assert "150" in figure.drawing, "a student that is slower than its teacher stays on the scale"


def test_a_teacher_that_was_not_measured_leaves_no_figure():
    assert cost_figure([run(student_parameters=2000.0), run()]) is None
