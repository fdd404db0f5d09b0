"""The quick starts of the README as a new user meets them: the commands of its table, each in an empty folder, timed.

    OMP_NUM_THREADS=1 python lab/first_runs.py [names]    # pictures, texts, …; none: all seven

The python is that of an environment in which the wheel and the packages that the README names are installed, and nothing else.

Writes lab/results/first_runs.md; rows of quick starts that are not run again stay as they are.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "lab" / "results" / "first_runs.md"
HEAD = """# First runs

`OMP_NUM_THREADS=1 python lab/first_runs.py`: the commands of the README's quick starts, each in an empty folder, one thread, with
the wheel and the packages that the README names installed into an empty environment. CPU seconds are those of all processes, and
what a core takes that does nothing else; minutes are longer where the load says that more programs than cores were running.

| quick start | commands | CPU s | minutes | ends in | load of the machine |
|---|---|---|---|---|---|
"""


def quick_starts() -> dict[str, list[str]]:
    """The commands of each row of the README's table, and what follows them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Quick starts") : text.index("## On your own model")]
    found = {}
    for name, command in re.findall(r"^\| (?:a |an )?([\w ]+) \| `(fractionate [^`]+)`", section, re.MULTILINE):
        found[name] = [command] if "report" in command else [command, "fractionate report run.yaml"]
    return found


def timed(commands: list[str]) -> str:
    """Commands in an empty folder: their number, CPU and wall seconds, and what they left."""
    typed = "<br>".join(f"`{command}`" for command in commands)
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        for command in commands:
            program = command.replace("fractionate", f"{sys.executable} -m fractionate", 1)
            done = subprocess.run(program, shell=True, cwd=folder, text=True, capture_output=True)
            if done.returncode:
                lines = done.stderr.strip().splitlines()
                return f"{typed} | – | – | {lines[-1][:120] if lines else done.returncode} | –"
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - wall
        spent = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
        page, student = (
            list(Path(folder).glob(f"runs/*/{name}")) for name in ("report.html", "student/model.safetensors")
        )
        left = " and ".join(name for name, there in (("a page", page), ("a student", student)) if there) or "nothing"
        return f"{typed} | {spent:.0f} | {seconds / 60:.1f} | {left} | {os.getloadavg()[0]:.0f}"


def main(names: list[str]) -> None:
    """Time quick starts and write the table."""
    rows = (
        dict(re.findall(r"^\| ([\w ]+) \| (`.*) \|$", TABLE.read_text(encoding="utf-8"), re.MULTILINE))
        if TABLE.exists()
        else {}
    )
    known = quick_starts()
    for name in names or list(known):
        rows[name] = timed(known[name])
        print(name, rows[name])
        lines = "".join(f"| {each} | {rows.get(each, '– | – | – | not run | –')} |\n" for each in known)
        TABLE.write_text(HEAD + lines, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
