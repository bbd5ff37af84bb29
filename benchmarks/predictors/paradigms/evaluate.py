"""How good the paradigms are: `python -m benchmarks.predictors.paradigms.evaluate` writes results/paradigms.

On rooms, which the network has never seen, and on paradigms that it was not trained on, beside a constant
map, the picture itself, and the network that was trained on rooms.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.data.load import load_pictures
from benchmarks.metrics.maps import score
from benchmarks.metrics.statistics import Interval, bootstrap_interval, paired_difference
from benchmarks.predictors.rooms import load_rooms_network, maps_of

from .paradigms import held_out, to_linear, to_srgb
from .predictor import WEIGHTS, identity, load

Maps = Mapping[str, Tensor]
Scores = dict[tuple[str, str, str, str], NDArray[np.float64]]  # (set, intrinsic, method, metric) -> (n,)
INTRINSICS = ("albedo", "shading")
METRICS = {"rms": "RMS ↓", "si_rms": "scale-invariant RMS ↓"}
PICTURES, SIZE = 200, 64
COLUMNS = (
    *("set", "intrinsic", "method", "metric", "mean", "low", "high", "pictures"),
    *("more", "more_low", "more_high"),
)
SHOWN = 6  # of each set on the sheet
METHODS = {
    "paradigms": "paradigms",
    "constant": "constant (mean map of the set's other pictures)",
    "picture": "the picture itself (albedo: its light; shading: its gray)",
    "rooms-network": "network trained on rooms",
}
SETS = {
    "rooms": "rooms, split test",
    "held-out": "held-out paradigms",
}


@dataclass(frozen=True)
class Set:
    """Pictures (n 3 h w) in [-1, 1], their maps (n 3 h w), the mean maps (1 3 h w) of others like them."""

    pictures: Tensor
    maps: Maps
    mean: Maps


def rooms_set(pictures: int = PICTURES) -> Set:
    """The first scenes of the split test; the mean is that of as many scenes of the split train."""
    test, train = (load_pictures("rooms", s, range(pictures), SIZE, INTRINSICS) for s in ("test", "train"))
    return Set(test.pictures, test.maps, {k: v.mean(0, keepdim=True) for k, v in train.maps.items()})


def held_out_set(pictures: int = PICTURES) -> Set:
    """The first held-out paradigms; the mean is that of as many later ones."""
    test, others = held_out(range(pictures), SIZE), held_out(range(pictures, 2 * pictures), SIZE)
    maps = {name: getattr(test, name) for name in INTRINSICS}
    return Set(test.picture, maps, {k: getattr(others, k).mean(0, keepdim=True) for k in INTRINSICS})


def answers(asked: Set) -> Iterator[tuple[str, Maps]]:
    """What each method says of the pictures: (method, intrinsic -> (n 3 h w))."""
    yield "paradigms", load()(asked.pictures)
    yield "constant", {k: v.expand_as(asked.maps[k]) for k, v in asked.mean.items()}
    light = to_linear(asked.pictures)
    yield "picture", {"albedo": light, "shading": light.mean(1, keepdim=True).expand_as(light)}
    network = load_rooms_network()
    with torch.no_grad():
        outputs = torch.cat([network(part) for part in asked.pictures.split(32)])
    yield "rooms-network", {name: maps_of(outputs, name) for name in INTRINSICS}


def measure(sets: Mapping[str, Set]) -> Scores:
    """Every score of every picture."""
    found: Scores = {}
    for place, asked in sets.items():
        for method, maps in answers(asked):
            for name in INTRINSICS:
                truth = asked.maps[name]
                mask = torch.ones_like(truth[:, :1], dtype=torch.bool)
                for metric, values in score(name, maps[name], truth, mask).items():
                    found[place, name, method, metric] = values.numpy()
    return found


def _against(scores: Scores, key: tuple[str, str, str, str]) -> Interval:
    """A method's score minus that of the paradigms on the same pictures."""
    place, name, _, metric = key
    return paired_difference(scores[key], scores[place, name, "paradigms", metric])


def table(scores: Scores) -> str:
    """All scores with intervals, as CSV; `more` is the method minus paradigms, paired by picture."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for key, values in scores.items():
        mean, more = bootstrap_interval(values), _against(scores, key)
        numbers = [f"{x:.5f}" for x in (mean.value, mean.low, mean.high) if x is not None]
        apart = [f"{x:.5f}" for x in (more.value, more.low, more.high) if x is not None]
        writer.writerow((*key, *numbers, mean.n, *(["", "", ""] if key[2] == "paradigms" else apart)))
    return out.getvalue()


def verdict(scores: Scores, place: str, name: str, metric: str) -> str:
    """One sentence: what the paradigms are better and worse than, by the interval of the difference."""
    said: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
    for method in list(METHODS)[1:]:
        more = _against(scores, (place, name, method, metric))
        word = (
            "not told apart from"
            if not more.excludes(0)
            else "better than"
            if more.value > 0
            else "worse than"
        )
        said[word].append({"constant": "the constant", "picture": "the picture"}.get(method, f"the {method}"))
    return f"{name}, {metric}: " + "; ".join(f"{k} {', '.join(v)}" for k, v in said.items() if v)


def _rows(scores: Scores, place: str) -> Iterator[str]:
    yield "| method | " + " | ".join(f"{i}, {t}" for i in INTRINSICS for t in METRICS.values()) + " |"
    yield "| --- |" + " ---: |" * (len(INTRINSICS) * len(METRICS))
    for method, title in METHODS.items():
        cells = []
        for name in INTRINSICS:
            for metric in METRICS:
                mean = bootstrap_interval(scores[place, name, method, metric])
                cells.append(f"{mean.value:.4f} \\[{mean.low:.4f}, {mean.high:.4f}\\]")
        yield f"| {title} | {' | '.join(cells)} |"


def trained() -> dict[str, str]:
    """How the shipped weights were trained, as their file says."""
    from safetensors import safe_open

    with safe_open(str(WEIGHTS), "pt") as file:
        return dict(file.metadata() or {})


def page(scores: Scores, pictures: int) -> str:
    """The page about it, in Markdown."""
    how = trained()
    lines = [
        "# Paradigms: albedo and shading without a data set",
        "",
        "This page, `evaluation.csv` and `sheet.png` are generated; do not edit them. To make them anew:",
        "",
        "    python -m benchmarks.predictors.paradigms.evaluate",
        "",
        "The predictor `paradigms` is a U-net of 1 M parameters trained on drawn pictures alone (piecewise",
        "constant albedo, smooth and piecewise smooth shading, sparse gloss), after Forsyth and Rock, TPAMI",
        "2021. It has seen no rendered scene and no photograph. The lights it has seen were tinted a little;",
        "it takes the color of a vivid light for that of the surfaces.",
        "",
        f"Weights {identity()}: {how['steps']} steps of {how['batch']} pictures of 64 x 64 pixels,",
        "or of fewer larger ones.",
        "",
        f"{pictures} pictures each, {SIZE} x {SIZE}; mean \\[95 % bootstrap interval over pictures\\];",
        "RMS of linear RGB. A picture does not tell the scale of albedo and shading. By the paradigms'",
        "convention the brightest shading of a picture is 1; rooms do not keep to it (the 95th percentile of",
        "their shading is anything from 0.45 to 1), so there the scale-invariant RMS says more.",
    ]
    for place, title in SETS.items():
        lines += ["", f"## {title[:1].upper()}{title[1:]}", "", *_rows(scores, place), ""]
        lines += ["Paradigms are, by the interval of the difference paired by picture:", ""]
        lines += [f"- {verdict(scores, place, name, metric)}" for name in INTRINSICS for metric in METRICS]
    lines += [
        "",
        "## What it looks like",
        "",
        "![pictures, albedo and shading, predicted and true](sheet.png)",
        "",
        f"The first {SHOWN} pictures of each set: held-out paradigms on the left, rooms on the right.",
    ]
    return "\n".join(lines) + "\n"


def sheet(sets: Mapping[str, Set], path: Path) -> None:
    """Write PATH.png: a column for each of the first SHOWN pictures of each set, truth under prediction."""
    import matplotlib.pyplot as plt

    from benchmarks.report.picture import save, style

    predict = load()
    rows: dict[str, list[Tensor]] = {}
    for place in reversed(SETS):
        asked = sets[place]
        first = asked.pictures[:SHOWN]
        found = predict(first)
        rows.setdefault("picture", []).extend(first)
        for name in INTRINSICS:
            rows.setdefault(name, []).extend(to_srgb(found[name]))
            rows.setdefault(f"true {name}", []).extend(to_srgb(asked.maps[name][:SHOWN]))
    with style():
        figure, grid = plt.subplots(
            len(rows), 2 * SHOWN, figsize=(2 * SHOWN, len(rows) * 1.02), squeeze=False
        )
        figure.subplots_adjust(left=0.08, right=0.995, top=0.995, bottom=0.005, wspace=0.04, hspace=0.04)
        for axes, (label, tiles) in zip(grid, rows.items(), strict=True):
            for axis, tile in zip(axes, tiles, strict=True):
                axis.imshow((tile.movedim(0, -1).numpy() + 1) / 2, interpolation="nearest", vmin=0, vmax=1)
                axis.set_axis_off()
            axes[0].text(-0.06, 0.5, label, transform=axes[0].transAxes, ha="right", va="center", fontsize=9)
        save(figure, path, vector=False)


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write(folder: Path, pictures: int = PICTURES) -> Scores:
    """Measure, and write README.md, evaluation.csv and sheet.png into a folder."""
    sets = {"rooms": rooms_set(pictures), "held-out": held_out_set(pictures)}
    scores = measure(sets)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "evaluation.csv", table(scores))
    _write(folder / "README.md", page(scores, pictures))
    sheet(sets, folder / "sheet")
    return scores


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/paradigms"), show_default=True)
@click.option("--pictures", default=PICTURES, show_default=True, help="Of each set.")
@click.option("--threads", default=1, show_default=True)
def main(out: Path, pictures: int, threads: int) -> None:
    """Evaluate the shipped paradigms network on rooms and on held-out paradigms."""
    torch.set_num_threads(threads)
    scores = write(out, pictures)
    for place in SETS:
        for name in INTRINSICS:
            for metric in METRICS:
                click.echo(f"{place}: {verdict(scores, place, name, metric)}")


if __name__ == "__main__":
    main()
