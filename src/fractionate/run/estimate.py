"""What a run file will do and what it will cost, printed before the teacher is run: `--dry-run`."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fractionate.records.base import Record
from fractionate.run.preflight import PROBED, check_run
from fractionate.run.timing import Cost, Timing, clock
from fractionate.run.workflow import Workflow

FACTOR = (0.4, 1.7)  # what runs took, as a multiple of their estimate: four examples, lab/results/example_runs.md
DRAWN = "the teacher's weights take long to unpack and were not read: drawn ones were timed, and unpacking comes on top"
Verb = Literal["collect", "diagnose", "dissect", "distill", "report"]


@dataclass(frozen=True)
class Task(Record):
    """One thing a run will do: what, for how long, and what it leaves on the disk. CPU time is that of all threads."""

    name: str
    what: str
    wall_seconds: float
    cpu_seconds: float
    disk_bytes: int

    def __str__(self) -> str:
        return f"{self.name:<10} {self.what:<62} {_time(self.wall_seconds):>8} {self.disk_bytes / 2**20:>8,.2f} MiB"


@dataclass(frozen=True)
class Estimate(Record):
    """What a command will do, in its order, the most memory its process will hold, and what looks wrong without being refused.

    None of this has been done: names, shapes and settings have been checked, and each job was timed briefly on copies,
    with a signal that no teacher gave.
    """

    name: str
    tasks: tuple[Task, ...]
    memory_bytes: int  # of the whole process at its largest, libraries included
    remarks: tuple[str, ...] = ()

    @property
    def wall_seconds(self) -> float:
        """All of it, on this machine as busy as it is now."""
        return sum(task.wall_seconds for task in self.tasks)

    @property
    def cpu_seconds(self) -> float:
        """All of it."""
        return sum(task.cpu_seconds for task in self.tasks)

    @property
    def disk_bytes(self) -> int:
        """All that will be written."""
        return sum(task.disk_bytes for task in self.tasks)

    def __str__(self) -> str:
        memory = f"memory {self.memory_bytes / 2**20:,.0f} MiB"
        total = Task("in all", memory, self.wall_seconds, self.cpu_seconds, self.disk_bytes)
        lines = [f"{self.name}: what would be done", *(f"  {task}" for task in (*self.tasks, total))]
        least, most = (_time(self.wall_seconds * factor) for factor in FACTOR)
        lines.append(f"  from a few steps of each job on few examples: expect {least} to {most}")
        return "\n".join([*lines, *(f"  warning: {remark}" for remark in self.remarks)])


def peak_bytes() -> int:
    """The most memory that this process has held.

    Returns:
        Bytes of resident memory.

    Example:
        from fractionate.run import peak_bytes

        print(f"{peak_bytes() / 2**20:.0f} MiB")
    """
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says begins with what the process that started this one held
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


def estimate_run(workflow: Workflow, verb: Verb = "report") -> Estimate:
    """Check everything a command needs, time each job briefly on copies, and add up what all of it will take.

    Reads the data and builds the networks; asks no teacher and writes nothing but temporary files. What lies in the run's
    folder already is not done again. Raises what the run itself would raise for names, shapes, labels, weights and settings.
    """
    workflow = replace(workflow, estimated=True)
    student, teacher, remarks = check_run(workflow, probed=PROBED, remake=workflow.remake)
    remarks += (DRAWN,) if workflow.drawn_teacher else ()
    started = time.process_time()  # of the process: libraries and data; a part of torch is loaded by the first training
    before = () if workflow.run.objective else ("diagnose",)
    first = ("dissect",) if workflow.study_decides_the_rate else ()
    jobs: dict[Verb, tuple[str, ...]] = {
        "collect": ("teacher", "collect"),
        "diagnose": ("teacher", "collect", "diagnose"),
        "dissect": ("teacher", "collect", *before, "dissect"),
        "distill": ("teacher", "collect", *before, *first, "distill"),
        "report": ("teacher", "collect", "diagnose", "dissect", "distill", "report"),
    }
    tasks = [Task("start", "load libraries and data", started, started, 0)]
    with tempfile.TemporaryDirectory() as folder:
        timing, began, costs = Timing(workflow, student, teacher, Path(folder)), clock(), []
        for name in jobs[verb]:
            cost: Cost | None = getattr(timing, name)()
            costs += [(name, cost)] if cost is not None else []
        wall, cpu = clock() - began
    # moments on a busy machine say little of its wall time; the CPU time of each task and how busy it was in all say more
    for name, cost in costs:
        seconds = round(cost.cpu_seconds, 3)
        tasks.append(Task(name, cost.what, round(seconds * wall / cpu, 3), seconds, cost.disk_bytes))
    return Estimate(workflow.run.name, tuple(tasks), peak_bytes(), remarks)
