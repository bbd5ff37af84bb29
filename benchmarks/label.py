"""`intrinsic-bench label`: what a predictor says of the pictures of a data set, or of a folder, as files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generators.errors import UserError
from generators.plain import parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from .data.load import Pictures
    from .predictors.base import PredictorSpec

MADE_BY = "intrinsic-bench label"
SIDECAR = "label.json"
COUNT = 10  # pictures of a data set unless told otherwise
STEP = 8  # pictures between two looks at the clock
INTERRUPTED = 130  # exit status of Ctrl-C


@click.command()
@click.option("--predictor", required=True, help="See: intrinsic-bench ls predictors.")
@click.option("--data", required=True, metavar="D", help="A data set, or a folder of pictures.")
@click.option("--split", default="test", show_default=True, help="Of a data set.")
@click.option(
    "--count", type=click.IntRange(1), help=f"Pictures.  [default: {COUNT} of a data set, all of a folder]"
)
@click.option(
    "--size", type=click.IntRange(16), help="Pixels a side.  [default: the data set's, or the network's]"
)
@click.option("--intrinsic", "intrinsics", multiple=True, help="Once or more.  [default: all it gives]")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the maps."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
def label(predictor: str, data: str, out: Path, intrinsics: tuple[str, ...], **options: Any) -> None:
    """Write maps (NPY, and PNG to look at) that a predictor sees, and label.json. Run it again to continue.

    Pictures are cropped to squares. Of a data set with exact truth the predictor's own error is said, too.

    Exit status: 0 all is done, 2 something to mend, 130 stopped by Ctrl-C.
    """
    try:
        found = label_into(predictor, data, out, intrinsics=intrinsics, say=_say, **options)
    except KeyboardInterrupt:
        _say("stopped; what is done is done. To continue, run the same command again.")
        sys.exit(INTERRUPTED)
    click.echo(f"{out}: {found['finished']} pictures by {predictor} ({found['predictor']['licence']})")
    for line in error_lines(found["errors"]):
        click.echo(line)


def _say(text: str) -> None:
    click.echo(text, err=True)


@dataclass(frozen=True)
class Asked:
    """What is to be labeled.

    Attributes:
        names: of the pictures' files, without intrinsic and ending.
        settings: what decides the pictures, for the sidecar.
        pictures: (rows) -> (n 3 size size) in [-1, 1].
        truth: (rows, intrinsics) -> pictures with exact maps; None where there are none.
        exact: intrinsics with exact truth.
    """

    names: tuple[str, ...]
    settings: Mapping[str, Any]
    pictures: Callable[[range], Tensor]
    truth: Callable[[range, Sequence[str]], Pictures] | None = None
    exact: tuple[str, ...] = ()


def label_into(
    predictor: str,
    data: str,
    out: Path,
    *,
    split: str = "test",
    count: int | None = None,
    size: int | None = None,
    intrinsics: Sequence[str] = (),
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Label pictures into a folder; returns what its label.json says.

    NAME.INTRINSIC.npy (h w c, float32, natural units) and NAME.INTRINSIC.png for every picture; what is
    there from an earlier run with the same settings is kept.

    Raises UserError: nothing of this name; no such device; missing weights; or the folder holds files that
    are not this command's, or of other settings.
    """
    from probes import memory

    from .devices import check_device
    from .predictors.labeling import check_asked
    from .predictors.registry import describe_predictor, load, on_machine

    check_device(device)
    memory.forget()
    spec = describe_predictor(predictor)
    wanted = tuple(dict.fromkeys(intrinsics)) or spec.intrinsics
    check_asked(predictor, wanted)
    if not on_machine(predictor):
        load(predictor)  # says what is missing, and how to get it
    _check_apart(Path(data), out)
    asked = _asked(data, split, count, size or 0, spec)
    settings = {**asked.settings, "predictor": predictor, "intrinsics": list(wanted)}
    facts = _begin(out, asked, settings, spec)
    _draw(out, asked, wanted, predictor, device, facts, say)
    for line in memory.shortages():
        say(line)
    facts["errors"] = _errors(out, asked, wanted, spec) if asked.truth else {}
    _write_facts(out, facts)
    return facts


# What is asked.


def _check_apart(pictures: Path, out: Path) -> None:
    """Raise UserError if maps would lie among the pictures; a folder below theirs is not read."""
    if pictures.is_dir() and out.resolve() == pictures.resolve():
        raise UserError(
            f"maps of {pictures} in {out}",
            "they would lie among the pictures, and the next run would read them",
            "",
            f"choose another folder, as --out {pictures / 'maps'}",
        )


def _asked(data: str, split: str, count: int | None, size: int, spec: PredictorSpec) -> Asked:
    if Path(data).is_dir():
        return _asked_folder(Path(data), count, size or spec.input_size)
    return _asked_data(data, split, count or COUNT, size)


def _asked_folder(folder: Path, count: int | None, size: int) -> Asked:
    import torch

    from .data.folder import picture_files, read_picture
    from .predictors.base import file_digest

    files = picture_files(folder)[:count]
    stems = [path.stem for path in files]
    names = tuple(p.stem if stems.count(p.stem) == 1 else p.name for p in files)
    listed = {name: file_digest(path) for name, path in zip(names, files, strict=True)}

    def pictures(rows: range) -> Tensor:
        return torch.stack([read_picture(files[i], size) for i in rows])

    return Asked(names, {"folder": str(folder.resolve()), "size": size, "pictures": listed}, pictures)


def _asked_data(data: str, split: str, count: int, size: int) -> Asked:
    from .data import describe, needs
    from .data.load import load_pictures

    spec = describe(data)
    if spec.own:
        raise UserError(
            f"label the data set {data!r}",
            "its pictures are those of the model that is asked, and no model is named",
            "give another data set, or a folder of pictures",
            "see: intrinsic-bench ls data",
        )
    missing = [need for need in needs(data, (split,), ()) if not need.here]
    if missing:
        told = "; ".join(f"{need.name} ({need.licence})" for need in missing)
        raise UserError(f"label the data set {data!r}", "it is not on this machine", told, missing[0].command)
    side = size or spec.resolution

    def pictures(rows: range) -> Tensor:
        return load_pictures(data, split, rows, side, ()).pictures

    def truth(rows: range, intrinsics: Sequence[str]) -> Pictures:
        return load_pictures(data, split, rows, side, intrinsics)

    names = tuple(f"{split}-{i:06d}" for i in range(count))
    settings = {"data": spec.name, "world": spec.fingerprint, "split": split, "count": count, "size": side}
    exact = spec.intrinsics if "exact" in spec.labels else ()
    return Asked(names, settings, pictures, truth if exact else None, exact)


# The folder.


def _files(name: str, intrinsics: Sequence[str]) -> list[str]:
    return [f"{name}.{intrinsic}{end}" for intrinsic in intrinsics for end in (".npy", ".png")]


def _begin(out: Path, asked: Asked, settings: Mapping[str, Any], spec: PredictorSpec) -> dict[str, Any]:
    """The sidecar of an earlier run with these settings, or a new one that claims the files to come."""
    from .files import storage_error
    from .predictors.registry import identity
    from .store import Store

    full = {**settings, "identity": identity(spec.name)}
    path = out / SIDECAR
    if path.exists():
        return _continued(path, full)
    taken = [f for n in asked.names for f in _files(n, settings["intrinsics"]) if (out / f).exists()]
    if taken:
        raise _refused(out, f"it has {taken[0]}, which this command did not write")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, f"make the folder {out}", option="--out DIR") or error from error
    Store(out).sweep()
    return {
        "made_by": MADE_BY,
        "settings": full,
        **_provenance(spec, settings["intrinsics"]),
        "finished": 0,
        "seconds": 0.0,
    }


def _refused(out: Path, wrong: str, known: str = "") -> UserError:
    return UserError(f"write maps to {out}", wrong, known or "nothing was changed", "choose another --out")


def _continued(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        said = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(path.parent, f"its {SIDECAR} cannot be read: {error}") from error
    if not isinstance(said, dict) or said.get("made_by") != MADE_BY or type(said.get("settings")) is not dict:
        raise _refused(path.parent, f"its {SIDECAR} is not of this command")
    then, now = said["settings"], json.loads(json.dumps(settings))
    differ = [
        f"{k}: {then.get(k)!r} then, {now.get(k)!r} now" for k in {**then, **now} if then.get(k) != now.get(k)
    ]
    if differ:
        raise _refused(path.parent, "the maps there were made otherwise", "; ".join(differ)[:500])
    return said


def _provenance(spec: PredictorSpec, intrinsics: Sequence[str]) -> dict[str, Any]:
    """Where the maps come from and what they mean."""
    from importlib.metadata import version

    from .predict.writing import meaning

    kept = (
        "name",
        "title",
        "source",
        "revision",
        "licence",
        "non_commercial",
        "convention",
        "depth",
        "input_size",
    )
    facts = {name: getattr(spec, name) for name in kept} | {"options": dict(spec.options)}
    values = {name: meaning(name)["npy"] for name in intrinsics}
    if "depth" in values and spec.depth != "metric":
        values["depth"] += f", {spec.convention}"
    elif "depth" in values:
        values["depth"] += ", meters along the view axis"
    packages = ("torch", "transformers", "diffusers", "numpy", "pillow")
    return {
        "predictor": facts | {"citation": spec.citation, "note": spec.note},
        "values": values | ({"axes": meaning("normal")["axes"]} if "normal" in intrinsics else {}),
        "versions": {name: version(name) for name in packages},
    }


def _write_facts(out: Path, facts: Mapping[str, Any]) -> None:
    from .predict.writing import save

    save(out / SIDECAR, (json.dumps(facts, indent=1) + "\n").encode())


# The work.


def _draw(
    out: Path,
    asked: Asked,
    intrinsics: Sequence[str],
    predictor: str,
    device: str,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Label and write what is not there yet."""
    from .predictors.labeling import label_pictures

    total = len(asked.names)
    done = [all((out / file).is_file() for file in _files(name, intrinsics)) for name in asked.names]
    if any(done):
        say(f"{sum(done)} of {total} pictures are finished")
    for start in range(0, total, STEP):
        rows = range(start, min(start + STEP, total))
        if all(done[rows.start : rows.stop]):
            continue
        begun = time.perf_counter()
        maps = label_pictures(predictor, asked.pictures(rows), intrinsics, device)
        if not (out / SIDECAR).exists():
            _write_facts(out, facts)  # the first of all files: it claims those to come
        for i, row in enumerate(rows):
            _write_maps(out, asked.names[row], {name: maps[name][i] for name in intrinsics})
        facts["seconds"] = round(facts["seconds"] + time.perf_counter() - begun, 3)
        facts["finished"] = rows.stop
        _write_facts(out, facts)
        say(f"[{rows.stop}/{total}] {asked.names[rows[-1]]}")
    facts["finished"] = total


def _write_maps(out: Path, name: str, maps: Mapping[str, Tensor]) -> None:
    from .predict.writing import Shown, npy, png8, save, viewed

    for intrinsic, value in maps.items():
        values = value.movedim(0, -1).numpy()
        save(out / f"{name}.{intrinsic}.png", png8(viewed(intrinsic, values, Shown())))
        save(out / f"{name}.{intrinsic}.npy", npy(values))


# The predictor's own error.


def alignments(intrinsic: str, depth: str) -> tuple[str, ...]:
    """How an intrinsic is aligned before it is scored: depth without unit only by scale and shift."""
    if intrinsic != "depth":
        return ("none",)
    return ("none", "scale-shift") if depth == "metric" else ("scale-shift",)


def _errors(out: Path, asked: Asked, intrinsics: Sequence[str], spec: PredictorSpec) -> dict[str, Any]:
    """Means over the pictures, by intrinsic and alignment, of what lies in the folder against the truth."""
    import numpy as np
    import torch

    from .metrics.maps import score

    known = [name for name in intrinsics if name in asked.exact]
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for start in range(0, len(asked.names) if known else 0, STEP):
        rows = range(start, min(start + STEP, len(asked.names)))
        assert asked.truth is not None
        truth = asked.truth(rows, known)
        for name in known:
            arrays = [np.load(out / f"{asked.names[i]}.{name}.npy", allow_pickle=False) for i in rows]
            maps = torch.from_numpy(np.stack(arrays)).movedim(-1, 1)
            for way in alignments(name, spec.depth):
                scores = score(name, maps, truth.maps[name], truth.mask_of(name), alignment=way)
                place = found.setdefault(name, {}).setdefault(way, {})
                for metric, values in scores.items():
                    place.setdefault(metric, []).extend(values.tolist())
    return {
        name: {
            way: {m: round(float(np.mean(v)), 6) for m, v in scores.items()} for way, scores in ways.items()
        }
        for name, ways in found.items()
    }


def error_lines(errors: Mapping[str, Any]) -> list[str]:
    """The error against the exact truth, a line for each intrinsic and alignment."""
    return [
        f"against the exact truth: {name}{'' if way == 'none' else f' ({way})'}: "
        + ", ".join(f"{metric} {value:.4g}" for metric, value in scores.items())
        for name, ways in errors.items()
        for way, scores in ways.items()
    ]
