"""The matrix of libraries: each pair of the table with the tests that hold it, run here, offline.

    make peers     # an environment with timm, torchvision and TRL, and this in it
    .venv-peers/bin/python bench/interop.py

Fails unless every pair is green. The table is written only where nothing was skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "accelerate", "datasets", "trl", "lightning", "efficientnet-lite-pytorch",
)  # fmt: skip
FORMS = "test_adapters.py::test_outputs_of_every_form_teach_the_same"


@dataclass(frozen=True)
class Pair:
    """A row: who teaches whom, what is checked of it, and by which tests (files under tests/, or single tests)."""

    name: str
    models: str
    checked: str
    tests: Sequence[str]


MATRIX = (
    Pair(
        "plain module", "an MLP → an MLP", "distil; the objective in one's own loop, until the student agrees with its teacher",
        ("test_interop.py::test_a_plain_module_is_enough", "test_adapters.py::test_a_plain_loop_takes_one_line"),
    ),
    Pair(
        "timm", "`resnet18` → `mobilenetv3_small_050`", "by name; distil; a wrong name is answered with the nearest",
        ("test_interop.py::test_networks_by_name[timm-resnet18-mobilenetv3_small_050]",),
    ),
    Pair(
        "torchvision", "`resnet18` → `mobilenet_v3_small`", "by name; distil; a wrong name is answered with the nearest",
        ("test_interop.py::test_networks_by_name[torchvision-resnet18-mobilenet_v3_small]",),
    ),
    Pair(
        "a package's own network", "EfficientNet-Lite0, pretrained → a CNN", "distil over its 1,000 classes",
        ("test_interop.py::test_efficientnet_lite_teaches_a_cnn",),
    ),
    Pair(
        "Hugging Face classifier", "MiniLM, pretrained → a small BERT; BERT → BERT, sequences and tokens",
        "distil on `attention_mask` and `labels`; validation accuracy above 0.9",
        ("test_interop.py::test_minilm_teaches_a_small_bert", "test_adapters.py::test_hugging_face_classifiers_distil"),
    ),
    Pair(
        "Hugging Face causal LM", "SmolLM2-135M, pretrained → a small Llama; Llama → Llama",
        "ModelOutput, tokens shifted once, distilled accuracy above 0.95",
        (
            "test_interop.py::test_smollm2_teaches_a_small_llama", "test_adapters.py::test_a_causal_language_model_distils",
            "test_adapters.py::test_next_tokens_are_shifted_once", f"{FORMS}[ModelOutput]",
        ),
    ),
    Pair(
        "Lightning module", "an MLP → a LightningModule", "a callback, and the module as before afterwards; it distils as a module",
        ("test_adapters.py::test_lightning_with_one_changed_line",),
    ),
    Pair("tuple output", "an MLP in a wrapper", "the same student as without the wrapper", (f"{FORMS}[tuple]", f"{FORMS}[list]")),
    Pair(
        "multiple heads", "an MLP in a wrapper", "by place, name or function: the same student as without the wrapper",
        (f"{FORMS}[second head]", f"{FORMS}[named head]", f"{FORMS}[head by function]"),
    ),
    Pair(
        "Hugging Face Trainer", "BERT → BERT", "the mixin, online teacher and stored signal; items counted over micro-batches",
        (
            "test_adapters.py::test_hugging_face_trainer_with_three_changed_lines",
            "test_adapters.py::test_the_mixin_counts_items_over_the_whole_step",
        ),
    ),
    Pair(
        "TRL", "SmolLM2-135M, pretrained → a small Llama; Llama → Llama",
        "the mixin in SFTTrainer: on labels TRL's own losses and weights (completions, packing, padding-free, accumulation), "
        "packed documents apart, two processes as one; in GKDTrainer on the student's own text",
        ("test_trl.py",),
    ),
    Pair(
        "`accelerate launch`", "an MLP on 2 processes", "the student and the metrics of one process",
        ("test_engine_world.py::test_accelerate_launch",),
    ),
    Pair(
        "torchrun, 2 × gloo", "an MLP on 2 processes", "DDP and FSDP2 end at the student of one process; a killed process, and on",
        (
            "test_engine_world.py::test_torchrun_and_a_lost_process", "test_engine_world.py::test_two_copies_train_as_one",
            "test_engine_world.py::test_two_shards_train_as_one",
        ),
    ),
)  # fmt: skip


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Heard:
    """A pytest plugin that keeps what came of each test."""

    outcomes: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.removeprefix("tests/")
        if report.skipped:
            self.outcomes[name] = f"skipped: {report.longrepr[2]}" if isinstance(report.longrepr, tuple) else "skipped"
        elif report.failed:
            self.outcomes[name] = "failed"
        elif report.when == "call":
            self.outcomes.setdefault(name, "passed")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            self.outcomes[report.nodeid.removeprefix("tests/")] = f"{report.outcome}: {reason}".rstrip(": ")

    def of(self, pair: Pair) -> list[str]:
        """What came of a pair's tests: those named, and those in the files or parametrised functions named."""
        return [
            outcome
            for name, outcome in self.outcomes.items()
            if any(name == test or name.startswith((f"{test}::", f"{test}[")) for test in pair.tests)
        ]


def verdict(outcomes: Sequence[str]) -> str:
    """Green where something ran and all of it passed; otherwise the first outcome that is not a pass."""
    other = next((outcome for outcome in outcomes if outcome != "passed"), None if outcomes else "not found")
    return other or f"green, {len(outcomes)} {'test' if len(outcomes) == 1 else 'tests'}"


def versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def main() -> None:
    """Run the tests of all pairs in one go, print the table, write it where it is whole."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    heard = Heard()
    named = dict.fromkeys(f"tests/{test}" for pair in MATRIX for test in pair.tests)
    pytest.main(["-q", *named], plugins=[heard])
    results = [(pair, verdict(heard.of(pair))) for pair in MATRIX]
    lines = [
        "# The matrix of libraries", "",
        "`make peers` (which runs `python bench/interop.py` in `.venv-peers`), offline, on the CPU. `make test` runs the same",
        "tests but those of timm and torchvision, and of the pretrained models unless `make interop` has fetched them.", "",
        f"{versions()}.", "",
        "| pair | teacher → student | what is checked | result |", "|---|---|---|---|",
        *(f"| {pair.name} | {pair.models} | {pair.checked} | {result} |" for pair, result in results), "",
        "torchvision is built for another torch here: its networks run, its own operators (`nms`) do not; see",
        "[the decision](../../docs/decisions/0063-an-environment-for-torchvision.md).", "",
    ]  # fmt: skip
    print("\n".join(lines))
    if any("skipped" in result or result == "not found" for _, result in results):
        print("something was skipped: the table was not written")
    else:
        (ROOT / "bench" / "results" / "interop.md").write_text("\n".join(lines))
    sys.exit(0 if all(result.startswith("green") for _, result in results) else 1)


if __name__ == "__main__":
    main()
