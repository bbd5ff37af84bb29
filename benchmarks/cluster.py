"""Cells on a Ray cluster: one task for each, the store as the only thing the machines share.

A task calls what a local worker calls (`benchmarks.worker.compute`) with the store at its address. Ray gives
tasks out and says whether they came back; it retries nothing: that a machine was lost is a message to the
runner, which gives the cell out again and says so.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from generators.errors import UserError

from .at_work import read_json
from .cell import Cell
from .engine import Message, Slot
from .files import StoreError
from .hands import plain
from .plan import Estimates
from .store import Store, store_at
from .worker import Settings, compute, environment, failure, set_up

_LOOK = 1.0  # seconds between two looks at what tasks say in the store
_GRACE = 5.0  # seconds that tasks have to end when they are told to
_STEP = 64 * 2**20  # bytes; Ray keeps a queue for each amount of memory that is asked for
_OBJECTS = 100 * 2**20  # bytes of Ray's object store on a machine that we start it on: results are a line
_OWN = "INTRINSIC_BENCH_"  # variables of ours: a node's own count, the driver's where it has none


# On a node.


def work(cell: Mapping[str, Any], address: str, settings: str, cut: int) -> Message:
    """Compute one cell in this process; what came of it, as a message to the runner.

    Args:
        cell: as `benchmarks.hands.plain` has it.
        address: of the store, seen from here.
        settings: JSON of the Settings.
        cut: see `benchmarks.worker.compute`.
    """
    asked, made = Settings(**json.loads(settings)), Cell(**cell)
    try:
        set_up(asked)
        record = compute(made, store_at(address), asked, lambda message: None, cut)
    except Exception as error:
        message = failure(error, made, asked.device)
        if message.get("retire"):
            _let_go()
        return message
    memory = record.environment.get("peak_memory_mib")
    return {"kind": "done", "seconds": record.seconds["total"], "memory": memory}


def _let_go() -> None:
    """Free the models and data this process holds: memory was short, and Ray may give it another cell."""
    loaded = sys.modules.get("benchmarks.execute")
    if loaded is not None:
        loaded._sessions.clear()
    gc.collect()


def _task() -> Any:
    """The function that Ray sends out, whole: a node may need the driver's paths to find this package."""

    def compute_cell(
        paths: list[str],
        variables: dict[str, str],
        cell: dict[str, Any],
        address: str,
        settings: str,
        cut: int,
    ) -> Any:
        import os
        import sys

        sys.path.extend(path for path in paths if path not in sys.path)
        for name, value in variables.items():
            os.environ.setdefault(name, value)
        from benchmarks.cluster import work

        return work(cell, address, settings, cut)

    return compute_cell


# On the driver's machine.


def _import() -> Any:
    """The package; raises UserError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report home
    try:
        import ray
    except ImportError as error:
        known = "the engine 'local' needs nothing more"
        todo = "pip install 'intrinsic-bench[cluster]'"
        raise UserError("--engine ray", f"Ray is not installed ({error})", known, todo) from error
    return ray


def _connect(address: str, workers: int | None) -> Any:
    """Ray, connected to a cluster or started on this machine; raises UserError where that fails."""
    ray = _import()
    if ray.is_initialized():
        return ray
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    asked = f"--engine ray --address {where}"
    if where.startswith("ray://"):
        todo = "run on a machine of the cluster, with --address HOST:6379"
        raise UserError(asked, "Ray Client has the driver outside of the cluster", "HOST:6379, auto", todo)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "address": where}
    if where == "local":
        os.environ.setdefault("RAY_worker_niceness", "0")  # its own is 15: whatever else runs goes first
        options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _OBJECTS}
    try:
        _reach(where)
        ray.init(**options)
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        known = "a cluster is started with: ray start --head (see benchmarks/CLUSTER.md)"
        todo = "is it there, with this Ray and Python, and is its token here? ray status --address HOST:6379"
        raise UserError(asked, f"{type(error).__name__}: {error}", known, todo) from error
    _quiet()
    return ray


def _reach(where: str) -> None:
    """Raise OSError if nobody answers at HOST:PORT; Ray itself tries for ten minutes."""
    host, _, port = where.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), _GRACE).close()


def _quiet() -> None:
    """Ray prints what becomes of its workers on standard output, which is ours; there is no option for it."""
    from ray._private import worker

    assert callable(worker.print_to_stdstream)
    worker.print_to_stdstream = lambda *anything, **named: None


def _size(amount: float) -> str:
    return f"{amount / 1e9:.1f} GB"


def _nodes(ray: Any) -> list[tuple[str, dict[str, float]]]:
    """Name and resources of the living nodes."""
    return [(node["NodeManagerHostname"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _told(resources: Mapping[str, float]) -> str:
    """CPUs, GPUs and memory, for people."""
    amounts = [f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU")]
    return ", ".join([*amounts, f"{_size(resources.get('memory', 0))} of memory"])


def refuse_too_large(
    needs: Iterable[tuple[Cell, Mapping[str, float]]], nodes: Sequence[tuple[str, Mapping[str, float]]]
) -> None:
    """Raise UserError if a cell needs more than any node has: it would wait forever.

    Args:
        needs: each cell with its amount by resource ("CPU", "GPU", "memory" in bytes).
        nodes: name and resources of each.
    """
    for cell, need in needs:
        if not any(all(has.get(name, 0) >= n for name, n in need.items()) for _, has in nodes):
            here = "; ".join(f"{name} ({_told(has)})" for name, has in nodes[:8]) or "no nodes"
            more = f"; and {len(nodes) - 8} more" if len(nodes) > 8 else ""
            wrong = f"no node of the cluster can ever hold it: it needs {_told(need)}"
            todo = "add a larger node, leave such cells out with --only, or see --gpus-per-cell"
            raise UserError(f"compute {cell} by --engine ray", wrong, here + more, todo)


def _check_gpus(device: str, gpus: float) -> None:
    """Raise UserError for what no task can be asked to have."""
    if ":" in device:
        known = "on a cluster it is Ray that chooses the GPU of each cell"
        raise UserError(f"--device {device} --engine ray", "one GPU of all nodes is meant", known, "cuda")
    fits = 0 < gpus < 1 or (1 <= gpus < math.inf and gpus.is_integer())
    if device != "cpu" and not fits:
        wrong = "no such share of GPUs can be had"
        raise UserError(f"--gpus-per-cell {gpus:g}", wrong, "0.25, 0.5, 1, 2 ...", "--gpus-per-cell 1")


def _why_gone(host: str, gone: Mapping[str, str]) -> str:
    """Why Ray has given up a host, "" if it has not.

    Args:
        host: as `claims.machine` names it: in a container with eight digits that Ray does not know.
        gone: reasons by the names that Ray has for hosts.
    """
    return gone.get(host) or gone.get(re.sub(r"-[0-9a-f]{8}$", "", host), "")


class Task(Slot):
    """One cell of a cluster.

    Attributes:
        ref: the result to come, None if it is free.
        said: what the store last said of its cell, as text; what an earlier attempt left, at first.
        host: whose node has said something of this attempt, "" while it is in Ray's queue.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.ref: Any = None
        self.said, self.host = "", ""


class RayEngine:
    """Cells as tasks of a Ray cluster.

    Args:
        cells: all that are going to be asked for: a cell that no node can hold is refused here.
        store: where every node finds it by the same address: a shared folder, or a URL.
        settings: how cells are computed.
        expected: memory of cells.
        workers: cells at once; None for as many as the cluster holds.
        address: HOST:PORT of the cluster, "auto"; "" for $RAY_ADDRESS, else Ray on this machine alone.
        gpus_per_cell: of a node, where the device is CUDA; may be a fraction.

    Raises UserError.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        store: Store,
        settings: Settings,
        *,
        expected: Estimates,
        workers: int | None = None,
        address: str = "",
        gpus_per_cell: float = 1.0,
    ) -> None:
        _check_gpus(settings.device, gpus_per_cell)
        self.store, self.settings, self.expected = store, settings, expected
        self.gpus = 0.0 if settings.device == "cpu" else gpus_per_cell
        self._own = not _import().is_initialized()
        self.ray = _connect(address, workers)
        try:
            nodes = _nodes(self.ray)
            refuse_too_large(((cell, self._needs(cell)) for cell in cells), nodes)
            count = workers or self._capacity(nodes)
        except BaseException:
            self.close()
            raise
        # Of a task with a GPU Ray ends the process, which holds memory of that GPU; others go on to the next.
        self._function = self.ray.remote(
            num_cpus=1,
            num_gpus=self.gpus,
            max_retries=0,
            runtime_env={"env_vars": environment(settings)},
        )(_task())
        self.tasks = [Task(number) for number in range(min(count, len(cells)))]
        self._looked = 0.0

    @property
    def slots(self) -> Sequence[Task]:
        """Every place."""
        return self.tasks

    def _needs(self, cell: Cell) -> dict[str, float]:
        """What a cell has to have on a node, by Ray's names."""
        memory = math.ceil(self.expected.memory(cell) * 2**20 / _STEP) * _STEP
        return {"CPU": 1, "memory": memory} | ({"GPU": self.gpus} if self.gpus else {})

    def _capacity(self, nodes: Sequence[tuple[str, Mapping[str, float]]]) -> int:
        """Cells that all nodes together hold at once, by CPUs and GPUs."""
        count = sum(
            min(int(has.get("CPU", 0)), int(has.get("GPU", 0) / self.gpus) if self.gpus else sys.maxsize)
            for _, has in nodes
        )
        return max(1, count)

    def give(self, slot: Slot, cell: Cell) -> None:
        """Send a cell out."""
        task, needs = self.tasks[slot.number], self._needs(cell)
        task.said, task.host = self._read(cell), ""
        sent = self._function.options(name=str(cell), memory=needs["memory"])
        variables = {name: value for name, value in os.environ.items() if name.startswith(_OWN)}
        installed = (sys.prefix, sys.base_prefix)  # every node has its own
        paths = [entry or os.getcwd() for entry in sys.path if not entry.startswith(installed)]
        address = self.store.address if "://" in self.store.address else os.path.abspath(self.store.address)
        task.ref = sent.remote(paths, variables, plain(cell), address, self.settings.to_json(), slot.cut)

    def listen(self, seconds: float) -> list[tuple[Slot, Message]]:
        """What came back, and what tasks say in the store of how far they are."""
        busy = {task.ref: task for task in self.tasks if task.cell and task.ref is not None}
        ready: list[Any] = []
        if busy:
            ready, _ = self.ray.wait(list(busy), num_returns=1, timeout=seconds)
        found: list[tuple[Slot, Message]] = []
        for ref in ready:
            busy[ref].ref = None
            found.append((busy[ref], self._result(ref)))
        return found + self._progress()

    def _result(self, ref: Any) -> Message:
        """What a task came to."""
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        try:
            message: Message = self.ray.get(ref)
        except RayTaskError as error:  # it never came as far as the cell, or broke in Ray's own hands
            text = str(error)
            reason = text.strip().splitlines()[-1]
            return {"kind": "failed", "reason": reason, "traceback": text, "retire": False}
        except RayError as error:
            reason = " ".join(str(error).split())[:300]
            short = isinstance(error, OutOfMemoryError)  # of the machine: Ray ends the newest task
            return {"kind": "lost", "reason": f"{type(error).__name__}: {reason}", "short": short}
        return message

    def _read(self, cell: Cell) -> str:
        """How far a cell is, as the store says it; without its last sign of life, which is no progress."""
        state = read_json(self.store.progress / f"{cell.hash}.json") or {}  # it ends, or is being replaced
        if not (isinstance(state.get("host"), str) and isinstance(state.get("share"), int | float)):
            return ""
        told = {name: value for name, value in state.items() if isinstance(value, str | int | float)}
        return json.dumps(told | {"at": ""})

    def _progress(self) -> list[tuple[Slot, Message]]:
        """Signs of life: new ones of what nodes are at; a cell in Ray's queue is waiting, not silent."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return []
        self._looked = now
        with suppress(StoreError):  # the way to a remote store is broken: then nobody shows signs of life
            self.store.pull("progress")
        gone = self._gone()
        found: list[tuple[Slot, Message]] = []
        for task in self.tasks:
            if task.cell and task.ref is not None:
                found += [(task, message) for message in self._heard(task, task.cell, gone)]
        return found

    def _gone(self) -> dict[str, str]:
        """Hosts that Ray has given up, and why; of their results it would itself wait on, for minutes."""
        nodes = self.ray.nodes()
        living = {node["NodeManagerHostname"] for node in nodes if node["Alive"]}
        dead = {node["NodeManagerHostname"]: node for node in nodes if not node["Alive"]}
        return {
            host: node.get("DeathReasonMessage") or "no answer"
            for host, node in dead.items()
            if host not in living
        }

    def _heard(self, task: Task, cell: Cell, gone: Mapping[str, str]) -> list[Message]:
        """What is new of one task: that its host is gone, how far it is, or that it waits for a node."""
        if why := _why_gone(task.host, gone):
            task.ref = None
            return [{"kind": "lost", "reason": f"the node {task.host} is gone: {why}"[:300]}]
        text = self._read(cell)
        state = json.loads(text) if text and text != task.said else {}
        # A host that is cut off may still be at an earlier attempt.
        if state and not _why_gone(state["host"], gone):
            task.said, task.host = text, state["host"]
            return [{"kind": "progress", "share": state["share"], "phase": str(state.get("phase", ""))}]
        return [] if task.host else [{"kind": "progress", "share": 0.0, "phase": "queued"}]

    def end(self, slot: Slot, dump: bool = False) -> str:
        """Kill the process that computes a cell; what it wrote is in the cell's log, in the store."""
        task = self.tasks[slot.number]
        self._cancel([task])
        return ""

    def _cancel(self, tasks: Iterable[Task]) -> None:
        refs = [task.ref for task in tasks if task.ref is not None]
        for ref in refs:
            self.ray.cancel(ref, force=True)
        if refs:
            self.ray.wait(refs, num_returns=len(refs), timeout=_GRACE)
        for task in tasks:
            task.ref = None

    def close(self) -> None:
        """End every task of this run; Ray too, if it was started or connected to for it."""
        if self.ray.is_initialized():
            self._cancel(getattr(self, "tasks", []))
            if self._own:
                self.ray.shutdown()
