"""Measuring what generators know. `run` computes cells, `plan` says what that would take.

from benchmarks import make_cell, run
record = run(make_cell("sd.rooms64-s5", "normal", "lora", {"steps": 100}), store="results/mine")
record.scores, record.maps, record.adapter
"""

from . import methods as _methods  # noqa: F401 (registers them)
from .cell import Cell as Cell
from .cell import Record as Record
from .plan import plan as plan
from .runner import run as run
from .suite import Suite as Suite
from .suite import load_suite as load_suite
from .suite import make_cell as make_cell
