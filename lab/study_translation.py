"""Where does a translator's knowledge hide? English to Italian on Debian's package descriptions, arm by arm, seed by seed.

    python lab/study_translation.py            # all of it; stopped and started again it goes on
    python lab/study_translation.py teacher    # only the teacher
    python lab/study_translation.py page       # only the tables and the page, of the seeds that are finished

The analysis targets and TIE-KD are those of Zhang et al. (arXiv 2305.08096).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from fractionate import Objective, distill, report
from fractionate.attribution import holm, judge, paired
from fractionate.data.splits import as_split
from fractionate.durable import write_file
from fractionate.engine.evaluation import predictions
from fractionate.extensions.decoding import quality, sequence_level, translate
from fractionate.losses.terms import Passes, tie_kd
from fractionate.records import Effect, Run, Scores, Study, Training
from fractionate.sources.pieces import Pieces, Sentences
from fractionate.sources.translation import Pairs, descriptions
from fractionate.spectrum import spectrum
from fractionate.tasks import info, metrics, scores
from fractionate.teachers import Cached
from fractionate.teachers.hidden import HiddenStates
from fractionate.teachers.tokens import analysis, gold_share, ta_rate

RUNS = Path("runs/study_translation")
WORDS, LONGEST, PIECES = 6, 18, 1200  # of the English side; pieces a side; of the joint vocabulary
TRANSFER = 4000  # pairs that a student learns from, of those the teacher learned from
SEEDS = (0, 1, 2, 3, 4)
PASSES = 2  # of iterative KD; the paper takes 3, which costs half as much again
TEACHING = Training(
    steps=1200, batch_size=64, learning_rate=2e-3, warmup_share=0.1, clip_norm=1.0, precision="bfloat16"
)
LEARNING = Training(steps=500, batch_size=32, learning_rate=8e-3, warmup_share=0.1, precision="bfloat16")
WORD_KD = (Objective("kd", 1.0, 1.0, divergence="forward-kl"),)


def target(name: str) -> tuple[Objective, ...]:
    """An analysis target alone: the loss on the labels is added with the same weight."""
    return (analysis(name, teacher_weight=1.0),)


# arm -> the word-level losses beside the smoothed loss on the labels, and how many passes they are taken over
ARMS: dict[str, tuple[tuple[Objective, ...], int]] = {
    "no-kd": ((), 1),
    "word-kd": (WORD_KD, 1),
    "without-correlation": (target("without-correlation"), 1),
    "without-top1": (target("without-top1"), 1),
    "top-k": (target("top-k"), 1),
    "ranking": (tie_kd(5), 1),
    "sequence-level": ((), 1),
    "iterative": (WORD_KD, PASSES),
    "tie-kd": (tie_kd(5), PASSES),
    "strength-only": (
        (Objective("kd-pt", 1.0, 1.0, divergence="forward-kl"),),
        1,
    ),  # placebo: how sure, not of what else
}


def translator(pieces: int, *, width: int, layers: int, seed: int, **more: float) -> nn.Module:
    """A Marian of Hugging Face, from its config, with weights of its own."""
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=pieces, decoder_vocab_size=pieces, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=width // 32, decoder_attention_heads=width // 32, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, max_position_embeddings=64, pad_token_id=0, eos_token_id=2, bos_token_id=None,
        decoder_start_token_id=0, forced_eos_token_id=None, scale_embedding=True,
        **{"dropout": 0.1} | more,
        attn_implementation="eager",  # torch's fused attention has a slow bfloat16 gradient on CPUs: 40 % of a step
    )  # fmt: skip
    return MarianMTModel(config)


def student(pieces: Pieces, seed: int) -> nn.Module:
    return translator(len(pieces), width=64, layers=1, seed=1000 + seed, dropout=0.0, init_std=0.125)


def material() -> tuple[Pairs, Pairs, Pairs, Pieces]:
    """Pairs to learn from, 400 to choose by, 1,000 to report, by source package; and the pieces of the first."""
    rest, validation, test = descriptions("en", "it").up_to(WORDS).held_out(400, 1000)
    path = RUNS / "pieces.model"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Pieces.learned([text for pair in rest.pairs for text in (pair.source, pair.target)], PIECES).save(path)
    return rest, validation, test, Pieces.read(path)


def teach(rest: Pairs, pieces: Pieces) -> nn.Module:
    """The teacher: learned from all pairs, with the label smoothing of the paper."""
    model = translator(len(pieces), width=192, layers=3, seed=1)
    sentences = Sentences.of(rest, pieces, longest=LONGEST)
    distill(
        model, sentences.loader(), training=TEACHING, terms=["label-smoothing(0.1)"], arm="teacher", out=RUNS / "teacher",
        save_every_seconds=120,
    )  # fmt: skip
    return model


def kept(path: Path, make: Callable[[], object]) -> object:
    """What a JSON file holds, made and written where it is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(make(), ensure_ascii=False, indent=1).encode())
    return json.loads(path.read_text("utf8"))


def measure(model: nn.Module, test: Sentences, pieces: Pieces, heard: HiddenStates | None) -> dict[str, object]:
    """Beam search as in the paper (4, length penalty 0.6), and what teacher forcing shows, token by token."""
    written = pieces.decode(translate(model, test, beams=4, longest=LONGEST + 2, batch_size=128))
    found: dict[str, object] = asdict(quality(written, [target for _, target in test.texts]))
    logits, labels = predictions(model, as_split(test.loader()), batch_size=128)
    one = scores(logits, labels)
    found |= {"examples": one.examples, "rows": one.rows, **one.values}
    if heard is not None:
        signal = heard.signal()
        found["ta-rate"] = 100 * ta_rate(logits, signal)
        sure = torch.softmax(signal.logits, dim=1).amax(dim=1)
        right = signal.logits.argmax(dim=1) == labels
        for name, some in (("gold", right), ("not_gold", ~right), ("sure", sure > 0.9), ("unsure", sure < 0.5)):
            found[f"ta_where_{name}"] = 100 * ta_rate(logits[some], signal.take(some.nonzero().flatten()))
            found[f"share_{name}"] = float(some.double().mean())
    return found | {"written": written[:20]}


def learn(arm: str, seed: int, data: Sentences, teacher: nn.Module, heard: HiddenStates, pieces: Pieces) -> nn.Module:
    """One student of one arm; the loss is half the smoothed loss on the labels and half the teacher's, up to a factor of 2."""
    losses, passes = ARMS[arm]
    model = student(pieces, seed)
    common = {"training": LEARNING, "seed": seed, "arm": arm, "out": RUNS / arm / str(seed)}
    if not losses:
        distill(model, data.loader(), terms=["label-smoothing(0.1)"], **common)
        return model
    distill(
        model, data.loader(), Cached(heard, model=teacher), objective=Objective("hard", 1.0, 0.0),
        terms=["label-smoothing(0.1)", Passes(passes, tuple(losses))], **common,
    )  # fmt: skip
    return model


def main() -> None:
    torch.set_num_threads(1)
    rest, _, held_out, pieces = material()
    teacher = teach(rest, pieces).eval()
    if sys.argv[1:] == ["teacher"]:
        return
    if sys.argv[1:] == ["page"]:
        return tell()
    test = Sentences.of(held_out, pieces, longest=LONGEST)
    transfer = Sentences.of(rest.some(TRANSFER), pieces, longest=LONGEST)
    heard, heard_test = (HiddenStates.of(teacher, s.loader(), batch_size=128) for s in (transfer, test))

    def about_teacher() -> dict[str, object]:
        some = heard.signal(torch.arange(2000))
        known = {"spectrum_transfer": asdict(spectrum(some)), "spectrum_test": asdict(spectrum(heard_test.signal()))}
        known |= {"gold_share_transfer": gold_share(some), "gold_share_test": gold_share(heard_test.signal())}
        known |= {"fingerprint": descriptions("en", "it").fingerprint, "rest": len(rest), "test": repr(test)}
        known |= {"transfer": repr(transfer), "parameters": sum(p.numel() for p in teacher.parameters())}
        known |= {"student_parameters": sum(p.numel() for p in student(pieces, 0).parameters())}
        return known | measure(teacher, test, pieces, heard_test)

    print("teacher:", kept(RUNS / "teacher.json", about_teacher))
    beams = kept(
        RUNS / "beams.json", lambda: translate(teacher, transfer, beams=4, longest=LONGEST + 2, batch_size=128)
    )
    distilled = sequence_level(transfer, beams, pieces, longest=LONGEST + 6)  # type: ignore[arg-type]
    print("sequence level:", distilled, flush=True)
    dear = ("iterative", "tie-kd")
    cheap = tuple(arm for arm in ARMS if arm not in (*dear, "strength-only"))
    order = [(cheap, SEEDS[:3]), (dear, SEEDS[:3]), (cheap, SEEDS[3:]), (("strength-only",), SEEDS), (dear, SEEDS[3:])]
    for arms, seeds in order:  # what the paper claims first; then more seeds, and the placebo
        for seed, arm in ((seed, arm) for seed in seeds for arm in arms):

            def run(arm: str = arm, seed: int = seed) -> dict[str, object]:
                started, cpu = time.monotonic(), time.process_time()
                model = learn(arm, seed, distilled if arm == "sequence-level" else transfer, teacher, heard, pieces)
                spent = {"wall_seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - cpu}
                return spent | measure(model, test, pieces, heard_test)

            found = kept(RUNS / "results" / f"{arm}-{seed}.json", run)
            assert isinstance(found, dict)
            print(f"{arm} {seed}: BLEU {found['bleu']:.2f} chrF {found['chrf']:.2f} TA {found['ta-rate']:.1f} "
                  f"accuracy {found['accuracy']:.1f} in {found['cpu_seconds']:.0f} CPU s", flush=True)  # fmt: skip
    tell()


COLUMNS = tuple(info(metrics[name]) for name in ("bleu", "chrf", "ta-rate", "accuracy", "nll"))
DIRECT = (  # contrasts beside those against no-kd, each a claim of the paper or its control
    ("without-correlation", "word-kd"),
    ("without-top1", "word-kd"),
    ("without-correlation", "without-top1"),
    ("top-k", "word-kd"),
    ("ranking", "word-kd"),
    ("iterative", "word-kd"),
    ("tie-kd", "word-kd"),
    ("sequence-level", "word-kd"),
    ("word-kd", "strength-only"),
)


def read_results() -> dict[str, dict[int, dict[str, float]]]:
    """arm -> seed -> what was measured, of the runs that are finished."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for arm in ARMS:
        for seed in SEEDS:
            path = RUNS / "results" / f"{arm}-{seed}.json"
            if path.exists():
                found.setdefault(arm, {})[seed] = json.loads(path.read_text("utf8"))
    return found


def contrasts(found: dict[str, dict[int, dict[str, float]]], metric: MetricInfo) -> tuple[Effect, ...]:
    """Paired differences over the seeds that both arms finished, corrected together for their number (Holm)."""
    pairs = [(arm, "no-kd") for arm in found if arm != "no-kd"] + [p for p in DIRECT if set(p) <= set(found)]
    kept, tests = [], []
    for arm, against in pairs:
        seeds = sorted(set(found[arm]) & set(found[against]))
        if len(seeds) > 1:
            differences = [found[arm][s][metric.name] - found[against][s][metric.name] for s in seeds]
            kept.append((arm, against))
            tests.append(paired(differences, margin=metric.margin))
    corrected = zip(holm([t.p_value for t in tests]), holm([t.p_beyond_margin for t in tests]), strict=True)
    return tuple(
        Effect(
            arm=arm, against=against, metric=metric.name, gain=t.gain, interval=t.interval, p_value=t.p_value, p_holm=p,
            seeds=t.seeds, verdict=judge(t.gain, p, beyond, sign=metric.sign),
            placebo=(arm, against) == ("strength-only", "no-kd"),
        )
        for (arm, against), t, (p, beyond) in zip(kept, tests, corrected, strict=True)
    )  # fmt: skip


def tell() -> None:
    """Tables and page, of the runs that are finished."""
    found, teacher = read_results(), json.loads((RUNS / "teacher.json").read_text("utf8"))
    effects = {metric.name: contrasts(found, metric) for metric in COLUMNS}
    heads = [f"{metric.title}, {metric.value_unit}" for metric in COLUMNS]
    lines = [
        "# study_translation",
        "",
        f"English to Italian on Debian's package descriptions, sources of at most {WORDS} words, {PIECES:,} joint pieces. "
        f"Teacher: Marian 192 wide, 3 + 3 layers, {teacher['parameters']:,} parameters, {TEACHING.steps:,} steps of "
        f"{TEACHING.batch_size} sentences on {teacher['rest']:,} pairs. Students: 64 wide, 1 + 1 layers, "
        f"{teacher['student_parameters']:,} parameters, {LEARNING.steps} steps of {LEARNING.batch_size} on "
        f"{TRANSFER:,} of these pairs ({teacher['transfer']}). Test, split by source package and read once: {teacher['test']}. "
        "Loss: half the label-smoothed cross-entropy (0.1), half the arm's, temperature 1; "
        f"iterative arms take {PASSES} passes. Beam 4, length penalty 0.6.",
        "",
        f"Data fingerprint `{teacher['fingerprint']}`. Made by `PYTHONPATH=src python lab/study_translation.py`.",
        f"`{teacher['bleu_signature']}`; `{teacher['chrf_signature']}`",
        "",
        "## Arms: mean over seeds, and half of a 95 % t interval",
        "",
        "| arm | seeds | " + " | ".join(heads) + " | TA where top-1 is gold, % | where not, % | CPU s |",
        "|---|---|" + "---|" * (len(COLUMNS) + 3),
        "| *teacher* | – | " + " | ".join(f"{teacher[k]:.2f}" for k in effects) + " | – | – | – |",
    ]
    for arm, runs in found.items():
        cells = []
        for key in (*effects, "ta_where_gold", "ta_where_not_gold"):
            values = [run[key] for run in runs.values()]
            half = (
                paired(values, margin=1.0).interval.high - sum(values) / len(values)
                if len(values) > 1
                else float("nan")
            )
            cells.append(f"{sum(values) / len(values):.2f} ± {half:.2f}")
        spent = sum(run["cpu_seconds"] for run in runs.values()) / len(runs)
        lines.append(f"| {arm} | {len(runs)} | " + " | ".join(cells) + f" | {spent:.0f} |")
    lines += [
        "",
        "## Contrasts: paired over seeds, 95 % intervals, verdicts after Holm",
        "",
        "| contrast | seeds | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for number, effect in enumerate(effects["bleu"]):
        cells = [own[number] for own in effects.values()]
        said = [f"{e.gain:+.2f} [{e.interval.low:+.2f}, {e.interval.high:+.2f}] {e.verdict}" for e in cells]
        lines.append(f"| {effect.arm} − {effect.against} | {effect.seeds} | " + " | ".join(said) + " |")
    parts = [name for name in teacher["spectrum_test"] if name.endswith("_nats")]
    lines += [
        "",
        "## What the teacher knows, token by token",
        "",
        "| tokens | top-1 is gold | " + " | ".join(n.removesuffix("_nats").replace("_", ".", 1) for n in parts) + " |",
        "|---|---|" + "---|" * len(parts),
    ]
    for name, share in (("transfer", "gold_share_transfer"), ("test", "gold_share_test")):
        known = teacher[f"spectrum_{name}"]
        lines.append(
            f"| {name}, {known['examples']:,} | {teacher[share]:.1%} | "
            + " | ".join(f"{known[n]:.3f}" for n in parts)
            + " |"
        )
    lines += [
        "",
        "The class means of rare pieces come of few tokens, so domain.shape counts noise of the sample too "
        "(docs/theory.md); the terms compare the two rows, not this teacher with others.",
    ]
    results = Path(__file__).parent / "results"
    (results / "study_translation.md").write_text("\n".join(lines) + "\n")
    seeds = tuple(sorted({seed for runs in found.values() for seed in runs}))
    runs = tuple(
        replace(Run.load(RUNS / arm / str(seed) / "run.json"), test=as_scores(one), settings={})
        for arm, each in found.items()
        for seed, one in each.items()
    )
    studies = [
        Study(
            name=f"en–it, {metric.title}", metrics=(metric, *(m for m in COLUMNS if m != metric)), baseline="no-kd",
            arms=tuple(found), seeds=seeds,
            runs=runs if metric == COLUMNS[0] else (), effects=effects[metric.name],
            data={"name": "Debian descriptions, en–it", "fingerprint": teacher["fingerprint"]},
            settings={"command": "python lab/study_translation.py"},
            wall_seconds=sum(run.wall_seconds for run in runs) if metric == COLUMNS[0] else 0.0,
            notes=(f"Teacher: BLEU {teacher['bleu']:.1f}, chrF {teacher['chrf']:.1f}.",) * (metric == COLUMNS[0]),
        )
        for metric in COLUMNS[:3]
    ]  # fmt: skip
    report(studies, results / "study_translation.html", title="Where does a translator's knowledge hide?")
    print("\n".join(lines))


def as_scores(found: dict[str, float]) -> Scores:
    """What the page shows of a run: tokens under teacher forcing; agreement is the TA rate."""
    values = {"bleu": found["bleu"], "chrf": found["chrf"], "ta-rate": found["ta-rate"]}
    values |= {name: found[name] for name in ("accuracy", "nll", "ece")}
    return Scores(int(found["examples"]), int(found["rows"]), values)


if __name__ == "__main__":
    main()
