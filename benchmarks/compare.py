"""`intrinsic-bench compare`: two cells on the same pictures, or an error that says why they do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from generators.errors import UserError

from .cell import NO_INTRINSIC, Record


def what_must_agree(record: Record) -> dict[str, Any]:
    """Everything in which two numbers may not differ if one is to be set against the other.

    The world of the training pictures may differ, and so may all that is asked: model, method, options,
    seed, number of training pictures.
    """
    cell = record.cell
    agree: dict[str, Any] = {
        "protocol": cell.protocol,
        "intrinsic": cell.intrinsic,
        "data set": cell.data,
        "labels": cell.labels,
        "world": cell.world.split(" trained on ")[0],
        "pixels a side": cell.test_size or cell.size,
        "alignment": cell.alignment,
        "test pictures": cell.test,
    }
    if cell.intrinsic == NO_INTRINSIC:
        agree |= {name: record.details.get(name) for name in ("extractor", "samples", "reference")}
        agree |= {name: cell.options.get(name) for name in ("steps", "guidance", "network")}
    elif record.generator.get("code") == "drawn":
        agree["pictures drawn by"] = f"{cell.model}, {cell.weights}"
    return agree


def refuse_unlike(first: Record, second: Record) -> None:
    """Raise UserError, naming every difference, unless two records may be set against each other."""
    a, b = what_must_agree(first), what_must_agree(second)
    apart = {name: (a.get(name), b.get(name)) for name in {**a, **b} if a.get(name) != b.get(name)}
    if apart:
        raise UserError(
            f"{first.cell} against {second.cell}",
            "they do not compare: they differ in " + ", ".join(apart),
            "; ".join(f"{name}: {x!r} and {y!r}" for name, (x, y) in apart.items()),
            "measure both under one protocol, or show them in tables of their own",
        )


def compare_records(first: Record, second: Record, metric: str | None = None) -> Mapping[str, Any]:
    """First minus second on the same pictures: mean, interval, p; raises UserError if they do not compare."""
    from .metrics import primary_metric
    from .metrics.paired import paired

    for record in (first, second):
        if record.status != "done":
            raise UserError(
                f"{record.cell}", "it failed, and has no scores", record.reason[:200], "run it again"
            )
    refuse_unlike(first, second)
    name = metric or primary_metric(first.cell.intrinsic).name
    values = [record.per_image.get(name) for record in (first, second)]
    if not values[0] or not values[1]:
        both = ", ".join(sorted(set(first.per_image) & set(second.per_image)))
        wrong = "not both have one number for each picture"
        raise UserError(f"metric {name!r}", wrong, f"both have: {both}", "--metric with one of these")
    found = paired(values[0], values[1], first.details.get("groups"))
    return {"first": str(first.cell), "second": str(second.cell), "metric": name} | found._asdict()


def read_record(where: str) -> Record:
    """The record in a file; raises UserError if it is none."""
    path = Path(where)
    try:
        return Record.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = "a record is results/SUITE/records/HASH.json; intrinsic-bench plan SUITE lists the hashes"
        raise UserError(f"record {where}", f"it cannot be read: {error}", known, "name a record") from error


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--metric", help="By default the one that stands for the intrinsic.")
def compare(first: str, second: str, metric: str | None) -> None:
    """FIRST minus SECOND, two records (JSON files), picture by picture.

    Mean difference with a 95 % bootstrap interval over pictures, or groups of them, and p of the sign-flip
    test. Records of other data, labels, sizes, alignments or protocols are refused, and the difference named.
    """
    click.echo(json.dumps(compare_records(read_record(first), read_record(second), metric), indent=1))
