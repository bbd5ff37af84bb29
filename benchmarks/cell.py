"""Cell and record: what decides a number, and the number with all that belongs to it.

Both are plain data and JSON; nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from generators.plain import parse_json

from .record_shape import check_cell, check_shape

PROTOCOL = 1  # raise when the same cell would give another number; say why in benchmarks/report/readme.py
LATER = ("train_data", "train_labels", "test_size")  # what a cell may say since protocol 1 was fixed
NO_MODEL = "none"  # model of the controls that look at pictures only
NO_INTRINSIC = "none"  # intrinsic of what is measured once per model (Frechet distance)


@dataclass(frozen=True)
class Cell:
    """Everything that decides a number, every default filled in; its hash names its record.

    Attributes:
        model: generator name, or NO_MODEL.
        weights: identity of the generator's weights, "" for NO_MODEL.
        intrinsic: normal, depth, albedo, shading, or NO_INTRINSIC.
        method: a name in probes.methods.METHODS.
        options: all options of the method.
        data: data set name; world: its fingerprint.
        size: pixels a side.
        train, validation, test: numbers of pictures.
        labels: where truth comes from ("exact" on rooms, or a predictor's name).
        alignment: of depth before it is scored: "none", "scale", "scale-shift", "unit".
        seed: of everything random in the cell.
        train_data, train_labels: of the training and validation pictures, "" for those of the test.
        test_size: pixels a side of the test pictures, 0 for `size`.
    """

    model: str
    weights: str
    intrinsic: str
    method: str
    options: Mapping[str, Any]
    data: str
    world: str
    size: int
    train: int
    validation: int
    test: int
    labels: str = "exact"
    alignment: str = "none"
    seed: int = 0
    protocol: int = PROTOCOL
    train_data: str = ""
    train_labels: str = ""
    test_size: int = 0

    @property
    def hash(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON; computed once, and again if options change."""
        options, found = self.__dict__.get("_hash", (None, ""))
        if options != self.options:
            found = hashlib.sha256(canonical(self.facts()).encode()).hexdigest()[:16]
            object.__setattr__(self, "_hash", (dict(self.options), found))
        return str(found)

    def facts(self) -> dict[str, Any]:
        """Every value, but those of LATER that say nothing: cells made before them keep their hashes."""
        told = self.__dict__.items()
        values = {name: value for name, value in told if name != "_hash" and (value or name not in LATER)}
        return values | {"options": dict(self.options)}

    def asked_of(self, split: str) -> tuple[str, str, int]:
        """Data set, label source and pixels a side of a split's pictures."""
        if split == "test":
            return self.data, self.labels, self.test_size or self.size
        return self.train_data or self.data, self.train_labels or self.labels, self.size

    def with_(self, **changes: Any) -> Cell:
        """The cell with some values replaced."""
        if not changes.keys() <= _FIELDS:
            raise TypeError(f"a cell has no {', '.join(sorted(changes.keys() - _FIELDS))}")
        made = object.__new__(Cell)  # as dataclasses.replace makes it
        made.__dict__.update(
            {name: value for name, value in self.__dict__.items() if name != "_hash"} | changes
        )
        return made

    def __str__(self) -> str:
        where = "" if self.data == "rooms" else f" / {self.data}"
        return f"{self.model} / {self.intrinsic} / {self.method}{where} / seed {self.seed}"


_FIELDS = {field.name for field in fields(Cell)}
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=dict)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return _ENCODER.encode(value)


_CHECKSUM = ',\n "checksum": "'


def sealed(text: str) -> str:
    """The text of a JSON object with the CRC-32 of all before it in its last line: against accidents only."""
    text = text.removesuffix("\n}")
    return f'{text}{_CHECKSUM}{zlib.crc32(text.encode()):08x}"\n}}'


def unsealed(text: str) -> str:
    """Inverse of sealed, whatever the checksum is."""
    before, found, _ = text.rpartition(_CHECKSUM)
    return before + "\n}" if found else text


@dataclass
class Record:
    """What came of a cell.

    Attributes:
        status: "done" or "failed"; a failed record has a reason and no scores.
        scores: metric -> mean over the test pictures (or the value, for "frechet").
        per_image: metric -> one number per test picture, in order.
        parameters: "trainable" and "total", counts without the model's new head; "head", where one was
            trained.
        details: what else the method found out (chosen layer, ridge strength, losses ...).
        seconds: phase -> seconds; timing is not part of a record's identity.
        environment: versions, commit, device, op implementation, threads, peak memory.
        generator: facts of the generator's spec that reports need (family, title, domain, trained), and
            "code": whether its codes were "drawn" from seeds or "encoded" from given pictures.
        maps: path of the first predicted maps (npz), relative to the store, or None.
        samples: path of the first drawn pictures (png), those of the world below them, or None.
        adapter: path of the trained adapter, relative to the store, or None.
        log: path of what was written while it was computed, relative to the store, or None.
    """

    cell: Cell
    status: str
    reason: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    per_image: dict[str, list[float]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    maps: str | None = None
    samples: str | None = None
    adapter: str | None = None
    log: str | None = None

    def to_json(self) -> str:
        """One record as JSON text with its cell's hash and, in its last line, a checksum of all before it."""
        facts = asdict(self) | {"cell": self.cell.facts()}
        return sealed(json.dumps({"hash": self.cell.hash} | facts, indent=1, allow_nan=False))

    @staticmethod
    def from_json(text: str, known: Mapping[str, Cell] | None = None) -> Record:
        """Inverse of to_json; raises ValueError if the text is no record or its hash is not its cell's.

        A checksum, if it has one (earlier versions wrote none), has to be that of the text.

        Args:
            known: cells by hash: a record of the same facts takes the cell that is there.
        """
        try:
            data = parse_json(text)
            check_shape(data)
            check_cell(data["cell"])
            claimed, checksum = data.pop("hash"), data.pop("checksum", None)
            if checksum is not None and sealed(unsealed(text)) != text.rstrip():
                raise ValueError(
                    "it was changed or damaged after it was written: its checksum is of another text "
                    '(whoever changed it on purpose takes the line "checksum" out)'
                )
            cell = (known or {}).get(claimed)
            if cell is None or cell.facts() != data["cell"]:
                cell = Cell(**data["cell"])
            record = Record(**(data | {"cell": cell}))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a record: {error}") from error
        if claimed != record.cell.hash:
            raise ValueError(f"record says hash {str(claimed)[:40]}, its cell hashes to {record.cell.hash}")
        return record

    def outcome(self) -> dict[str, Any]:
        """What must be the same whenever the same cell runs on the same machine."""
        kept = ("status", "scores", "per_image", "parameters", "details")
        return {"cell": self.cell.facts()} | {name: getattr(self, name) for name in kept}
