"""CIFAR-100, ResNet-56 → ResNet-20, the pair of Tang et al. (arXiv 2002.03532): what the teacher knows, which part pays, a student.

    python recipes/cifar100.py cifar-100-binary [--teacher resnet56.safetensors] [--workers 2]

The folder holds the binary version (https://www.cs.toronto.edu/~kriz/cifar.html), or what `datasets` saved. Teacher and student
are trained by the recipe that papers compare with (Tian et al., arXiv 1910.10699): SGD 0.05, a tenth at 150, 180 and 210 of 240
epochs, weight decay 5e-4, batch 64, shifts and mirrors; KD at T = 4 with weight 0.9. There the teacher has 72.3 % and the student
69.1 % alone, 70.7 % with KD, as that recipe's authors report. The study trains on plain pictures from the stored signal, on a share
of the data, where levels separate, with settings tuned for each arm. Not run here on the real data: it needs a GPU (--device cuda).
"""

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file

from fractionate import Objective, Recipe, collect, diagnose, dissect, distill, report
from fractionate.data import cifar100
from fractionate.models import models
from fractionate.records import Training, Tuning

CELLS = (
    "hard", "ls", "class-mean", "kd-sim", "kd-pt", "kd-pt+sim", "kd-topk(25)", "kd",
    "kd-pt-shuffled-within-class", "class-mean-permuted", "kd-sim-permuted",
)  # fmt: skip
MOVED = ("augment(crop=4, flip=True)",)


def main(arguments: list[str] | None = None) -> None:
    """The five verbs on CIFAR-100."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="cifar-100-binary, or a folder saved by datasets")
    parser.add_argument(
        "--teacher", help="weights of the teacher (.safetensors, torchvision's names); none: trained here"
    )
    parser.add_argument(
        "--models", nargs=2, default=["resnet_cifar(56)", "resnet_cifar(20)"], metavar=("TEACHER", "STUDENT")
    )
    parser.add_argument("--epochs", type=float, default=240)
    parser.add_argument("--share", type=float, default=0.1, help="of the data, for the study")
    parser.add_argument("--cells", nargs="+", default=CELLS, help="of the study")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", default="1", help="processes of the study, or ray")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="runs/cifar100")
    asked = parser.parse_args(arguments)
    out = Path(asked.out)
    data = cifar100(asked.folder)
    transfer, validation = data.train.split(len(data.train) * 9 // 10, len(data.train) // 10, seed=0)
    training = Training(
        epochs=asked.epochs, batch_size=64, learning_rate=0.05, optimizer="sgd", weight_decay=5e-4, schedule="tenths"
    )
    shape, classes = data.train.inputs.shape[1:], data.train.classes
    teacher = models[asked.models[0]](shape, classes).to(asked.device)
    kept = Path(asked.teacher) if asked.teacher else out / "teacher.safetensors"
    if kept.exists():
        teacher.load_state_dict(load_file(kept))
    else:
        recipe = Recipe(training=training, data=MOVED)
        distill(teacher, transfer, recipe=recipe, validation=validation, test=data.test, out=out / "teacher")
        save_file(teacher.state_dict(), kept)
    teacher.eval()

    store = collect(teacher, transfer, out / "store", device=asked.device)
    diagnosis = diagnose(store, lambda: models[asked.models[1]](shape, classes), data=transfer, name="CIFAR-100")
    study = dissect(
        lambda: models[asked.models[1]](shape, classes),
        transfer,
        store.signal(),
        cells=asked.cells,
        share=(asked.share,),
        seeds=asked.seeds,
        training=training,
        tune=Tuning(temperatures=(1.0, 4.0), teacher_weights=(0.5, 0.9), learning_rates=(0.02, 0.05)),
        validation=validation,
        test=data.test,
        test_signal=collect(teacher, data.test, out / "store-test", device=asked.device).signal(),
        superclasses=data.superclasses,
        workers=int(asked.workers) if asked.workers.isdigit() else asked.workers,
        device=asked.device,
        out=out / "study",
        name="CIFAR-100, ResNet-56 → ResNet-20",
    )
    _, run = distill(
        models[asked.models[1]](shape, classes).to(asked.device),
        transfer,
        teacher,  # run again on every moved picture, as the yardstick does
        recipe=Recipe(objective=Objective("kd", temperature=4.0, teacher_weight=0.9), training=training, data=MOVED),
        validation=validation,
        test=data.test,
        out=out / "student",
    )
    print(diagnosis, study, run, report([diagnosis, study, run], out / "report.html"), sep="\n\n")


if __name__ == "__main__":
    main()
