"""Seeds bugs one after another into a copy of the package and runs the tests of the part on each. Fails if one survives.

    python bench/seeded_bugs.py            # eight to twelve minutes; writes bench/results/seeded_bugs.md
    python bench/seeded_bugs.py --only T²  # the bugs whose name holds this text; writes nothing

Run it monthly, and after changes to the kernel: a seed whose place in the source is gone is reported as stale, which is a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "seeded_bugs.md"
LEDGER = ROOT / "runs" / "seeded_bugs.json"  # verdicts so far, so that a run that was stopped resumes
STALE = "**stale: its place is gone**"
TESTS = (
    "test_cells", "test_objective_kernel", "test_rescaling", "test_spectrum_kernel", "test_signal", "test_bad_input_kernel",
    "test_registry", "test_records", "test_data_examples",
)  # fmt: skip


FIRST = {  # where a file's bugs should show; the other tests run after it
    "losses/objective.py": "test_objective_kernel",
    "losses/divergences/likelihood.py": "test_objective_kernel",
    "system/registry.py": "test_registry",
    "theory/spectrum/stream.py": "test_spectrum_kernel", "records/base.py": "test_records",
    "data/examples.py": "test_data_examples",
    "losses/kernels/onepass.py": "test_objective_kernel", "theory/softmax.py": "test_objective_kernel",
    # parts beyond the kernel have their own tests, and only these run
    "losses/kernels/sparse.py": "test_sparse_losses", "training/step.py": "test_sparse_losses",
    "losses/kernels/vocabulary.py": "test_vocabulary", "losses/kernels/tail_mass.py": "test_vocabulary",
    "losses/divergences/ranking.py": "test_ranking", "models/quantize.py": "test_quantizers",
    "losses/terms/explanations.py": "test_explanation_terms", "losses/terms/features.py": "test_terms",
    "losses/terms/attention.py": "test_attention", "losses/terms/passes.py": "test_passes",
    "training/memory.py": "test_engine_memory",
    "training/recompute.py": "test_engine_memory",
}  # fmt: skip


@dataclass(frozen=True)
class Bug:
    """A change of some text in one file under src/fractionate, each text there exactly once."""

    name: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: str = ""  # where it should show, if not where the file's others do


BUGS = (
    Bug("softmax over the examples", "theory/teacher_signal.py", (
        ("return torch.softmax(self.tempered_logits, dim=-1)", "return torch.softmax(self.tempered_logits, dim=0)"),)),
    Bug("T in place of T²", "losses/objective.py", (("self.temperature**2 if self.scaled", "self.temperature if self.scaled"),)),
    Bug("hard term tempered too", "losses/divergences/likelihood.py", (
        ('student = exponents(student_logits, 1.0, "student")\n    own_exponent',
         'student = exponents(student_logits, 2.0, "student")\n    own_exponent'),)),
    Bug("student not tempered in the cross-entropy", "losses/divergences/likelihood.py", (
        ('student = exponents(student_logits, target.temperature, "student")\n        p = target.masses("target")\n        cross',
         'student = exponents(student_logits, 1.0, "student")\n        p = target.masses("target")\n        cross'),)),
    Bug("direction of KL swapped", "losses/divergences/likelihood.py", (
        ('@divergences.register("forward-kl")', '@divergences.register("a-kl")'),
        ('@divergences.register("reverse-kl")', '@divergences.register("forward-kl")'),
        ('@divergences.register("a-kl")', '@divergences.register("reverse-kl")'),)),
    Bug("weights of label and teacher exchanged", "losses/objective.py", (
        ("return self.teacher_weight * (self.temp", "return (1 - self.teacher_weight) * (self.temp"),)),
    Bug("statistics of the batch, not of the data", "theory/teacher_signal.py", (
        ("return self.population.stats(self.temperature, self.logits.device)",
         "return Population(self.logits, self.labels).stats(self.temperature)"),)),
    Bug("a batch forgets its places in the data", "theory/teacher_signal.py", (
        ("labels=self.labels[index], rows=self.rows[index])", "labels=self.labels[index], rows=self.rows[: len(index)])"),)),
    Bug("class means divided by all examples", "theory/teacher_signal.py", (
        ("sums.div_(counts[:, None])", "sums.div_(examples)"),)),
    Bug("teacher's gradient not cut", "theory/teacher_signal.py", (("self.logits.detach())", "self.logits)"),)),
    Bug("half precision computed in half precision", "theory/teacher_signal.py", (
        ("return torch.float64 if dtype == torch.float64 else torch.float32", "return dtype"),)),
    Bug("a label of K accepted among K classes", "theory/teacher_signal.py", (("(labels >= classes)", "(labels > classes)"),)),
    Bug("label not excluded from the shape", "theory/shape.py", (
        ("kept = torch.where(others, mass, 0.0)", "kept = torch.where(~torch.isneginf(signal.logits), mass, 0.0)"),)),
    Bug("shape by division by 1 - confidence", "theory/shape.py", (
        ("return spread(signal, torch.softmax(signal.tempered_logits.masked_fill(~signal.others, -torch.inf), dim=-1))",
         "return signal.probabilities.scatter(1, signal.labels[:, None], 0.0) / (1 - signal.confidence[:, None])"),)),
    Bug("masked classes get mass", "theory/teacher_signal.py", (
        ("allowed = ~torch.isneginf(self.logits)", "allowed = torch.ones_like(self.logits, dtype=torch.bool)"),)),
    Bug("top k counted without the label", "theory/confidence.py", (
        ("signal.tempered_logits.topk(count, dim=1)",
         "signal.tempered_logits.masked_fill(~signal.others, -torch.inf).topk(count, dim=1)"),)),
    Bug("the label outside the top k keeps its own mass", "theory/shape.py", (
        ("return torch.where(inside, flat, outside)", "return flat"),)),
    Bug("permutation that renames nothing", "theory/shape.py", (("renamed[order] = order.roll(1)", "renamed[order] = order"),)),
    Bug("confidences not shuffled", "theory/confidence.py", (
        ("signal.stats.confidence[shuffle(signal.stats, self.seed)[_rows(signal)]]", "signal.confidence"),)),
    Bug("shuffled over all classes, not within", "theory/confidence.py", (
        ("donors = order[torch.argsort(labels[order], stable=True)]", "donors = order"),)),
    Bug("label smoothing of another convention", "theory/confidence.py", (
        ("1 - self.epsilon + self.epsilon / signal.classes", "1 - self.epsilon"),)),
    Bug("negative cosines count as related", "theory/confidence.py", (
        ("relation.double().clamp_min(0)", "relation.double().abs()"),)),
    Bug("class shares dropped from the spectrum", "theory/spectrum/stream.py", (
        ("share = counts / counts.sum()", "share = torch.ones_like(counts) / len(counts)"),)),
    Bug("class shares in float32", "theory/spectrum/stream.py", (
        ("share = counts / counts.sum()", "share = (counts.float() / counts.sum().float()).double()"),)),
    Bug("flat shape over all classes in the spectrum", "theory/spectrum/stream.py", (
        ("flat = math.log(classes - 1)", "flat = math.log(classes)"),)),
    Bug("rescaling multiplied by T where it is divided", "losses/objective.py", (
        ("strength = objective.soft_scale / objective.temperature", "strength = objective.soft_scale * objective.temperature"),)),
    Bug("rescaling with the untempered student", "losses/objective.py", (
        ("tempered = torch.softmax(logits / objective.temperature, dim=-1)", "tempered = torch.softmax(logits, dim=-1)"),)),
    Bug("arguments in names evaluated", "system/registry.py", (
        ("arguments = [_plain(ast.literal_eval(argument)) for", "arguments = [_plain(eval(ast.unparse(argument))) for"),)),
    Bug("records ignore unknown fields", "records/base.py", (('extra="forbid"', 'extra="ignore"'),)),
    Bug("text in notebooks not escaped", "records/base.py", (("html_text.escape(visible(str(self)))", "visible(str(self))"),)),
    Bug("parts of data overlap", "data/examples.py", (("start += size", "start += size // 2"),)),
    Bug("gradient of the mean handed to every reduction", "losses/kernels/onepass.py", (
        ("return scale_rows(kept, gradient_of_loss / ctx.made_for), None, None", "return kept, None, None"),)),
    Bug("one kept array for all uses", "theory/softmax.py", (
        ("key = (name, dtype, rows, classes)", 'key = ("all", dtype, rows, classes)'),)),
    Bug("tail mass spread over all classes", "losses/kernels/sparse.py", (
        ("even = mass_left / left.clamp_min(1)", "even = mass_left / signal.classes"),)),
    Bug("entries beyond the k largest lose their mass", "losses/kernels/sparse.py", (("mass_left + dropped", "mass_left"),)),
    Bug("entropy of the tail mass left out", "losses/kernels/sparse.py", (
        (" + target.left * torch.xlogy(target.even, target.even)", ""),)),
    Bug("every chunk takes the first tokens' factors", "losses/kernels/vocabulary.py", (
        ("z.mul_(factor[start:stop, None])", "z.mul_(factor[: stop - start, None])"),)),
    Bug("head learns from the last chunk only", "losses/kernels/vocabulary.py", (
        ("made[1][: self.classes].addmm_(z.T, part)", "made[1][: self.classes].copy_(z.T @ part)"),)),
    Bug("padded entries count as the label", "losses/kernels/tail_mass.py", (
        ("torch.where(known, masses - even[:, None], 0.0).mul_(-slope)", "(masses - even[:, None]).mul_(-slope)"),)),
    Bug("classes the teacher holds equal are ordered", "losses/divergences/ranking.py", (
        ("[:, :, None] > heights.gather", "[:, :, None] >= heights.gather"),)),
    Bug("top-1 by the student's own order", "losses/divergences/ranking.py", (
        ("ranked = heights.topk(k, dim=-1).indices", "ranked = own.topk(k, dim=-1).indices"),)),
    Bug("ternary scale of all weights", "models/quantize.py", (
        ("total / kept.sum(dim=over, keepdim=True).clamp_min(1)", "total / size.numel()"),)),
    Bug("gradient passes outside the clip", "models/quantize.py", (
        ("return gradient if inside is None else gradient * inside, None", "return gradient, None"),)),
    Bug("calibrated by the last batch", "models/quantize.py", (
        ("quantizer.peak = sum(quantizer.seen) / len(quantizer.seen)", "quantizer.peak = quantizer.seen[-1]"),)),
    Bug("statistics of the first rows", "losses/terms/explanations.py", (
        ("rows = self.starts[student.example]", "rows = torch.arange(len(student))"),)),
    Bug("teacher weight missing on the share moved", "losses/terms/explanations.py", (
        ('weight = objective.teacher_weight * check_share(share, "the share")', 'weight = check_share(share, "the share")'),)),
    Bug("a feature term trains the teacher", "losses/terms/features.py", (
        ("theirs.detach().to(ours.dtype)", "theirs.to(ours.dtype)"),)),
    Bug("layers paired the wrong way round", "losses/terms/attention.py", (
        ("one, other = _states(ours, self.part)[a], _states(theirs, self.part)[b].detach()",
         "one, other = _states(ours, self.part)[b], _states(theirs, self.part)[a].detach()"),)),
    Bug("padding counts in a map", "losses/terms/attention.py", (
        ("each.sum(dim=(2, 3)).mean(dim=1) / valid.sum(dim=1)", "each.sum(dim=(2, 3)).mean(dim=1) / valid.shape[1]"),)),
    Bug("every pass reads the gold tokens", "losses/terms/passes.py", (
        ("prefix = shifted(prefix, logits.detach().argmax(dim=-1))", "prefix = own.prefix(inputs)"),)),
    Bug("estimate without the optimiser", "training/memory.py", (
        ("(OPTIMIZER_COPIES[training.optimizer] + copies) * trained", "copies * trained"),)),
    Bug("weights counted as activations", "training/memory.py", (
        ("self._known = {t.untyped_storage()._cdata for t in before}", "self._known = set()"),)),
    Bug("activations that never go", "training/memory.py", (("self.now -= size", "pass"),)),
    Bug("an infinite gradient passes", "training/step.py", (
        ("finite = finite and not bool(self._found)", "pass"),), "test_engine"),
    Bug("a guessed label counts as a label", "training/step.py", (
        ("(~known, replace(objective, teacher_weight=1.0))", "(~known, objective)"),), "test_engine_loop"),
    Bug("an evaluation forgotten when a run resumes", "training/trainer.py", (
        ("if self.state.evaluation_due:  # a signal came", "if False:  # a signal came"),), "test_engine_resume"),
    Bug("weights of the teachers ignored", "teachers/ensemble.py", (
        ("log_p + log_share.T[:, :, None]", "log_p + 0 * log_share.T[:, :, None]"),), "test_engine_faults"),
    Bug("the best weights in the place of the last", "training/run_folder.py", (
        ("write_file(self.path / LAST, to_bytes(weights)[0])", "shutil.copy(self.path / STUDENT, self.path / LAST)"),),
        "test_engine_loop"),
    Bug("a table's scale learned from its test rows too", "data/own_table.py", (
        ('learned = places["transfer"].numpy()', "learned = torch.cat([*places.values()]).numpy()"),), "test_own_table"),
    Bug("dropout redrawn when recomputed", "training/recompute.py", (
        ("use_reentrant=False, **named", "use_reentrant=False, preserve_rng_state=False, **named"),)),
    Bug("a module's own forward lost", "training/recompute.py", (("if own is not None:", "if False:"),)),
    Bug("a coupled loss spread over processes", "training/step.py", (
        ("if found and (cut or world.size > 1):", "if found and cut:"),)),
)  # fmt: skip


BEYOND = tuple(sorted({*FIRST.values(), *(bug.tests for bug in BUGS if bug.tests)} - {*TESTS}))


def survives(copy: Path, first: str = "") -> tuple[str, str]:
    """Run the kernel's tests, or those of a part beyond it: ("", "") where all pass, else the first that fails and its words."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:xdist", "--no-header", "--tb=line"]
    kernel = sorted(TESTS, key=lambda name: name != first)
    names = [*TESTS, *BEYOND] if first == "all" else kernel if first in {*TESTS, ""} else [first]
    tests = [f"tests/{name}.py" for name in names]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "verdict", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *tests], cwd=copy, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return "", ""
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    return (found[1] if found else "import of the package"), done.stdout[-2000:] + done.stderr[-2000:]


def seeded(bug: Bug) -> str | None:
    """The file's text with the bug in it; None where its place is gone."""
    path = ROOT / "src" / "fractionate" / bug.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for old, new in bug.edits:
        if text.count(old) != 1:
            return None
        text = text.replace(old, new)
    return text


def digest() -> str:
    """One number for the sources and the tests as they are: verdicts hold for it only."""
    seen = hashlib.sha256()
    for path in [
        *sorted((ROOT / "src").rglob("*.py")),
        *(ROOT / "tests" / f"{name}.py" for name in (*TESTS, *BEYOND)),
        Path(__file__),
    ]:
        seen.update(path.read_bytes())
    return seen.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="the bugs whose name holds this text")
    only = parser.parse_args().only
    bugs = [bug for bug in BUGS if only in bug.name]
    rows, failures = [], 0
    with tempfile.TemporaryDirectory() as folder:
        healthy = Path(folder) / "healthy"
        for part in ("src", "tests", "examples"):
            shutil.copytree(ROOT / part, healthy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", healthy)
        for part in ("lab", "bench", "docs", "recipes"):  # some tests take models, forks and examples from there
            (healthy / part).symlink_to(ROOT / part)
        state = digest()
        known = json.loads(LEDGER.read_text(encoding="utf-8")) if LEDGER.exists() else {}
        verdicts = known["verdicts"] if known.get("digest") == state else {}
        failed, outputs = ("", "") if verdicts else survives(healthy, "all")
        if failed:
            print(f"the tests fail without any bug: {failed}\n{outputs}")
            return 1
        for bug in bugs:
            sick = Path(folder) / "sick"
            shutil.copytree(healthy, sick, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            started = time.perf_counter()
            if bug.name not in verdicts:
                text = seeded(bug)
                verdicts[bug.name] = STALE
                if text is not None:
                    (sick / "src" / "fractionate" / bug.file).write_text(text, encoding="utf-8")
                    verdicts[bug.name] = survives(sick, bug.tests or FIRST.get(bug.file, ""))[0] or "**survives**"
                LEDGER.parent.mkdir(exist_ok=True)
                LEDGER.write_text(json.dumps({"digest": state, "verdicts": verdicts}), encoding="utf-8")
            verdict = verdicts[bug.name]
            failures += verdict.startswith("**")
            rows.append(f"| {bug.name} | `{bug.file}` | {verdict if verdict.startswith('**') else f'`{verdict}`'} |")
            print(f"{time.perf_counter() - started:5.1f} s  {rows[-1]}", flush=True)
            shutil.rmtree(sick)
    summary = f"{len(bugs) - failures} of {len(bugs)} seeded bugs are found by the tests of the part they are in."
    print(summary)
    if not only:
        table = "\n".join(["| bug | file | first test that fails |", "| --- | --- | --- |", *rows])
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(f"# Seeded bugs\n\n`python bench/seeded_bugs.py`\n\n{summary}\n\n{table}\n", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
