"""A cell gives the same bits: twice, after others, in another process, by two workers, after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import execute
from benchmarks.cache import Cache
from benchmarks.runner import compute
from benchmarks.store import Store
from generators.errors import UserError
from probes import determinism
from tests.determinism.cells import METHODS, MODELS, ON_GPU, ROOT, came_of, cells, here

pytestmark = pytest.mark.slow
FIRST = 4  # of the cells: those of Stable Diffusion, and LoRA on StyleGAN2


def empty(folder: Path) -> Path:
    """A cache without anything frozen; what is compiled is kept from one session of tests to the next."""
    (folder / "cache").mkdir(parents=True)
    (folder / "cache" / "ops").symlink_to(ROOT / ".pytest_cache" / "ops")
    return folder / "cache"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty(tmp_path_factory.mktemp("frozen"))


def test_what_is_read_lies_in_memory_as_what_was_computed(tmp_path: Path) -> None:
    """Unaligned codes gave StyleGAN2 another validation error, in the eighth digit, than those just made."""
    tensors = {name: torch.rand(n) for name, n in (("a", 3), ("b", 7), ("c", 33))}
    for _ in range(2):
        found = Cache(tmp_path).get({"kind": "codes"}, lambda: tensors)
        assert all(torch.equal(found[k], tensors[k]) and found[k].data_ptr() % 64 == 0 for k in tensors)


def fresh(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Nothing is in memory from cells before, and what is frozen is in a folder, or will be."""
    patch.setattr(execute, "_sessions", {})
    patch.setenv("INTRINSIC_BENCH_CACHE", str(cache))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, Any]:
    """What came of every cell, all frozen for the first time; no other model was loaded before."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for model in MODELS:
            fresh(patch, cache)
            of_model = [cell for cell in cells() if cell.model == model]
            found |= here(of_model, tmp_path_factory.mktemp("first"))
    return found


def test_there_is_something_to_compare(first: dict[str, Any]) -> None:
    assert len(first) == len(cells()) == len(MODELS) * len(METHODS)
    told = {json.dumps(found["scores"]) for found in first.values()}
    assert len(told) == len(first)
    for found in first.values():
        trained = [name for name in found if name.endswith(".safetensors")]
        assert trained and f"{found['cell']['method']}" in METHODS
        assert ("loss_last" in found["details"]) == (found["cell"]["method"] != "linear")


def test_again_after_others_in_another_order(
    first: dict[str, Any], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, models in memory, what is frozen from the cache, PyTorch's own stream elsewhere."""
    fresh(monkeypatch, cache)
    torch.manual_seed(1234)
    assert here(reversed(cells()), tmp_path) == first


def test_two_workers_and_no_cache(
    first: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two fresh processes, at the same time, everything frozen anew."""
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(empty(tmp_path)))
    store = Store(tmp_path / "store")
    found = compute(cells(), store, workers=2)
    assert (found.status, found.computed) == (0, len(first))
    pids = {record.environment["pid"] for record in found.records}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {cell.hash: came_of(cell, store) for cell in cells()} == first


def wait_for_step(store: Path, process: subprocess.Popen[str]) -> tuple[str, int]:
    """Hash and worker of the first training that is in its midst."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout and process.stdout.read()
        for path in (store / "progress").glob("*.json"):
            try:
                said = json.loads(path.read_text())
            except (FileNotFoundError, ValueError):  # it has just ended
                continue
            if said["phase"] == "fit":
                return said["hash"], said["pid"]
        time.sleep(0.002)
    raise AssertionError("no cell began to train")


def test_on_resume_after_a_kill_in_the_middle_of_a_cell(
    first: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    """Runner and worker get SIGKILL while a cell trains; the same command then computes what is left."""
    environment = os.environ | {"INTRINSIC_BENCH_CACHE": str(cache)}
    command = [sys.executable, "-m", "tests.determinism.cells", str(tmp_path), "1", str(FIRST)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    killed, worker = wait_for_step(tmp_path, process)
    process.kill()
    os.kill(worker, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "records" / f"{killed}.json").exists()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    found = {cell.hash: came_of(cell, Store(tmp_path)) for cell in cells()[:FIRST]}
    assert found == {key: first[key] for key in found} and killed in found


# Deterministic algorithms.

SWITCH = """
import torch
from probes.determinism import ENVIRONMENT, deterministic
deterministic(), deterministic()
import os
assert torch.are_deterministic_algorithms_enabled()
assert not torch.is_deterministic_algorithms_warn_only_enabled()
assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
assert all(os.environ[name] == value for name, value in ENVIRONMENT.items())
table, rows = torch.zeros(4), torch.tensor([0, 0, 3])
try:
    table.put_(rows, torch.ones(3))
except RuntimeError as error:
    assert "deterministic" in str(error)
else:
    raise AssertionError("an operation without a deterministic algorithm ran")
"""


def test_what_is_not_deterministic_is_refused() -> None:
    """In a process of its own: the switch is the whole process's."""
    environment = {k: v for k, v in os.environ.items() if k not in determinism.ENVIRONMENT}
    asked = [sys.executable, "-c", SWITCH]
    run = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_variables_are_needed_before_cuda_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", called.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:4096:8"):
        determinism.deterministic()
    assert not called
    for value in determinism.ACCEPTED:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
        determinism.deterministic()
    assert called == [True, True]


def test_the_variables_cost_no_import_of_torch() -> None:
    """A runner asks for them and computes nothing itself."""
    code = "import sys; from probes.determinism import ENVIRONMENT; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


DETERMINISTIC = """
import json, sys
from pathlib import Path
from probes.determinism import deterministic
deterministic()
from tests.determinism.cells import ON_GPU, cells, here
print(json.dumps(here(cells(ON_GPU), Path(sys.argv[1]), "cuda"), sort_keys=True))
"""


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bits_where_it_is_told_to(tmp_path: Path) -> None:
    """Every cell in two fresh processes under deterministic algorithms, everything frozen by each of them."""
    said = []
    for name in ("one", "two"):
        own = {"INTRINSIC_BENCH_CACHE": str(empty(tmp_path / name))}
        environment = os.environ | determinism.ENVIRONMENT | own
        asked = [sys.executable, "-c", DETERMINISTIC, str(tmp_path / name / "store")]
        run = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        said.append(run.stdout.splitlines()[-1])
    assert said[0] == said[1]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:the slow reference runs")  # where there is no nvcc
def test_a_gpu_gives_nearly_the_same_numbers_by_default(
    first: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice on the GPU, everything frozen anew, and on the CPU: errors within 2 %. What is stated, not
    measured: sums in another order change the eighth digit, and eight steps of training make more of it."""
    found_by = []
    for name in ("one", "two"):
        fresh(monkeypatch, empty(tmp_path / name))
        found_by.append(here(cells(ON_GPU), tmp_path / name / "store", "cuda"))
    one, two = found_by
    for key, found in one.items():
        for other in (two[key], first.get(key, two[key])):
            assert errors(found) == pytest.approx(errors(other), rel=0.02)


def errors(found: dict[str, Any]) -> dict[str, float]:
    """Scores but for skill, which is a difference of errors and may be near zero."""
    return {name: value for name, value in found["scores"].items() if name != "skill"}
