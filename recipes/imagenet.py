"""ImageNet, ResNet-152 → ResNet-50, the pair of Tang et al. (arXiv 2002.03532): what the teacher knows, a student, which part pays.

    python recipes/imagenet.py FOLDER --teacher resnet152.safetensors --device cuda [--pictures 20]

The folder holds train/CLASS/*.JPEG and val/CLASS/*.JPEG. The teacher's weights carry torchvision's names. The signal is stored as
the label and 50 entries with the exact rest (about 0.3 GB for ImageNet), and diagnosed. The student is trained with the online
teacher on random parts of the pictures. Settings are those of the published training of He et al. (arXiv 1512.03385): 90 epochs
of 256, SGD with plain momentum 0.9, rate 0.1 and a tenth of it at 30 and 60, weight decay 1e-4; those of the paper are not known
to us. `timeout 590` in front of the command gives a piece of ten minutes: the same command resumes inside the training. `--pictures
N` adds a study on N pictures a class in memory. Not run here on the real data.
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file
from torch.utils.data import DataLoader

from fractionate import Objective, collect, diagnose, dissect, distill, report
from fractionate.data import PictureFolder, random_view
from fractionate.models import models
from fractionate.records import Training

CELLS = ("hard", "ls", "class-mean", "kd-sim", "kd-pt", "kd", "kd-pt-shuffled-within-class", "class-mean-permuted")


def main(arguments: list[str] | None = None) -> None:
    """The five verbs on ImageNet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with train/CLASS/ and val/CLASS/")
    parser.add_argument("--teacher", required=True, help="weights of the teacher (.safetensors)")
    parser.add_argument(
        "--models",
        nargs=2,
        default=["torchvision('resnet152')", "torchvision('resnet50')"],
        metavar=("TEACHER", "STUDENT"),
    )
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--entries", type=int, default=50, help="kept of the teacher's distribution")
    parser.add_argument("--epochs", type=float, default=90)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--readers", type=int, default=8, help="processes that read pictures")
    parser.add_argument("--pictures", type=int, default=0, help="of a class, for the study; 0: no study")
    parser.add_argument("--cells", nargs="+", default=CELLS, help="of the study")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", default="1", help="processes of the study, or ray")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/imagenet"))
    options = parser.parse_args(arguments)
    still, test = (PictureFolder(options.folder / part, options.side) for part in ("train", "val"))
    moving = PictureFolder(options.folder / "train", options.side, random_view)
    shape, classes = (3, options.side, options.side), len(still.classes)
    teacher = models[options.models[0]](shape, classes)
    teacher.load_state_dict(load_file(options.teacher))
    teacher = teacher.to(options.device).eval()

    def loader(part: PictureFolder) -> DataLoader:
        return DataLoader(part, batch_size=options.batch, num_workers=options.readers)

    form = {"form": "top-k", "k": options.entries, "dtype": "float16"} if options.entries < classes else {}
    store = collect(
        teacher, loader(still), options.out / "store", device=options.device, batch_size=options.batch, **form
    )
    diagnosis = diagnose(store, lambda: models[options.models[1]](shape, classes), name="ImageNet")
    _, run = distill(
        models[options.models[1]](shape, classes).to(options.device),
        loader(moving),
        teacher,
        objective=Objective("kd", temperature=1.0, teacher_weight=0.5),
        training=Training(
            epochs=options.epochs,
            batch_size=options.batch,
            learning_rate=0.1 * options.batch / 256,
            optimizer="momentum",
            weight_decay=1e-4,
            schedule="thirds",
        ),
        test=loader(test),
        out=options.out / "student",
    )
    records = [diagnosis, run]
    if options.pictures:
        part = PictureFolder(options.folder / "train", options.side, most=options.pictures).examples()
        seen = PictureFolder(options.folder / "val", options.side, most=options.pictures).examples()
        study = dissect(
            lambda: models[options.models[1]](shape, classes),
            part,
            collect(teacher, part, options.out / "store-study", device=options.device).signal(),
            cells=options.cells,
            seeds=options.seeds,
            training=Training(
                epochs=options.epochs, batch_size=64, learning_rate=0.02, optimizer="momentum", weight_decay=1e-4
            ),
            test=seen,
            device=options.device,
            workers=int(options.workers) if options.workers.isdigit() else options.workers,
            out=options.out / "study",
            name="ImageNet, ResNet-152 → ResNet-50",
        )
        records.insert(1, study)
    print(*records, report(records, options.out / "report.html"), sep="\n\n")


if __name__ == "__main__":
    main()
