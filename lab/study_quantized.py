"""What must a quantized student be taught: attention maps, attention outputs, or both? MiniLM at 2 and 4 bits, two real tasks.

    PYTHONPATH=src python lab/study_quantized.py            # trains what is missing, then writes results and page
    PYTHONPATH=src python lab/study_quantized.py tiny       # drawn tokens and a small encoder: shows that it runs

Arms: full precision; quantized without training; no KD (labels alone); logits + hidden states (`hidden`); and with it attention
score, map, output, or map and output (`unified`, coefficients 1 and 1), and as its placebo the same terms read inside an encoder of
random weights. `hidden`, `map`, `output`, `unified` are a 2 × 2 design: the shares of map and output in what attention terms bring.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from quantized_results import write
from quantized_setup import RATES, Cell, training
from quantized_tasks import FULL, TINY

from fractionate import Objective, Recipe, dissect, distill
from fractionate.records import Study
from fractionate.study import Arm
from fractionate.teachers import Cached

SEEDS = 5
ORDER = (("glosses", "W2A8"), ("glosses", "W4A8"), ("pairs", "W2A8"), ("pairs", "W4A8"))
ARMS: dict[str, tuple[str, ...]] = {
    "no KD": (),
    "hidden": ("hidden",),
    "score": ("hidden", "score"),
    "map": ("hidden", "map"),
    "output": ("hidden", "output"),
    "unified": ("hidden", "map", "output"),
}
PLACEBO = "unified, untrained"  # the same terms, read inside an encoder of random weights


def chosen_rate(bits: str, out: Path) -> float:
    """The learning rate with which students without a teacher do best on validation glosses: one for all arms and tasks."""
    kept = out / f"rates-{bits}.json"
    if not kept.exists():
        cell = Cell("glosses", bits, out)
        found = {}
        for rate in RATES[bits]:
            recipe = Recipe(training=training(cell, rate))
            _, run = distill(cell.tuned_on, recipe=recipe, arm="no KD", show="nothing")
            assert run.validation is not None
            found[str(rate)] = run.validation.nll_nats
        kept.write_text(json.dumps(found))
    losses: dict[str, float] = json.loads(kept.read_text())
    return min(RATES[bits], key=lambda rate: losses[str(rate)])


def studied(cell: Cell, workers: int) -> Study:
    """Every arm and seed of one task at one width; a finished student is read back."""
    taught = Objective("kd", 1.0, 1.0)
    rate = training(cell, chosen_rate(cell.bits, cell.out))
    recipes = {
        name: Recipe(objective=taught if terms else None, terms=terms, training=rate) for name, terms in ARMS.items()
    }
    untrained = Arm(recipes["unified"], placebo_of="unified", teacher=Cached(cell.signal, model=cell.untrained))
    return dissect(
        cell.task, recipes | {PLACEBO: untrained}, Cached(cell.signal, model=cell.teacher), baseline="no KD", progress="off",
        workers=workers, seeds=2 if cell.out == TINY else SEEDS, out=cell.out / cell.name / cell.bits / "study", name=cell.title,
    )  # fmt: skip


def main(out: Path = FULL, workers: int = 2) -> None:
    torch.set_num_threads(1)
    order = ORDER[:1] if out == TINY else ORDER
    cells = [Cell(task, bits, out) for task, bits in order]
    write([(cell, studied(cell, workers)) for cell in cells], out)


if __name__ == "__main__":
    main(TINY if "tiny" in sys.argv[1:] else FULL)
