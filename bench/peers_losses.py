"""The conformance suite run on published packages: each adapter turns one into loss(student, teacher, labels, temperature).

    python -m venv peers && peers/bin/pip install torch==2.13.0
    peers/bin/pip install --no-deps torchdistill==1.1.5 trl==1.16.0 liger-kernel==0.8.5 axolotl==0.19.0 nvidia-modelopt==0.47.0 \
        textbrewer==0.2.1.post1 KD_Lib==0.0.32
    peers/bin/pip install transformers accelerate datasets peft addict fire colorama requests tensorboard matplotlib scikit-learn \
        pulp omegaconf nvidia-ml-py jaxtyping pydantic safetensors xxhash ruamel.yaml rich typer
    PYTHONPATH=src peers/bin/python bench/peers_losses.py docs/evidence/peers-conformance.md

The request is always the same: the soft term alone, at a given temperature, with the defaults the package offers for all else.
A package that does not import is listed with the reason.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch.nn import functional

from fractionate.plugins.conformance import Conformance, Subject, conformance, table

warnings.simplefilter("ignore")
PEERS: dict[str, Callable[[], Subject]] = {}


def shim_torchvision():
    """torchvision's wheel looks for operators that a CPU build of torch lacks; two empty ones let it import."""
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def peer(package):
    def add(adapter):
        PEERS[f"{package}: {adapter.__doc__}"] = adapter
        return adapter

    return add


def plain(s, t, y, T):
    """T² · kl_div(log_softmax, softmax).sum(1).mean(): the form of mdistiller and RepDistiller, which are not packages."""
    soft = functional.kl_div(torch.log_softmax(s / T, 1), torch.softmax(t / T, 1), reduction="none")
    return T**2 * soft.sum(1).mean()


@peer("torch")
def plain_pytorch():
    """plain kl_div"""
    return Subject("plain form", plain)


@peer("torchdistill")
def torchdistill_kd():
    """KDLoss(alpha=0)"""
    from torchdistill.losses.mid_level import KDLoss

    def loss(s, t, y, T):
        return KDLoss("m", "out", "m", "out", T, alpha=0.0)({"m": {"out": s}}, {"m": {"out": t}}, y)

    return Subject("", loss)


@peer("torchdistill")
def torchdistill_kd_mixed():
    """KDLoss(alpha=1e-12)"""
    from torchdistill.losses.mid_level import KDLoss

    def loss(s, t, y, T):
        return KDLoss("m", "out", "m", "out", T, alpha=1e-12)({"m": {"out": s}}, {"m": {"out": t}}, y)

    return Subject("", loss)


@peer("torchdistill")
def torchdistill_standardised():
    """LogitStdKDLoss(alpha=1e-12, beta=1)"""
    from torchdistill.losses.mid_level import LogitStdKDLoss

    def loss(s, t, y, T):
        return LogitStdKDLoss("m", "out", "m", "out", T, alpha=1e-12, beta=1.0)({"m": {"out": s}}, {"m": {"out": t}}, y)

    return Subject("", loss)


@peer("torchdistill")
def torchdistill_dist():
    """DISTLoss"""
    from torchdistill.losses.mid_level import DISTLoss

    def loss(s, t, y, T):
        return DISTLoss("m", "out", "m", "out", tau=T)({"m": {"out": s}}, {"m": {"out": t}})

    return Subject("", loss, splits=False, scaled=False)


@peer("nvidia-modelopt")
def modelopt_default():
    """LogitsDistillationLoss()"""
    from modelopt.torch.distill.losses import LogitsDistillationLoss

    return Subject("", lambda s, t, y, T: LogitsDistillationLoss(temperature=T)(s, t))


@peer("nvidia-modelopt")
def modelopt_batchmean():
    """LogitsDistillationLoss(reduction="batchmean")"""
    from modelopt.torch.distill.losses import LogitsDistillationLoss

    return Subject("", lambda s, t, y, T: LogitsDistillationLoss(temperature=T, reduction="batchmean")(s, t))


@peer("textbrewer")
def textbrewer_ce():
    """kd_ce_loss"""
    from textbrewer.losses import kd_ce_loss

    return Subject("", lambda s, t, y, T: kd_ce_loss(s, t, T))


@peer("textbrewer")
def textbrewer_mse():
    """kd_mse_loss"""
    from textbrewer.losses import kd_mse_loss

    return Subject("", lambda s, t, y, T: kd_mse_loss(s, t, T))


def kd_lib(loss_fn):
    # the packages above the module import torchtext, which has no build for this torch; the module itself needs none
    root = Path(find_spec("KD_Lib").submodule_search_locations[0])
    for name in ("KD", "KD/vision", "KD/vision/vanilla"):
        module = sys.modules.setdefault(f"KD_Lib.{name}".replace("/", "."), ModuleType(name))
        module.__path__ = [str(root / name)]
    from KD_Lib.KD.vision.vanilla.vanilla_kd import VanillaKD

    def loss(s, t, y, T):
        kd = object.__new__(VanillaKD)  # its constructor wants models, loaders and optimisers
        kd.temp, kd.distil_weight, kd.loss_fn = T, 1.0, loss_fn
        return kd.calculate_kd_loss(s, t, y)

    return Subject("", loss)


@peer("KD_Lib")
def kd_lib_default():
    """VanillaKD()"""
    return kd_lib(torch.nn.MSELoss())


@peer("KD_Lib")
def kd_lib_kl():
    """VanillaKD(loss_fn=KLDivLoss())"""
    return kd_lib(torch.nn.KLDivLoss())


def trl_jsd(beta):
    from trl.experimental.gkd import GKDTrainer

    def loss(s, t, y, T):
        return GKDTrainer.generalized_jsd_loss(s[None], t[None], labels=y[None], beta=beta, temperature=T)

    return Subject("", loss, padding=True)


@peer("trl")
def trl_forward():
    """GKDTrainer.generalized_jsd_loss(beta=0)"""
    return trl_jsd(0.0)


@peer("trl")
def trl_half():
    """GKDTrainer.generalized_jsd_loss(beta=0.5)"""
    return trl_jsd(0.5)


@peer("trl")
def trl_chunked():
    """ChunkedDivergenceFunction(beta=0)"""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def loss(s, t, y, T):
        heads = (torch.eye(x.shape[1], dtype=x.dtype) for x in (s, t))
        return ChunkedDivergenceFunction.apply(s, next(heads), None, t, next(heads), None, 0.0, T)[0].mean()

    return Subject("", loss, exact=False, masks=False)


@peer("trl")
def trl_bucket():
    """server_distillation: _jsd_divergence(beta=0) with _add_tail_bucket"""
    from trl.experimental.server_distillation import server_distillation_trainer as server

    def loss(s, t, y, T, k=None):
        log_p, ids = torch.log_softmax(t / T, 1).topk(k or t.shape[1] - 1, 1)
        log_q = torch.log_softmax(s / T, 1).gather(1, ids)
        (p, known), (q, _) = (
            server._add_tail_bucket(x, torch.ones_like(ids, dtype=torch.bool)) for x in (log_p, log_q)
        )
        return server._jsd_divergence(q, p, 0.0, known).sum(1).mean()

    return Subject("", loss, topk=loss, exact=False)


def liger_jsd(beta, rows=1024):
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    def loss(s, t, y, T):
        heads = [torch.eye(x.shape[1], dtype=x.dtype) for x in (s, t)]
        jsd = LigerFusedLinearJSDLoss(0.0, 1.0, beta=beta, temperature=T, compiled=False, chunk_size=rows)
        return jsd(s, heads[0], t, heads[1], y)

    return loss


@peer("liger_kernel")
def liger_forward():
    """LigerFusedLinearJSDLoss(beta=0)"""
    return Subject(
        "", liger_jsd(0.0), chunked=lambda rows: liger_jsd(0.0, rows), padding=True, masks=False, exact=False
    )


@peer("liger_kernel")
def liger_half():
    """LigerFusedLinearJSDLoss(beta=0.5)"""
    return Subject(
        "", liger_jsd(0.5), chunked=lambda rows: liger_jsd(0.5, rows), padding=True, masks=False, exact=False
    )


def axolotl_kernel(rows=1024, k=None, normalize=True):
    from axolotl.integrations.kd.kernels.liger import LigerFusedLinearKLTopKLogprobLoss

    def loss(s, t, y, T, k=k):
        log_p, ids = torch.log_softmax(t / T, 1).topk(k or t.shape[1], 1)
        log_p = torch.log_softmax(log_p, 1)  # its documentation asks for renormalised entries
        kd = LigerFusedLinearKLTopKLogprobLoss(0.0, 1.0, T, 0.0, -100, False, rows, False, normalize)
        head, known = torch.eye(s.shape[1], dtype=s.dtype), torch.ones_like(ids)
        return kd(head, s[None], ids[None], log_p[None], known[None], y[None])

    return loss


@peer("axolotl")
def axolotl_fused():
    """LigerFusedLinearKLTopKLogprobLoss(beta=0)"""
    return Subject("", axolotl_kernel(), chunked=axolotl_kernel, topk=axolotl_kernel(), exact=False, masks=False)


@peer("axolotl")
def axolotl_plain():
    """topk_logprob.forward_kl"""
    from axolotl.integrations.kd.topk_logprob.forward_kl import loss as forward_kl

    def loss(s, t, y, T, k=None):
        log_p, ids = torch.log_softmax(t / T, 1).topk(k or t.shape[1], 1)
        log_p = torch.log_softmax(log_p, 1)  # its documentation asks for renormalised entries
        known = torch.ones_like(ids)
        return forward_kl(s[None], ids[None], log_p[None], known[None], num_items_in_batch=len(s), kd_temperature=T)

    return Subject("", loss, topk=loss, exact=False)


def measure() -> tuple[list[Conformance], list[str]]:
    """Every peer that imports, and the reasons of those that do not."""
    records, missing = [], []
    for label, adapter in PEERS.items():
        package = label.split(":")[0]
        try:
            subject = adapter()
            number = version(package.replace("_", "-"))
        except (ImportError, PackageNotFoundError, AttributeError, RuntimeError) as error:
            missing.append(f"{label}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        records.append(conformance(subject, name=f"{package} `{label.split(': ', 1)[1]}`", version=number))
    return records, missing


PAGE = """# Conformance of published losses

What the losses of published packages compute when all of them get the same request: the soft term of distillation alone, at
the given temperature, all else at the defaults. Measured by `fractionate.plugins.conformance` (float64, CPU), not read from
documentation; every adapter is in `bench/peers_losses.py` and at most ten lines. This page is the output of

    PYTHONPATH=src python bench/peers_losses.py docs/evidence/peers-conformance.md

A **no** is a difference from the question in the column's head, not a verdict: a package may leave out T² because its
recipes weigh the term otherwise, a sum over tokens is normalised elsewhere in a trainer, and many trainers convert to float32
before they call their loss, which the columns *finiteness* and *precision* do not see. The table says what somebody who calls
the function will get. *gradient ×* is the size of the gradient relative to `T² · D / batch` at T = 4 and 100 classes, D the
divergence named under *computes*; *T in gradient* is the power of T by which the gradient exceeds that of D itself: 2 with the
factor T², 0 without. *refuses* is an error in place of a number, *–* a question that does not apply.

{peers}

## What differs, with its number

{faults}

## Not measured

{missing}

## Ours, by the same suite

{ours}

## The questions

{questions}

torch {torch}, threads: 1.
"""


def page(records, missing, ours):
    faults = [
        f"- {record.name} {record.version}\n"
        + "\n".join(f"    - {c.question}: {c.note or format(c.value, '.3g')}" for c in record.faults)
        for record in records
        if record.faults
    ]
    questions = [f"- **{check.name}**: {check.question}" for check in ours[0].checks]
    return PAGE.format(
        peers=table(records),
        faults="\n".join(faults),
        missing="\n".join(f"- {line}" for line in [*missing, *NOT_INSTALLABLE]) or "- nothing",
        ours=table(ours),
        questions="\n".join(questions),
        torch=torch.__version__,
    )


NOT_INSTALLABLE = (
    "mdistiller, RepDistiller, MiniLLM, DistiLLM, DSKD: research repositories, not published as packages (the *plain form* row is "
    "the formula of the first two)",
    "DistillKit: not on the package index",
    "torchtune: its losses carry no temperature; the package is no longer maintained",
)


def main(out: str | None) -> None:
    from fractionate.losses.divergences import divergences

    torch.set_num_threads(1)
    library = shim_torchvision()
    records, missing = measure()
    ours = [conformance(name) for name in divergences]
    for record in records:
        print(record, end="\n\n")
    print("\n".join(missing))
    if out:
        Path(out).write_text(page(records, missing, ours), encoding="utf-8")
    del library


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
