"""The paper's numbers, as they come with the package: text as printed, checked to be numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from generators.errors import UserError

NORMALS = ("normal_mean_deg", "normal_median_deg", "normal_l1_x100")
DEPTHS = ("depth_rms", "depth_delta1_percent")
PARAMETERS = ("lora_params_m", "generator_params_m")
# File to its columns: those that say which line it is, then those that hold what was published.
SHEETS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "table1": (("model", "pretraining", "domain"), ("normal", "depth", "albedo", "shading")),
    "table2": (
        ("model", "pretraining", "domain"),
        ("lora_params_percent", *NORMALS, *DEPTHS, "albedo_rms", "shading_rms"),
    ),
    "table3": (
        ("model", "pretraining"),
        ("lora_params_percent", *NORMALS, *DEPTHS),
    ),
    "table4": (
        ("method", "train_images"),
        ("steps_per_s", "peak_train_gpu_mem_percent", "normal_mean_deg", "normal_l1_x100"),
    ),
    "table5": (("method",), NORMALS),
    "table6": (
        ("model", "dataset"),
        ("resolution", "rank", "learning_rate", "batch_size", *PARAMETERS, "convergence_steps"),
    ),
    "figure7": (
        ("rank", "source"),
        ("lora_params_m", "lora_params_percent", "normal_mean_deg", "normal_l1_x100"),
    ),
    "figure8": (("labels", "source"), ("normal_mean_deg", "normal_l1_x100")),
    "figure9": (("model", "source"), ("normal_mean_deg", "normal_l1_x100")),
    "figure13_steps": (("diffusion_steps", "cfg_scale"), ("normal_mean_deg", "normal_l1_x100")),
    "figure14_cfg": (("cfg_scale", "diffusion_steps"), ("normal_mean_deg", "normal_l1_x100")),
    "figure15_targets": (("lora_targets",), ("normal_mean_deg", "normal_l1_x100")),
    "fid": (("model", "domain", "source"), ("fid",)),
    "fid_charts": (("model", "guidance", "source"), ("fid",)),
}
WORDS = {"table1": ("yes", "partial", "no")}  # files whose values are words
SHIPPED = Path(__file__).parent / "numbers"  # in a checkout a link to results/published
MEND = "bring the file back as it was committed: git checkout results/published (or install again)"

Line = Mapping[str, str]
Published = Mapping[str, Sequence[Line]]


@dataclass(frozen=True)
class _Place:
    """Where in which file something is wrong."""

    path: Path

    def wrong(self, what: str, known: str = "") -> UserError:
        return UserError(f"the published numbers {self.path.name}", what, known, MEND)


def read_published(folder: Path) -> Published:
    """File's name without ending -> its lines, in order.

    Args:
        folder: where they are, `results/published` of a checkout; the package's own where there is none.

    Raises:
        UserError: a file that is missing, has other columns, a line of another length, twice the same
            line, or a value that is neither a number (table 1: yes, partial, no) nor empty.
    """
    place = folder if folder.is_dir() else SHIPPED
    return {name: _read(place / f"{name}.csv", name) for name in SHEETS}


def _read(path: Path, name: str) -> list[Line]:
    place, (keys, values) = _Place(path), SHEETS[name]
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise place.wrong(f"it cannot be read: {type(error).__name__}: {error}") from error
    head = [*keys, *values]
    if not rows or sorted(rows[0]) != sorted(head):
        raise place.wrong(f"its columns are {', '.join(rows[0]) if rows else 'missing'}", ", ".join(head))
    lines: list[Line] = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise place.wrong(f"line {number} has {len(row)} values", f"columns: {len(head)}")
        line = dict(zip(rows[0], row, strict=True))
        for column in values:
            _check(place, number, column, line[column], WORDS.get(name))
        lines.append(line)
    _refuse_twice(place, lines, keys)
    return lines


def _check(place: _Place, number: int, column: str, text: str, words: tuple[str, ...] | None) -> None:
    where = f"line {number}: {column} = {text!r}"
    if words is not None:
        if text not in words:
            raise place.wrong(f"{where} is none of the paper's marks", ", ".join(words))
    elif text and to_number(text) is None:
        raise place.wrong(f"{where} is no number", "a number, or empty where the paper gives none")


def to_number(text: str) -> float | None:
    """The finite number a text stands for, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _refuse_twice(place: _Place, lines: Sequence[Line], keys: Sequence[str]) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, line in enumerate(lines, 2):
        key = tuple(line[k] for k in keys)
        if key in seen:
            raise place.wrong(f"lines {seen[key]} and {number} are both {' / '.join(key)}")
        seen[key] = number


def only(published: Published, name: str, **keys: str) -> Line:
    """The one line with these values; raises UserError where there is none."""
    found = [line for line in published[name] if all(line[k] == v for k, v in keys.items())]
    if len(found) != 1:
        said = ", ".join(f"{k} = {v}" for k, v in keys.items())
        known = "; ".join(" / ".join(line[k] for k in SHEETS[name][0]) for line in published[name])
        raise UserError(f"{said} of {name}.csv", f"{len(found)} lines say so, one is wanted", known, MEND)
    return found[0]
