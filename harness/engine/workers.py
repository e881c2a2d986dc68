"""Many networks at once: worker processes, each with a scorer of its own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from harness.engine.scorer import Job, Scorer, resolve_device
from harness.engine.store import Row
from harness.errors import HarnessError, cause
from harness.paths import usable_cores
from harness.probes.neutral import neutral

#: Processes that share a GPU unless `workers` says otherwise; each holds a context of some hundred MB.
GPU_WORKERS = 8


#: Of this process; in a worker that could not make one, what kept it from it.
_scorer: Scorer | Exception | None = None


def _start_worker(job: Job) -> None:
    """Prepare a worker process: one thread, Ctrl-C left to the parent, and no life after the parent's death.

    An exception that ends an initializer is lost: what keeps the process from scoring is told by its first chunk.
    """
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()  # before torch: its import takes seconds

    try:
        import torch

        torch.set_num_threads(1)
        _keep_freed_memory()
        _scorer = Scorer(job)
    except Exception as error:
        _scorer = error


def _keep_freed_memory() -> None:
    """Let this process hold what it frees: pages given back after each pass are faulted in again by the next.

    For glibc; other C libraries have no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_threshold, 32 * 2**20)


def _score_chunk(chunk: list[tuple[int, list[str]]]) -> list[tuple[str, Row]]:
    if isinstance(_scorer, HarnessError):
        raise _scorer
    if isinstance(_scorer, Exception):
        raise HarnessError(
            f"a worker process cannot start ({type(_scorer).__name__}: {cause(_scorer)}): finished scores are stored; "
            "use fewer processes (workers=1) or device=cpu"
        ) from _scorer
    return [row for index, labels in chunk for row in _scorer.score(index, labels)]


def score_networks(job: Job, networks: dict[int, list[str]]) -> Iterator[tuple[list[tuple[str, Row]], int]]:
    """Finished rows with the number of architectures that they complete, in any order.

    Args:
        networks: labels of the proxies to score by index of the architecture.
    """
    items = sorted(networks.items())
    chunks = [items[i : i + job.chunk] for i in range(0, len(items), job.chunk)]
    workers = min(len(chunks), job.workers or _default_workers(job.device))
    if workers <= 1:
        scorer = Scorer(job)
        for chunk in chunks:
            with neutral(scorer.device, threads=1):
                rows = [row for index, labels in chunk for row in scorer.score(index, labels)]
            yield rows, len(chunk)
        return

    context = multiprocessing.get_context("spawn")
    waiting = iter(chunks)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job,)) as pool:
        running: dict[Future, int] = {}
        try:
            for chunk in waiting:
                running[pool.submit(_score_chunk, chunk)] = len(chunk)
                if len(running) >= 2 * workers:
                    yield from _collect(running)
            while running:
                yield from _collect(running)
        except BrokenProcessPool as error:
            raise HarnessError(
                "a worker process died (out of memory, or killed): finished scores are stored; run the same "
                "command again to go on, with workers=1 if memory is short"
            ) from error
        except BaseException:
            # What the workers have begun nobody would store, and a network may take minutes.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _collect(running: dict[Future, int]) -> Iterator[tuple[list[tuple[str, Row]], int]]:
    """What has finished; raises the first exception among it when all else has been given."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=lambda future: future.exception() is not None):
        finished = running.pop(future)
        yield future.result(), finished


def _default_workers(device: str) -> int:
    """One process a core the scheduler lets us use; at most `GPU_WORKERS` on a GPU.

    Networks of these spaces are small: on a GPU what costs is to launch their kernels, one after the other, which
    several processes do at once.
    """
    cores = usable_cores()
    return cores if resolve_device(device).type == "cpu" else min(cores, GPU_WORKERS)
