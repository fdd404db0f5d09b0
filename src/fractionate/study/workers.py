"""The jobs of a study spread over processes of this machine, or over machines with Ray; a worker that dies loses one job's time.

Processes are copies of this one where that is safe (Linux, no GPU): they start in milliseconds and share its memory. Elsewhere
they are fresh ones, and tensors go to them through shared memory. Each computes with one thread.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import torch

from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.study.jobs import Job, JobRunner, Trained

ATTEMPTS = 3  # a job whose workers died so often is given up and reported
REPORT_SECONDS = 0.2  # how often a worker reports how far it is
Start = Literal["fork", "spawn"]


def check_workers(workers: int | str) -> None:
    """Raise `ConfigError` for what is neither a number of processes nor Ray."""
    ray = isinstance(workers, str) and (workers == "ray" or workers.startswith("ray:"))
    if not ray and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigError(
            "invalid value for workers",
            expected='a number of processes from 1, "ray", or "ray:ADDRESS" of a cluster',
            got=repr(workers),
        )


def start_method(device: str) -> Start:
    """`fork` where neither threads of a GPU's runtime nor another system forbid it."""
    forbidden = torch.device(device).type != "cpu" or torch.cuda.is_available() or sys.platform != "linux"
    return "spawn" if forbidden else "fork"


def run_jobs(
    runner: JobRunner,
    jobs: Sequence[Job],
    workers: int | str,
    *,
    device: str = "cpu",
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Trained]:
    """The runs of all jobs, each as it ends; equal for any number of workers, up to their order.

    A student whose workers were killed `ATTEMPTS` times is given as a run that was stopped, with the reason in its note.
    """
    check_workers(workers)
    if isinstance(workers, str):
        yield from _on_ray(runner, jobs, workers.partition(":")[2], advance)
    elif workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield from runner.work(job, advance)
    else:
        yield from _in_processes(runner, jobs, min(workers, len(jobs)), start_method(device), advance)


@dataclass(eq=False)
class _Worker:
    """A process at work on a job, and what it has returned of it."""

    process: Any
    connection: Connection
    job: Job | None = None

    def give(self, job: Job) -> None:
        self.job = job
        self.connection.send(job)


def _start_worker(runner: JobRunner, start: Start) -> _Worker:
    context: Any = torch.multiprocessing.get_context(start)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, runner, os.getpid()), daemon=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads and a fork: the copies do not touch them
            process.start()
    except Exception as error:
        if start == "spawn":
            raise MismatchError(
                "the student cannot be made in another process",
                expected="a function at the top level of a module",
                got=str(error).splitlines()[0],
                fix="define the student's function there, not as a lambda or inside another; or leave workers at 1",
            ) from error
        raise
    theirs.close()
    return _Worker(process, ours)


def one_thread() -> None:
    """Compute with one thread, in torch and in scikit-learn: the OpenMP threads of the process that was copied are not in the copy,
    which would wait for them forever.
    """
    torch.set_num_threads(1)
    if "sklearn" in sys.modules:
        import threadpoolctl

        threadpoolctl.threadpool_limits(1)


def _serve(connection: Connection, runner: JobRunner, parent: int) -> None:
    """Do jobs until the end is sent, or until the study is gone."""
    one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the study decides what a Ctrl-C means
    reported = [time.perf_counter(), 0.0]

    def advance(steps: int) -> None:
        reported[1] += steps
        if time.perf_counter() - reported[0] > REPORT_SECONDS:
            if os.getppid() != parent:
                os._exit(1)  # killed: nobody is left to hand the work to
            connection.send(("steps", int(reported[1])))
            reported[:] = [time.perf_counter(), 0.0]

    while True:
        while not connection.poll(1.0):
            if os.getppid() != parent:
                return
        try:
            job = connection.recv()
        except EOFError:
            return
        if job is None:
            return
        try:
            for found in runner.work(job, advance):
                connection.send(("run", found))
            connection.send(("done", None))
        except Exception as error:
            connection.send(("error", (_sendable(error), traceback.format_exc())))


def _sendable(error: Exception) -> Exception:
    """The error itself where it survives the way, else its words."""
    plain = type(error) in (RuntimeError, ValueError, TypeError) and all(isinstance(a, str) for a in error.args)
    return error if plain else RuntimeError(f"{type(error).__name__}: {error}")


def _in_processes(
    runner: JobRunner, jobs: Sequence[Job], count: int, start: Start, advance: Callable[[int], None]
) -> Iterator[Trained]:
    queue, deaths = deque(jobs), dict.fromkeys((job.number for job in jobs), 0)
    given: dict[int, set[tuple[str, int]]] = {job.number: set() for job in jobs}
    pool = [_start_worker(runner, start) for _ in range(count)]
    try:
        while queue or any(worker.job for worker in pool):
            for worker in list(pool):
                if worker.job is None and queue:
                    following = queue.popleft()
                    try:
                        worker.give(following)
                    except OSError:  # it died with nothing to do
                        worker.process.join()
                        pool[pool.index(worker)] = replacement = _start_worker(runner, start)
                        replacement.give(following)
            for ready in wait([w.connection for w in pool if w.job]):
                worker = next(w for w in pool if w.connection is ready)
                job = worker.job
                assert job is not None
                try:
                    kind, message = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    pool[pool.index(worker)] = _start_worker(runner, start)
                    deaths[job.number] += 1
                    if deaths[job.number] < ATTEMPTS:
                        queue.appendleft(job)
                        continue
                    reason = f"its worker died {ATTEMPTS} times, exit code {worker.process.exitcode}"
                    for trial in job.group:
                        if trial.key not in given[job.number]:
                            yield runner.lost(trial, reason)
                    continue
                if kind == "steps":
                    advance(message)
                elif kind == "run":
                    key = (message.run.arm, message.run.seed)
                    if key not in given[job.number]:  # a job that is done again gives some runs again
                        given[job.number].add(key)
                        yield message
                elif kind == "done":
                    worker.job = None
                else:
                    error, trace = message
                    error.add_note(f"in a worker:\n{trace}")
                    raise error
    finally:
        for worker in pool:
            if worker.job is None and worker.process.is_alive():
                worker.connection.send(None)
            else:
                worker.process.terminate()
        for worker in pool:
            worker.process.join()
            worker.connection.close()


def _whole_job(runner: JobRunner, job: Job) -> list[Trained]:
    one_thread()
    return list(runner.work(job, lambda _: None))


def _on_ray(runner: JobRunner, jobs: Sequence[Job], address: str, advance: Callable[[int], None]) -> Iterator[Trained]:
    """The jobs as tasks of a Ray cluster; a local one is started, and ended, where none is named and none runs."""
    with extra("workers", "workers over machines need Ray"):
        import ray
    own = not ray.is_initialized()
    if own:
        # workers on this machine look for modules where this program does
        elsewhere = address or os.environ.get("RAY_ADDRESS")
        here = None if elsewhere else {"env_vars": {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}}
        ray.init(
            address=address or None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=here,
        )
    try:
        shared = ray.put(runner)
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_whole_job)
        waiting = {task.remote(shared, job): job for job in jobs}
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(ready)
            try:
                runs = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None  # type: ignore[no-untyped-call]
            except ray.exceptions.RayError as error:
                reason = f"its worker died {ATTEMPTS} times: {str(error).splitlines()[0]}"
                yield from (runner.lost(trial, reason) for trial in job.group)
                continue
            advance(len(runs) * runner.steps(job))
            yield from runs
    finally:
        if own:
            ray.shutdown()
