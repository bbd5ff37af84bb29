"""Statistics of a set of pictures in one file: of our own, or in the field's form.

Ours is safetensors: "mean" (d) and "covariance" (d d) in float64, "rows" (k d) for the kernel distance, and
in the metadata count, protocol, hash of the pictures and hash of the numbers. The field's is an .npz of "mu"
(d) and "sigma" (d d) that does not say how it was measured: that is declared by whoever uses it.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.arrays import read_npz
from benchmarks.files import atomic
from benchmarks.metrics.frechet import FeatureStatistics
from generators.errors import UserError
from generators.plain import parse_json

from . import describe
from .protocol import Protocol, declared_protocol
from .resize import FILTERS
from .sets import FeatureSet

KEY = "intrinsic_bench_reference"  # in the metadata
VERSION = 1
# What numpy and zipfile raise on a file that is truncated, damaged or of another kind.
_UNREADABLE = (ValueError, TypeError, EOFError, KeyError, OSError, RuntimeError, zipfile.BadZipFile)
Array = NDArray[Any]


def _hash(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} ".encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def save_reference(path: Path, found: FeatureSet) -> str:
    """Write a set's statistics, whole or not at all; gives the hash of the numbers."""
    from safetensors.numpy import save

    statistics = found.statistics
    arrays: dict[str, Array] = {"mean": statistics.mean, "covariance": statistics.covariance}
    if found.rows is not None:
        arrays["rows"] = found.rows
    facts = {
        "version": VERSION,
        "count": statistics.count,
        "pictures": found.pictures,
        "protocol": found.protocol.facts(),
        "hash": _hash(arrays),
    }
    with atomic(path) as file:
        file.write(save(arrays, {KEY: json.dumps(facts, sort_keys=True)}))
    return str(facts["hash"])


def _refused(
    path: Path, wrong: str, todo: str = "make it again: distance PICTURES --save-reference FILE"
) -> UserError:
    known = "a .safetensors of --save-reference, or an .npz of mu and sigma"
    return UserError(f"reference statistics {path}", wrong, known, todo)


def read_reference(path: Path, declared: Mapping[str, str]) -> FeatureSet:
    """Statistics from a file of either kind; nothing in it is run.

    Args:
        declared: how an .npz was measured, see protocol.declared_protocol; {} for our own files.

    Raises:
        UserError: no such file, damaged, pickled objects, not declared, or declared though it says it itself.
    """
    if not path.is_file():
        raise _refused(path, "there is no such file", "give the path of one")
    if path.suffix == ".npz":
        return _read_npz(path, declared)
    if declared:
        raise _refused(path, "it says itself how it was measured", "leave out --declare")
    return _read_own(path)


def _read_own(path: Path) -> FeatureSet:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            facts = parse_json((file.metadata() or {}).get(KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, *_UNREADABLE) as error:
        raise _refused(path, f"it cannot be read: {str(error)[:200]}") from error
    try:
        if facts["version"] != VERSION or facts["hash"] != _hash(arrays):
            raise _refused(path, "its numbers are not those it was written with, or of another version")
        protocol, count, pictures = Protocol.read(facts["protocol"]), facts["count"], str(facts["pictures"])
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(path, f"it does not say how it was measured ({type(error).__name__})") from error
    statistics = _statistics(path, count, arrays.get("mean"), arrays.get("covariance"))
    return FeatureSet(statistics, arrays.get("rows"), pictures, protocol)


def _statistics(path: Path, count: Any, mean: Array | None, covariance: Array | None) -> FeatureStatistics:
    """Checked moments."""
    try:
        return FeatureStatistics.of_moments(count, mean, covariance)
    except ValueError as error:
        raise _refused(path, str(error)) from error


def _read_npz(path: Path, declared: Mapping[str, str]) -> FeatureSet:
    asked = f"reference statistics {path}"
    space = describe(declared["features"]) if "features" in declared else None
    protocol, count = declared_protocol(declared, space.extractor if space else "", asked)
    if protocol.resize not in FILTERS:
        raise UserError(asked, f"there is no filter {protocol.resize!r}", ", ".join(FILTERS), "name one")
    try:
        stored = read_npz(path)
        mean, covariance = stored.get("mu"), stored.get("sigma")
    except ValueError as error:
        if "allow_pickle" in str(error):
            wrong = "it holds pickled objects, which are never loaded"
            raise _refused(path, wrong, "save mu and sigma as arrays of numbers") from error
        raise _refused(path, f"it cannot be read: {str(error)[:200]}", "fetch it again") from error
    except _UNREADABLE as error:
        wrong = f"it cannot be read: {type(error).__name__}: {str(error)[:200]}"
        raise _refused(path, wrong, "fetch it again") from error
    if mean is None or covariance is None:
        raise _refused(path, f"it holds {', '.join(sorted(stored))[:200] or 'nothing'}", "give mu and sigma")
    return FeatureSet(_statistics(path, count, mean, covariance), None, "", protocol)
