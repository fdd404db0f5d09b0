"""A packed student alone: what its file holds, how long it takes, and what it says; no training code is loaded.

    python bench/packed.py FOLDER [--full FOLDER_OF_A_TRANSFORMERS_MODEL] [--texts TEXTS.safetensors]

Latency: packed and full precision in turns, one thread, best and median of the repeats. `--full` is the model it was made from (its
weights, for the comparison of sizes and answers); without it a fresh one of the same architecture is timed. `--texts` holds ids,
mask, kinds and labels: then accuracy and agreement are measured too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate.models import load_packed

warnings.simplefilter("ignore")


def full_model(folder: Path, weights: Path | None) -> torch.nn.Module:
    import transformers

    content = json.loads((folder / "config.json").read_text())
    kind = getattr(transformers, content["architectures"][0])
    model = kind(kind.config_class.from_dict(content | {"attn_implementation": "sdpa"}))
    model.set_attn_implementation("sdpa")
    if weights is not None:
        model.load_state_dict(load_file(weights), strict=False)
    return model.eval()


def timed(
    models: dict[str, torch.nn.Module], inputs: dict[str, torch.Tensor], repeats: int
) -> dict[str, tuple[float, float]]:
    """Best and median milliseconds of each model, called in turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model(**inputs)
    for _ in range(repeats):
        for name, model in models.items():
            start = time.perf_counter()
            model(**inputs)
            times[name].append(time.perf_counter() - start)
    return {name: (1e3 * min(found), 1e3 * statistics.median(found)) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--full", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--limit", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = time.perf_counter()
    packed = load_packed(given.folder)
    print(f"loaded in {time.perf_counter() - start:.2f} s")
    full = full_model(given.folder, given.full)
    assert not [n for n in sys.modules if n.startswith(("fractionate.training", "fractionate.models.quantize"))]
    size = (given.folder / "packed.safetensors").stat().st_size
    whole = given.full.stat().st_size if given.full else sum(4 * p.numel() for p in full.parameters())
    print(f"file: {size / 1e6:.2f} MB packed, {whole / 1e6:.2f} MB full precision: {whole / size:.1f} times smaller")
    with torch.no_grad():
        for batch in (1, 16):
            ids = torch.randint(1000, 20000, (batch, given.tokens))
            found = timed({"full precision": full, "packed": packed}, {"input_ids": ids}, given.repeats)
            (a, b), (c, d) = found["full precision"], found["packed"]
            print(
                f"batch {batch} × {given.tokens} tokens, ms best / median: full {a:.1f} / {b:.1f}, packed {c:.1f} / {d:.1f}: "
                f"{a / c:.2f} / {b / d:.2f} times faster"
            )
        if given.texts:
            held = load_file(given.texts)
            entries = {"full precision": [], "packed": []}
            for i in range(len(held["labels"]) - given.limit, len(held["labels"]), 50):
                mask = held["mask"][i : i + 50]
                longest = int(mask.sum(1).max())
                inputs = {"input_ids": held["ids"], "attention_mask": held["mask"], "token_type_ids": held["kinds"]}
                cut = {name: part[i : i + 50, :longest] for name, part in inputs.items()}
                for name, model in (("full precision", full), ("packed", packed)):
                    entries[name].append(model(**cut).logits.argmax(1))
            answers = {name: torch.cat(parts) for name, parts in entries.items()}
            labels = held["labels"][-given.limit :]
            right = {name: float((a == labels).double().mean()) for name, a in answers.items()}
            agree = float((answers["packed"] == answers["full precision"]).double().mean())
            print(f"accuracy on {len(labels)} texts: {right}, agreement {agree:.3f}")


if __name__ == "__main__":
    main()
