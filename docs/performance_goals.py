"""The goals of "What it costs": where each figure stands, its goal and its peer, and the cause where it is missed."""

from __future__ import annotations

from collections.abc import Iterator

from performance import Figure

ARITHMETIC = (
    "The rest is spread: measurements 10 %, optimizer 9 %, recording the step 7 %, evaluation and records 7 %, gradients of the "
    "losses 7 %, making models 5 % (timed once, under load). Next: one stack over all seeds, which would leave a second worker "
    "nothing to do."
)
MEASURED = "Measuring each student (test data, points along the training) is part of it. Next: bfloat16 by default where it gains."
SMALL = (
    "Few steps a student: two thirds are training, a seventh measures each student on test data, which the peers' runs leave "
    "out, a tenth is the teacher's passes (the Llama study profiled once, under load). Next: one pass where test and transfer "
    "texts are the same."
)
CHECKS = (
    "A step also checks loss and gradients, hashes the order of examples and seeds the model's draws (profile: no single part is "
    "large). Next: check the gradients in the optimizer's own pass, which torch has for scaled losses only."
)
FEWER_PASSES = (
    "Seven operators of torch walk over each chunk; a compiled kernel would walk once and save about 0.05 s on 400 MB "
    "(docs/decisions/0150), so none is built."
)
IN_CACHE = (
    "Tensors of this size stay in the caches: that lowers the limit and not the arithmetic, and twenty calls are felt. "
    "Chunks of other sizes are no faster. Next: a compiled kernel, for which decision 0150 sees no user."
)
OPERATORS = (
    "Twelve operators of torch walk over each element, two of them exponentials; chunks of other sizes are no faster. Next: a "
    "compiled kernel (decision 0150)."
)
LOGARITHM = (
    "The mixture takes a logarithm an element next to two exponentials, in torch the dearest of the three. Next: a compiled kernel "
    "(decision 0150)."
)
NARROW = (
    "The limit moves half the bytes, the arithmetic is that of float32, and two tensors are widened and one narrowed. Next: a "
    "compiled kernel (decision 0150)."
)
ENTRIES = (
    "Seven operators of torch walk over the student's row, and DistillKit's few are torch's own too. Next: a compiled kernel "
    "(decision 0150)."
)
PRODUCTS = "The loss of each chunk is added to three products. Next: measure it without other work on the machine."
SHARD = (
    "A shard of 64 MiB is collected before it is written: below that many bytes memory grows with the rows. Next: smaller shards, "
    "which read slower."
)
IN_MEMORY = (
    "A signal of less than 1 GiB is read as a whole; larger ones are read batch by batch (`distill`). Next: statistics of a "
    "`diagnose` and a `spectrum` over a stream."
)
WIDE = (
    "At 100,000 classes the buffers of a batch are above 32 MiB, and glibc maps them anew in each step. The command line keeps "
    "them (allocator); this bench calls the API, which leaves the process alone. Next: set the same in the environment "
    "(decision 0160)."
)
DRY = "The model is read and one step of each kind is timed; both grow with the model. Next: time a part of the vocabulary."
MODULES = (
    "Some hundred modules of frozen dataclasses and shape annotations are made at the first use of a verb; the import alone loads "
    "none, nor torch. Next: tasks and losses by name only."
)

COUNT = "A study of 21 students: how many times cheaper than 21 runs with a DataLoader and a live teacher"
STUDY = (
    Figure(
        "MLP, one core", "study", "peers' way / dissect, one core", "MLP", least=10, why=ARITHMETIC
    ),
    Figure(
        "CNN, one core", "study", "peers' way / dissect, one core", "CNN", least=3.5, why=MEASURED
    ),
    Figure(
        "MLP, two workers, wall time",
        "study",
        "peers' way / dissect, two workers",
        "MLP",
        least=10,
        why=ARITHMETIC,
    ),
    *(
        Figure(
            f"{model}, against {peer}",
            "study_transformers",
            model,
            "peers' way / dissect",
            least=3,
            why=SMALL,
        )
        for model, peer in (("2-layer BERT on texts", "Trainer"), ("2-layer Llama", "TRL"))
    ),
)
ONE = "The same study, as a multiple of one plain student with a DataLoader"
PEERS_WAY = "peers' way: 21 runs"
MULTIPLES = (
    Figure("MLP", "study", "dissect, as it chooses", "MLP", most=4, other=PEERS_WAY, why=ARITHMETIC),
    Figure(
        "CNN, two workers, wall time", "study", "dissect, as it chooses, two workers", "CNN", most=11, bracket=True,
        other=PEERS_WAY, why=MEASURED,
    ),
    Figure("CNN in bfloat16, one core", "study", "dissect, by the loop, bf16", "CNN", most=7, other=PEERS_WAY, why=MEASURED),
)  # fmt: skip
LOOP = tuple(
    Figure(
        f"{kind} of {size} k parameters", "engine", "`distill`", "of the bare loop's", most=1.03, section=kind,
        other="Hugging Face Trainer", why=CHECKS,
    )
    for kind, size in (("MLP", 84), ("CNN", 24), ("Transformer", 68))
)  # fmt: skip
CACHED = (
    *(
        Figure(
            f"throughput with a cached teacher against none, {way}", "cached", f"cached, {way}", "throughput", least=0.943,
            other=f"live, {way}",
        )
        for way in ("views replayed", "inputs by index")
    ),
    Figure("CPU time with large buffers kept, 512 rows × 30,522", "allocator", "512, kept", "CPU time", most=0.9),
)  # fmt: skip


def dense() -> Iterator[Figure]:
    """Every shape and dtype of the losses."""
    for section, small, narrow in (
        ("256 × 1,000, float32", True, False), ("256 × 1,000, bfloat16", True, True),
        ("64 × 32,000, float32", False, False), ("64 × 32,000, bfloat16", False, True),
        ("16 × 151,936, float32", False, False), ("16 × 151,936, bfloat16", False, True),
    ):  # fmt: skip
        for loss, wide, other in (
            ("cross-entropy", 6, "textbrewer: kd_ce_loss"), ("forward-kl", 6, "trl: GKDTrainer.generalized_jsd_loss(beta=0)"),
            ("dkd", 9, ""), ("jsd", 9, "trl: GKDTrainer.generalized_jsd_loss(beta=0.5)"),
        ):  # fmt: skip
            most = 12 if narrow and wide == 6 else wide
            why = (
                NARROW
                if narrow
                else LOGARITHM
                if loss == "jsd"
                else IN_CACHE
                if small
                else OPERATORS
            )
            yield Figure(
                f"{loss}, {section}",
                "losses",
                f"ours: {loss}",
                "× limit",
                most=most,
                section=section,
                other=other,
                why=why,
            )
        for loss in ("cross-entropy", "forward-kl"):
            yield Figure(
                f"{loss}, {section}, times faster than the fastest peer", "losses", "Fastest peer", loss, least=1.5,
                section=section, sentence=True, why=IN_CACHE if small else NARROW if narrow else OPERATORS,
            )  # fmt: skip
        if not narrow:
            yield Figure(
                f"memory of forward-kl in logits tensors, {section}", "losses", "ours: forward-kl", "memory", most=1.1,
                section=section, other="trl: GKDTrainer.generalized_jsd_loss(beta=0)",
            )  # fmt: skip


COMPACT = tuple(
    Figure(
        f"top-32 against DistillKit's, {section}", "compact_losses", "ours, compact: forward-kl", "speed against",
        least=4.5 if "151,936" in section else 4, section=section, other="densify, kl_div",
        why=IN_CACHE if "1,000," in section else ENTRIES,
    )
    for section in (
        "256 × 1,000, float32", "64 × 32,000, float32", "64 × 32,000, bfloat16", "16 × 151,936, float32", "16 × 151,936, bfloat16",
    )
)  # fmt: skip
HEAD = (
    Figure(
        "forward KL, multiples of the bare products", "vocabulary", "ours: forward-kl", "× the bare products", most=1.15,
        section="512 tokens", other="Liger LigerFusedLinearJSDLoss(beta=0)", why=PRODUCTS,
    ),
    Figure(
        "top-32, multiples of the bare products", "vocabulary", "ours: forward-kl, top-32", "× the bare products", most=1.15,
        section="512 tokens", why=PRODUCTS,
    ),
    Figure(
        "memory in logits tensors, 1 of them the head's gradient", "vocabulary", "ours: forward-kl", "logits tensors", most=1.5,
        section="512 tokens", other="Liger LigerFusedLinearJSDLoss(beta=0)",
    ),
    Figure(
        "the same at 4,096 tokens, 0.125 of them the head's gradient", "vocabulary", "ours: forward-kl", "logits tensors",
        most=0.625, section="4,096 tokens",
    ),
)  # fmt: skip
STORES = (
    Figure("random verified rows a second", "store", "ours", "random rows/s", least=30_000, other="datasets (Arrow)"),
    Figure("the same, times the fastest peer's", "store", "datasets (Arrow)", "ours / it", least=2),
    *(
        Figure(
            f"spectrum of {size}, % of the bandwidth of a copy", "spectrum", size, "ours of copy", least=50, why=FEWER_PASSES,
        )
        for size in ("100,000 × 1,000", "4,000 × 151,936")
    ),
)  # fmt: skip
GROWTH = tuple(
    Figure(
        f"slope of {kind} of `{verb}` over {axis.lower()[5:]}", "growth", verb, column, most=most, section=axis,
        why=WIDE if kind == "time" else SHARD if verb == "collect" else IN_MEMORY,
    )
    for axis in ("Over rows", "Over classes")
    for verb in ("collect", "spectrum", "diagnose", "distill")
    for kind, column, most in (("time", "slope of time", 1.1), ("memory", "of memory", 0.2 if axis == "Over rows" else 1.1))
)  # fmt: skip
EXAMPLES = (
    "tang-synthetic", "tang-digits", "black-box-table", "black-box-logprobs", "ked-table", "qat-encoder", "tagger",
    "text-classifier", "pictures", "nmt-tie-kd", "language-model",
)  # fmt: skip
START = (
    Figure("`--help`, CPU s", "start_up", "`fractionate --help`", "CPU s", most=0.12),
    Figure("`config print`, CPU s", "start_up", "`fractionate config print", "CPU s", most=0.35),
    Figure("`import fractionate`, CPU s beyond torch's", "start_up", "`import fractionate`", "beyond", most=0.1),
    Figure(
        "the same with the first use of `distill`", "start_up", "`import fractionate; fractionate.distill`", "beyond", most=0.1,
        why=MODULES,
    ),
    *(
        Figure(
            f"dry run of {name}, CPU s", "lab/results/example_runs.md", name, "CPU s of the dry run",
            most=10, section="Dry runs", why=DRY,
        )
        for name in EXAMPLES
    ),
)  # fmt: skip

GROUPS: dict[str, tuple[Figure, ...]] = {
    COUNT: STUDY,
    ONE: MULTIPLES,
    "The loop of `distill`: time of a step, as a multiple of a bare loop's": LOOP,
    "Cached teachers and large vocabularies": CACHED,
    "Losses, forward and backward: multiples of the memory traffic that cannot be avoided": tuple(
        dense()
    ),
    "Losses on 32 stored classes: times faster than the peer": COMPACT,
    "From hidden states and head, 151,936 classes": HEAD,
    "Stores and the spectrum": STORES,
    "Growth: 1 is proportional to the size": GROWTH,
    "Starting": START,
}
NOT_MEASURED = (
    "21 students on a GPU at most 2 (MLP) and 4 (CNN) times one, dense losses within 1.5 × the limit there: no GPU was at hand. "
    "`make gpu` measures them.",
    "The spectrum of compact signals, at least 1,000,000 rows a second: `growth` has its time with the store's reading in it.",
    "10⁷ rows: `python bench/growth.py --largest 10000000`. A store of 10⁸ token rows is planned on paper (docs/decisions/0145).",
)
