"""For an environment whose torchvision was built for another torch: its networks and transforms run, its own operators do not.

    .venv-peers/bin/python bench/torchvision_operators.py     # `make peers` does this where torchvision cannot be imported

Such a torchvision fails at its first import, because its file of compiled operators does not load and the shapes of `nms` are
registered all the same; and whatever imports it where it is installed (timm, transformers, lightning) fails with it. Here the
operators are declared, without a kernel, just before torchvision is imported. Run as a program, this file puts itself and a line
that imports it into the site-packages of the Python it runs in: scripts and the processes they start need to know nothing of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

DECLARED = ("nms", "qnms")


class BeforeTorchvision(MetaPathFinder):
    """Finds nothing; the first time torchvision is looked for, it declares its operators."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.kept = torch.library.Library("torchvision", "DEF")  # what it declares is gone with it
            for name in DECLARED:
                self.kept.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def install() -> None:
    """This file and a `.pth` with it, into the site-packages of this Python."""
    import shutil
    import sysconfig
    from pathlib import Path

    folder, name = Path(sysconfig.get_path("purelib")), Path(__file__).stem
    shutil.copyfile(__file__, folder / f"{name}.py")
    (folder / f"{name}.pth").write_text(f"import {name}\n")
    print(f"torchvision's operators are declared in {folder}")


if __name__ == "__main__":
    install()
else:
    finder = BeforeTorchvision()
    sys.meta_path.insert(0, finder)
