"""The command line: thin calls of the five verbs. Data goes to stdout, talk to stderr; torch loads only when a verb runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fractionate.cli.config import config_app, print_schema, split_arguments
from fractionate.cli.conformance import conformance
from fractionate.cli.examples import examples
from fractionate.cli.explain import explain
from fractionate.cli.help_text import arrange
from fractionate.cli.init import init
from fractionate.cli.store import store_app
from fractionate.cli.terminal import debugging, give, processes, teacher_words, tell, terminal
from fractionate.errors import ConfigError, StoppedError, as_own_error, visible
from fractionate.system.allocator import keep_large_buffers
from fractionate.system.paths import as_path, shell_line

if TYPE_CHECKING:
    from fractionate.records.base import Record
    from fractionate.run.estimate import Verb
    from fractionate.run.workflow import Workflow

EPILOG = (
    "Exit codes: 0 success, 1 a bug in Fractionate, 2 usage, 3 damaged file, 4 mismatch, 5 numerics, 6 resources, "
    "130/143 stopped (repeat to resume)."
)

app = typer.Typer(
    name="fractionate",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Knowledge distillation that says why: what the teacher knows, which part of it pays, and a student trained with it.",
    epilog=EPILOG,
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN.yaml] [key=value]...", help="a run file, and settings that override it", show_default=False
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="MODULE", help="let the run file use code of this module", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the record as JSON on stdout")]
NoPilot = Annotated[
    bool,
    typer.Option("--no-pilot", help="recommend a recipe by the rule, untried: 3.3 points less over 49 settings"),
]
Force = Annotated[
    bool, typer.Option("--force", help="export the student even if the study found it surely worse than no teacher")
]
Remake = Annotated[
    bool, typer.Option("--remake", help="make again what changed settings affect in the folder, and keep the rest")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="check everything and estimate time, disk and memory; write nothing"),
]


def read_workflow(arguments: list[str] | None, trust: list[str] | None, **more: Any) -> Workflow:
    """The chain of a run file given on the command line, with what is not in the file; nothing is written yet."""
    from fractionate.run.read import read_run
    from fractionate.run.runfile import places_of
    from fractionate.run.workflow import Workflow

    file, overrides = split_arguments(arguments)
    return Workflow(read_run(file, overrides, trust=tuple(trust or ())), places_of(file, overrides), **more)


def open_workflow(arguments: list[str] | None, trust: list[str] | None, **more: Any) -> Workflow:
    """The same, with the folder it writes to; for commands of one process."""
    if processes()[1] > 1:
        raise ConfigError("this command runs in one process", fix="under torchrun run fractionate collect or distill")
    workflow = read_workflow(arguments, trust, **more)
    tell(f"{workflow.run.name}: writing to {workflow.out}")
    return workflow


def estimate_of(verb: Verb, arguments: list[str] | None, trust: list[str] | None, **more: Any) -> Record:
    """What a command would do and cost."""
    from fractionate.run.estimate import estimate_run

    return estimate_run(read_workflow(arguments, trust, **more), verb)


@app.command()
def collect(
    arguments: Arguments = None,
    remake: Remake = False,
    trust: Trust = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Run the teacher once and store its outputs.

    Example: fractionate collect run.yaml out=runs/first
    Example: torchrun --nproc-per-node=2 -m fractionate collect run.yaml
    """
    if dry_run:
        return give(estimate_of("collect", arguments, trust, remake=remake), as_json)
    workflow = read_workflow(arguments, trust, remake=remake, say=tell)
    tell(f"{workflow.run.name}: writing to {workflow.run.out}")
    workflow.collect_by_all()
    if processes()[0] > 0:
        return None
    from fractionate.store.upkeep import info

    give(info(workflow.out / "store"), as_json)
    trusted = [word for module in trust or () for word in ("--trust", module)]
    tell(f"next: {shell_line(['fractionate', 'diagnose', *(arguments or ()), *trusted])}")


@app.command()
def diagnose(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN.yaml | OUTPUTS] [key=value]...",
            help="a run file with settings, a signal store, or a .npy, .npz, .safetensors or .parquet file of teacher outputs",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="the labels of a file of outputs, if they are in another file", show_default=False),
    ] = None,
    pilot: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="try recipes in a small study of at most this length (run files)",
            show_default=False,
        ),
    ] = None,
    no_pilot: NoPilot = False,
    second_view: Annotated[
        Path | None,
        typer.Option(
            metavar="OUTPUTS",
            help="outputs for the same examples under augmentation, dropout or another checkpoint, to measure what is reproducible",
            show_default=False,
        ),
    ] = None,
    remake: Remake = False,
    trust: Trust = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Find what the teacher knows and which recipe to use.

    Findings come with evidence and fix. One pass over the stored outputs, and for a run file a pilot: a small study that
    tries recipes, no teacher among them, at different learning rates.

    Example: fractionate diagnose run.yaml
    Example: fractionate diagnose run.yaml --pilot 5
    Example: fractionate diagnose logits.npy --labels labels.npy
    """
    file, overrides = split_arguments(arguments)
    if file is not None and not file.endswith((".yaml", ".yml")):
        given = file if "://" in file else as_path(file, "the file of outputs")
        from fractionate.diagnosis.examination import diagnose as diagnose_signal

        if pilot is not None:
            raise ConfigError(
                "a pilot trains students, and a file of outputs names none", got=f"--pilot {pilot:g}",
                fix="write a run file: fractionate config example > run.yaml",
            )  # fmt: skip
        if dry_run:
            raise ConfigError(
                "a file of outputs needs no dry run", got="--dry-run", fix="leave it out: it trains nothing"
            )
        if overrides:
            raise ConfigError("a file of outputs takes no settings", got=shell_line(overrides), fix="leave them out")
        from fractionate.page.card import decide

        found = diagnose_signal(given, name=Path(file).name, labels=labels, second_view=second_view)
        give(found, as_json, decide([found]))
    elif dry_run:
        more: dict[str, Any] = {"pilot_minutes": pilot, "no_pilot": no_pilot, "remake": remake}
        give(estimate_of("diagnose", arguments, trust, **more), as_json)
    else:
        more = {"pilot_minutes": pilot, "no_pilot": no_pilot, "remake": remake, "second_view": second_view}
        workflow = open_workflow(arguments, trust, **more)
        give(workflow.diagnosis, as_json, workflow.card)


@app.command()
def dissect(
    arguments: Arguments = None,
    workers: Annotated[
        str, typer.Option(metavar="N|ray", help="processes of one thread each, or the machines of a Ray cluster")
    ] = "1",
    remake: Remake = False,
    trust: Trust = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Measure which part of the teacher helps a student.

    Trains variants of the student over seeds and compares them pair by pair.

    Example: fractionate dissect run.yaml study.seeds=8 "study.cells=[hard, ls, kd-pt, kd]"
    Example: fractionate dissect run.yaml --workers 2 "study.tune={learning_rates: [0.002, 0.01]}"
    """
    if dry_run:
        return give(estimate_of("dissect", arguments, trust, remake=remake), as_json)
    from fractionate.study.workers import check_workers

    count = int(workers) if workers.lstrip("-").isdecimal() and len(workers) < 10 else workers
    check_workers(count)  # also where the study is there already
    workflow = open_workflow(arguments, trust, workers=count, remake=remake)
    give(workflow.study, as_json, workflow.card)


@app.command()
def distill(
    arguments: Arguments = None,
    no_pilot: NoPilot = False,
    force: Force = False,
    remake: Remake = False,
    trust: Trust = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Train the student and export it.

    Takes the recipe of diagnose, or the objective of the run file. OUT/student needs nothing of this package.

    Example: fractionate distill run.yaml objective.cell=kd objective.temperature=2
    Example: fractionate distill run.yaml distill.keep=best distill.patience=5 export.licence=apache-2.0
    Example: torchrun --nproc-per-node=2 -m fractionate distill run.yaml
    """
    if dry_run:
        return give(estimate_of("distill", arguments, trust, no_pilot=no_pilot, remake=remake), as_json)
    # on a terminal the engine itself shows the loss contract, above its bar
    more = {
        "no_pilot": no_pilot,
        "force": force,
        "remake": remake,
        "say": (lambda _: None) if sys.stderr.isatty() else tell,
    }
    workflow = read_workflow(arguments, trust, **more)
    tell(f"{workflow.run.name}: writing to {workflow.run.out}")
    run = workflow.student
    tell(f"student: {workflow.out / 'student'}")
    give(run, as_json, workflow.card)


@app.command()
def report(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN.yaml] [key=value]... | FOLDER [FOLDER] | PAGE.html",
            help="a run file with settings; or a page, or folders of runs (two are compared), which are read and never made",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="html|md|png|svg", help="a page, Markdown for a pull request, figures for a paper"
        ),
    ] = "html",
    no_pilot: NoPilot = False,
    force: Force = False,
    remake: Remake = False,
    trust: Trust = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Do the whole job and write one HTML page.

    Makes whatever is missing first: signal, diagnosis, study, student.

    Example: fractionate report run.yaml
    Example: fractionate report run.yaml --dry-run
    Example: fractionate report runs/first runs/second --format md
    """
    if form not in ("html", "md", "png", "svg"):
        raise ConfigError("invalid value for --format", expected="html, md, png or svg", got=form)
    if arguments and (all(Path(word).is_dir() for word in arguments) or arguments[0].endswith(".html")):
        return _report_folders(arguments, form, as_json, refused=no_pilot or force or remake or bool(trust) or dry_run)
    if dry_run:
        return give(estimate_of("report", arguments, trust, no_pilot=no_pilot, remake=remake), as_json)
    from fractionate.records.commands import Written

    workflow = open_workflow(arguments, trust, no_pilot=no_pilot, force=force, remake=remake)
    tell(f"data: {workflow.data}")
    tell(teacher_words(workflow))
    tell(f"{workflow.diagnosis}\n\n{workflow.study}\n")
    kept_back = workflow.kept_back()
    tell(f"no student is exported: {kept_back}\n" if kept_back else f"student: {workflow.student}\n")
    give(Written.at(workflow.report(form)), as_json, workflow.card)


def _report_folders(folders: list[str], form: str, as_json: bool, *, refused: bool) -> None:
    from fractionate.page.folder import folders_card, report_folders
    from fractionate.records.commands import Written

    if refused:
        raise ConfigError(
            "folders of runs are read as they are", expected="--format and --json alone", got="options of a run",
            fix="give the run file, or leave the options out",
        )  # fmt: skip
    again = shell_line(["fractionate", "report", *folders, *(["--format", form] if form != "html" else [])])
    give(Written.at(report_folders(folders, form=form, command=again)), as_json, folders_card(folders))


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="the folder to write to")] = "runs/demo", as_json: AsJson = False
) -> None:
    """Do the whole job on handwritten digits.

    A healthy teacher next to a faulty one, under three minutes on two cores.

    Example: fractionate demo --out runs/demo
    """
    from fractionate.cli.demo import demo as run_demo
    from fractionate.page.folder import folders_card
    from fractionate.records.commands import Written

    page = run_demo(out, say=tell)
    tell("the report:")
    give(Written.at(page.resolve()), as_json, folders_card([page.parent]))


app.add_typer(config_app, name="config")
app.add_typer(store_app, name="store")
app.command("schema")(print_schema)
app.command("conformance")(conformance)
app.command("init")(init)
app.command("examples")(examples)
app.command("explain")(explain)
arrange(app)


def _version(requested: bool) -> None:
    if requested:
        from fractionate.system.versions import versions

        print(visible(versions()))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print versions")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["FRACTIONATE_DEBUG"] = "1"


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and leave with the exit code of what happened.

    Args:
        arguments: The words after `fractionate`; None: those of this process.

    Returns:
        Nothing: `SystemExit` is raised, with the exit code.

    Example:
        from contextlib import suppress
        from fractionate.cli import main

        with suppress(SystemExit):
            main(["--version"])
    """
    if arguments is None:  # this process is ours alone
        keep_large_buffers()
    try:
        with terminal():
            return app(arguments, standalone_mode=True)
    except KeyboardInterrupt:
        tell("stopped; run the same command again to resume")
        sys.exit(130)
    except Exception as error:
        if debugging():
            raise
        known = as_own_error(error)
        if processes()[0] == 0 or not isinstance(known, StoppedError):  # all processes stop for the same signal
            tell(f"error: {known}\n  code:     {known.code} (fractionate explain {known.code})", rank_zero=False)
        sys.exit(known.exit_code)
