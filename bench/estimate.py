"""What --dry-run predicts against what the run then takes: time, disk and memory, each in a process of its own.

    OMP_NUM_THREADS=1 python bench/estimate.py            # writes bench/results/estimate.md

The run is `fractionate report` task by task. Time is CPU time (the machine may be busy); memory is the peak of the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = "data: {transfer: 400, validation: 300, test: 500}\n"
CASES = {
    "digits, mlp, 10 arms × 10 seeds": "data: {transfer: 100, validation: 300, test: 600, seed: 1}\n"
    "training: {steps: 400}\nstudy: {seeds: 10}\n",
    "digits, cnn, 4 arms × 3 seeds": f"{DATA}teacher: {{model: 'cnn(16, 32)', steps: 200}}\nstudent: {{model: 'cnn(8, 16)'}}\n"
    "training: {steps: 200}\nstudy: {cells: [hard, ls, kd-pt, kd], seeds: 3}\n",
    "digits, wide mlp, 3 arms × 2 seeds": f"{DATA}teacher: {{model: 'mlp(512)', steps: 200}}\n"
    "student: {model: 'mlp(1024, 1024)'}\ntraining: {steps: 200, batch_size: 64}\nstudy: {cells: [hard, kd-pt, kd], seeds: 2}\n"
    "distill: {average_decay: 0.99, keep: best}\n",
    "digits, mlp, shares of the data, tuned": f"{DATA}training: {{steps: 300}}\nstudy: {{cells: [hard, kd-pt, kd], seeds: 4, "
    "shares: [0.5, 1.0], tune: {teacher_weights: [0.5, 0.9], temperatures: [1, 4]}}\n",
}
RUN = """
import json, sys, time
began = time.process_time()
from fractionate.run import Chain, read_run
from fractionate.run import peak_bytes
from fractionate.records import Written
chain = Chain(read_run(sys.argv[1]))
chain.parts
found = {"start": [time.process_time(), 0]}
def task(name, work):
    before, begin = Written.at(chain.out).bytes, time.process_time()
    work()
    found[name] = [time.process_time() - begin, Written.at(chain.out).bytes - before]
for name, work in {
    "teacher": lambda: chain.teacher, "collect": lambda: chain.store, "diagnose": lambda: chain.diagnosis,
    "dissect": lambda: chain.study, "distill": lambda: chain.student, "report": lambda: chain.report(),
}.items():
    task(name, work)
way = chain.study.runs[0].settings["way"]
print(json.dumps({"tasks": found, "memory": peak_bytes(), "way": way}))
"""


def started(*command: str) -> dict:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    return json.loads(done.stdout)


def row(name: str, *pairs: tuple[float, float, str]) -> str:
    cells = [
        f"{ahead:{form}} / {took:{form}} ({ahead / took - 1:+.0%})" if took else "–" for ahead, took, form in pairs
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Estimate and run every case; write the table."""
    lines = [
        "# What a dry run predicts, and what the run takes",
        "",
        "`OMP_NUM_THREADS=1 python bench/estimate.py`: predicted / measured (difference). Two cores,",
        "shared with other work.",
        "",
    ]
    for case, settings in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "run.yaml"
            file.write_text(f"out: {folder}/out\n{settings}", encoding="utf-8")
            message = started("-m", "fractionate", "report", str(file), "--dry-run", "--json")
            took = started("-c", RUN, str(file))
        lines += [f"## {case}", "", "| task | CPU seconds | kB on the disk |", "| --- | --- | --- |"]
        for task in message["tasks"]:
            seconds, size = took["tasks"][task["name"]]
            lines.append(
                row(task["name"], (task["cpu_seconds"], seconds, ".2f"), (task["disk_bytes"] / 1e3, size / 1e3, ",.1f"))
            )
        seconds = sum(t[0] for t in took["tasks"].values()), sum(t["cpu_seconds"] for t in message["tasks"])
        sizes = sum(t[1] for t in took["tasks"].values()) / 1e3, sum(t["disk_bytes"] for t in message["tasks"]) / 1e3
        lines.append(row("**in all**", (seconds[1], seconds[0], ".2f"), (sizes[1], sizes[0], ",.1f")))
        memory = (message["memory_bytes"] / 2**20, took["memory"] / 2**20, ",.0f")
        lines += ["", f"Students were trained {took['way']}.", f"Peak memory, MiB: {row('', memory).strip('| ')}", ""]
        print("\n".join(lines[-12:]), flush=True)
    (ROOT / "bench/results/estimate.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
