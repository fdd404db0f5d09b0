"""The demo: a healthy teacher and a sick one on real handwritten digits, from signal to page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fractionate.cli.terminal import teacher_words
from fractionate.page.document import report
from fractionate.page.folder import run_file_words
from fractionate.records.base import Record
from fractionate.run.schema import RunFile
from fractionate.run.sections import (
    DataSection,
    ExportSection,
    ReportSection,
    StudySection,
    TeacherSection,
    TeacherTrainingSection,
    TrainingSection,
)
from fractionate.run.workflow import Workflow
from fractionate.system.paths import as_path, shell_line

# A small transfer set on purpose: with plenty of data every student gets there, and the levels cannot be distinguished.
DIGITS = DataSection(source="digits", transfer=100, validation=300, test=600, seed=1)


def demo_runs(out: Path | str = "runs/demo") -> tuple[RunFile, RunFile]:
    """The two runs of the demo: they differ in the teacher alone."""
    out = as_path(out, "out")
    healthy = RunFile(
        name="healthy teacher",
        out=str(out / "healthy"),
        data=DIGITS,
        teacher=TeacherSection(model="mlp(256, 256)"),
        training=TrainingSection(steps=400),
        study=StudySection(seeds=10),
        report=ReportSection(examples="show"),
        export=ExportSection(program=False),  # loading torch's exporter takes as long as the two students
    )
    sick = healthy.model_copy(
        update={
            "name": "over-trained teacher",
            "out": str(out / "over-trained"),
            # trained for long on the very examples it is run on: certain of every label, it says nothing else
            "teacher": TeacherSection(
                model="mlp(256, 256)", train=TeacherTrainingSection(on="transfer", steps=3000, weight_decay=0.0)
            ),
            "study": StudySection(cells=("hard", "ls", "class-mean", "kd-pt", "kd"), seeds=10),
        }
    )
    return healthy, sick


def demo(out: Path | str = "runs/demo", *, say: Callable[[str], None] = print) -> Path:
    """Run the whole job on both teachers and give the path of the page. Running it again resumes."""
    out = as_path(out, "out")
    torch.set_num_threads(1)  # networks this small run faster on one thread, and do not stall next to a busy neighbour
    records: list[Record] = []
    run_files: dict[str, tuple[str, ...]] = {}
    for run in demo_runs(out):
        workflow = Workflow(run)
        say(f"{run.name}: {workflow.data}")
        say(f"  {teacher_words(workflow)}")
        say(f"  {workflow.diagnosis}".replace("\n", "\n  "))
        say(f"  {workflow.study}".replace("\n", "\n  "))
        kept_back = workflow.kept_back()
        say(f"  no student is exported: {kept_back}\n" if kept_back else f"  student: {workflow.student}\n")
        made = workflow.records()
        records += made
        run_files |= run_file_words(workflow.out, made)
    again = shell_line(["fractionate", "demo", "--out", str(out)])
    return report(records, out / "report.html", command=again, run_files=run_files)
