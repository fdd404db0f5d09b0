"""What must a quantized student be taught: attention maps, attention outputs, or both? MiniLM at 2 and 4 bits, two real tasks.

    PYTHONPATH=src python lab/study_quantized.py            # trains what is missing, then writes results and page
    PYTHONPATH=src python lab/study_quantized.py --write    # only writes, from the runs that are there

Arms: full precision; quantized without training; no KD (labels alone); logits + hidden states (`hidden`); and with it attention
score, map, output, or map and output (`unified`, coefficients 1 and 1). `hidden`, `map`, `output`, `unified` are a 2 × 2 design:
the shares of map and output in what attention terms bring. Same order of data, same first weights, same learning rate in all arms.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

import torch
from quantized_tasks import CLASSES, OUT, Texts, fine_tuned, parts
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fractionate import Objective, TeacherSignal, distill
from fractionate.engine.evaluation import evaluate, signal_on
from fractionate.extensions.attention_measures import compare_maps, layer_sensitivity, norm_analysis, top_eigenvalue
from fractionate.models.quantize import Quantization, prepare
from fractionate.records import Run, Training
from fractionate.teachers import Cached

SEEDS = 3
EXAMPLES = {  # of the training texts; every arm and seed sees these
    ("glosses", "W2A8"): 1920, ("glosses", "W4A8"): 480, ("pairs", "W2A8"): 240, ("pairs", "W4A8"): 240,
}  # fmt: skip
SHORT = {"glosses": 16, "pairs": 24}  # students are trained on texts of at most so many tokens: two shared cores
TESTED = {"glosses": 400, "pairs": 200}
RATES = {"W2A8": (1e-4, 3e-4, 1e-3), "W4A8": (1e-5, 3e-5, 1e-4)}
QUANTIZATIONS = {
    "W2A8": Quantization("ternary", "ternary", 8, activation_clip=10.0),
    "W4A8": Quantization(4, 4, 8, activation_clip=10.0),
}
STEPS = {("glosses", "W2A8"): 120, ("glosses", "W4A8"): 6, ("pairs", "W2A8"): 15, ("pairs", "W4A8"): 6}
ORDER = (("glosses", "W2A8"), ("glosses", "W4A8"), ("pairs", "W2A8"), ("pairs", "W4A8"))
ARMS: dict[str, tuple[str, ...]] = {
    "no KD": (),
    "hidden": ("hidden",),
    "score": ("hidden", "score"),
    "map": ("hidden", "map"),
    "output": ("hidden", "output"),
    "unified": ("hidden", "map", "output"),
}
LOOKED_AT = 32  # test texts on which attention is compared


def training(task: str, bits: str, rate: float) -> Training:
    return Training(
        steps=STEPS[task, bits],
        batch_size=16,
        learning_rate=rate,
        warmup_share=0.1,
        clip_norm=1.0,
        precision="bfloat16",
    )


def chosen_rate(bits: str, task: str = "glosses") -> float:
    """The learning rate with which students without a teacher do best on validation texts: one for all arms and tasks."""
    kept = OUT / "rates.json"
    every: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    found = every.setdefault(bits, {})
    for rate in RATES[bits]:
        if str(rate) not in found:
            train, validation, _ = parts(task)
            _, run = train_one(task, bits, "no KD", 0, rate, train, validation=validation.take(0, 200))
            assert run.validation is not None
            found[str(rate)] = run.validation.nll_nats
            kept.write_text(json.dumps(every))
            print("rate", bits, rate, run.validation, flush=True)
    return min(RATES[bits], key=lambda rate: found[str(rate)])


def prepared(task: str, bits: str) -> tuple[nn.Module, nn.Module]:
    """The teacher, and the student made of it. Word embeddings are quantized, not trained: half the weights."""
    teacher, _ = fine_tuned(task)
    student = prepare(teacher, QUANTIZATIONS[bits], example=parts(task)[0].batch(0, 4)[0])
    student.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator]
    return teacher, student


def signal_of(task: str, teacher: nn.Module, train: Texts) -> TeacherSignal:
    """What the teacher says of the training texts, kept."""
    kept = OUT / task / f"said-{len(train)}.safetensors"
    if not kept.exists():
        save_file({"logits": signal_on(teacher, train.loader(), batch_size=64).logits}, kept)
    return TeacherSignal(load_file(kept)["logits"], train.labels)


def train_one(
    task: str, bits: str, arm: str, seed: int, rate: float, train: Texts, **held_out: Texts
) -> tuple[nn.Module, Run]:
    train = train.at_most(SHORT[task]).take(0, EXAMPLES[task, bits])
    teacher, student = prepared(task, bits)
    common: dict[str, Any] = {
        "training": training(task, bits, rate), "seed": seed, "arm": arm, "show": "nothing",
        **{name: texts.by_length().loader() for name, texts in held_out.items()},
    }  # fmt: skip
    if not ARMS[arm]:
        return distill(student, train.loader(), **common)
    source = Cached(signal_of(task, teacher, train), model=teacher)
    return distill(student, train.loader(), source, objective=Objective("kd", 1.0, 1.0), terms=ARMS[arm], **common)


def look(student: nn.Module, teacher: nn.Module, test: Texts) -> dict[str, Any]:
    return asdict(compare_maps(student, teacher, [test.batch(i, i + 32) for i in range(0, LOOKED_AT, 32)]))


def untrained(task: str, bits: str) -> None:
    """The two arms without training, and what each layer's quantization costs."""
    folder = OUT / task / bits
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "untrained.json").exists():
        return
    teacher, student = prepared(task, bits)
    _, validation, test = parts(task)
    test = test.take(0, TESTED[task])
    batches: list[tuple[Any, Tensor]] = [validation.batch(0, 32)]
    found = {
        "full precision": asdict(evaluate(teacher, test.by_length().loader())),
        "quantized without training": asdict(evaluate(student, test.by_length().loader())),
        "look": look(student, teacher, test),
        "sensitivity": layer_sensitivity(student, batches),
        "sensitivity of attention": layer_sensitivity(student, batches, part="attention"),
    }
    (folder / "untrained.json").write_text(json.dumps(found))
    print(task, bits, {name: f"{found[name]['accuracy']:.3f}" for name in list(found)[:2]}, flush=True)


def curvature(task: str, bits: str) -> None:
    """Sharpness of the task loss on 16 short training texts, of the students of seed 0; and which tokens are listened to."""
    folder = OUT / task / bits
    kept = (folder / "sharpness.json", folder / "norms.json")
    sharp, heard = (json.loads(p.read_text()) if p.exists() else {} for p in kept)
    texts = parts(task)[0].at_most(SHORT[task])
    inputs, labels = texts.batch(0, 16)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    groups = {"[CLS]": ids == 101, "[SEP]": ids == 102, "others": mask & (ids != 101) & (ids != 102)}
    for arm in ("full precision", "quantized without training", *ARMS):
        weights = folder / f"{arm.replace(' ', '-')}-0" / "student.safetensors"
        if arm in sharp or (arm in ARMS and not weights.exists()):
            continue
        teacher, student = prepared(task, bits)
        if arm in ARMS:
            student.load_state_dict(load_file(weights), strict=False)
        model = teacher if arm == "full precision" else student
        model.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator]
        sharp[arm] = top_eigenvalue(model, inputs, labels, steps=6)
        heard[arm] = [{g: asdict(n) for g, n in layer.items()} for layer in norm_analysis(model, inputs, groups)]
        model.requires_grad_(True)
        for path, found in zip(kept, (sharp, heard), strict=True):
            path.write_text(json.dumps(found))
        print(task, bits, "sharpness", arm, f"{sharp[arm]:.2f}", flush=True)


def trained(task: str, bits: str, arm: str, seed: int, rate: float) -> None:
    """One student, and what became of its attention; a finished one is left as it is."""
    folder = OUT / task / bits / f"{arm.replace(' ', '-')}-{seed}"
    if (folder / "look.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    start, spent = time.monotonic(), time.process_time()
    train, _, test = parts(task)
    test = test.take(0, TESTED[task])
    student, run = train_one(task, bits, arm, seed, rate, train, test=test)
    found = look(student, fine_tuned(task)[0], test)
    run.save(folder / "run.json")
    if not seed:  # 90 MB each; those of seed 0 are measured further
        save_file(student.state_dict(), folder / "student.safetensors")
    (folder / "look.json").write_text(json.dumps(found))
    seconds = f"{time.process_time() - spent:.0f} CPU-s, {time.monotonic() - start:.0f} s"
    print(f"{task} {bits} {run} ({seconds})", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    if "--write" not in sys.argv:
        cells = [(0, *ORDER[0]), (1, *ORDER[0]), (2, *ORDER[0])] + [
            (s, *cell) for s in range(SEEDS) for cell in ORDER[1:3]
        ]
        cells += [(s, *ORDER[3]) for s in range(SEEDS)]
        for seed, task, bits in cells:  # if the time runs out, the seeds are even
            untrained(task, bits)
            for arm in ARMS:
                trained(task, bits, arm, seed, chosen_rate(bits))
        for task, bits in ORDER:
            curvature(task, bits)
    if "--no-write" not in sys.argv:
        from quantized_results import write

        write(ORDER, ARMS, CLASSES)


if __name__ == "__main__":
    main()
