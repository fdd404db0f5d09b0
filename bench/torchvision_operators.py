"""For an environment whose torchvision was built for another torch: its networks and transforms run, its own operators do not.

Such a torchvision fails at its first import, because its file of compiled operators does not load and the shapes of `nms` are
registered all the same; and whatever imports it where it is installed (timm, transformers, lightning) fails with it. Here the
operators are declared, without a kernel, just before torchvision is imported. `make peers` puts this module and a line that imports
it into the site-packages of `.venv-peers`, so that scripts and the processes they start need to know nothing of it.
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

            self.kept = torch.library.Library("torchvision", "DEF")  # gone with the library, so it is kept
            for name in DECLARED:
                self.kept.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


finder = BeforeTorchvision()
sys.meta_path.insert(0, finder)
