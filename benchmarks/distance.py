"""`intrinsic-bench distance`: Frechet and kernel distance of folders of pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generators.errors import UserError

from .features import PUBLISHED, SPACES, describe
from .features.resize import FILTERS

if TYPE_CHECKING:
    from .cache import Cache
    from .features import Protocol, Space
    from .features.extractors import Extractor
    from .features.sets import FeatureSet, Part


@dataclass(frozen=True)
class Asked:
    """The options, with the feature space's own where nobody gave another."""

    space: Space
    resize: str
    size: int | None
    crop: bool
    batch: int


def _asked(name: str, resize: str | None, size: int | None, crop: bool | None, batch: int) -> Asked:
    """Options as asked for; raises UserError for a filter without a size and the like."""
    from .features.resize import check_resize

    space = describe(name)
    filter_ = resize or space.resize
    side = size if size is not None or filter_ == "none" else space.size
    check_resize(filter_, side)
    return Asked(space, filter_, side, space.crop if crop is None else crop, batch)


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option("--to", "other", type=click.Path(path_type=Path), help="Folder to compare with.")
@click.option("--reference", type=click.Path(path_type=Path), help="Statistics to compare with.")
@click.option("--save-reference", type=click.Path(path_type=Path), help="Keep the statistics of PICTURES.")
@click.option(
    "--declare", multiple=True, metavar="KEY=VALUE", help="How an .npz of --reference was measured."
)
@click.option("--features", default="rooms", show_default=True, help=f"Of {', '.join(SPACES)}.")
@click.option(
    "--resize", type=click.Choice(FILTERS), help="Filter before the network's own; default by --features."
)
@click.option("--size", type=int, help="Pixels a side; default by --features, 64 for rooms.")
@click.option("--crop/--no-crop", default=None, help="Whether to take the square in the middle.")
@click.option("--renders", default=4096, show_default=True, help="Renders to compare with, without --to.")
@click.option("--weights", type=click.Path(path_type=Path), help="Inception's file: .pt or .pth.")
@click.option("--sha256", help="What the hash of --weights must be.")
@click.option("--shard", metavar="K/N", help="Compute only the K-th of N parts of the features, and stop.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Pictures at once.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
def distance(
    pictures: Path,
    other: Path | None,
    reference: Path | None,
    save_reference: Path | None,
    declare: tuple[str, ...],
    features: str,
    resize: str | None,
    size: int | None,
    crop: bool | None,
    renders: int,
    weights: Path | None,
    sha256: str | None,
    shard: str | None,
    batch: int,
    device: str,
) -> None:
    """Frechet and kernel distance of the folder PICTURES to another folder, to statistics, or to renders.

    With --features inception it is FID and KID, with dinov2 FD-DINOv2; the rooms' own features, the default,
    are comparable with the zoo's numbers only. Features are kept in the cache by shards of 1,024 pictures:
    run it again to continue; --shard K/N in N processes, then the same without it, shares the work.
    """
    import torch

    from .cache import Cache, cache_folder
    from .devices import check_device
    from .features.sets import gathered

    check_device(device)
    torch.set_num_threads(1)
    asked = _asked(features, resize, size, crop, batch)
    against = _checked(other, reference, save_reference, declare, renders)
    extractor = _extractor(features, weights, sha256, device)
    protocol = _protocol(asked, extractor, pictures)
    cache = Cache(cache_folder())
    known = _known(reference, declare, protocol)
    samples = _file_parts(pictures, asked)
    if against == "folder":
        _check_other(asked, extractor, protocol, other)
    others = {"folder": lambda: _file_parts(other, asked), "renders": lambda: _render_parts(renders, asked)}
    compared = others[against]() if against in others else []
    if shard is not None:
        _compute_shard(shard, [*samples, *compared], extractor, protocol, cache)
        return
    measured = gathered(samples, extractor, protocol, cache, _say)
    facts = _facts(measured, asked, extractor)
    if save_reference is not None:
        facts |= _saved(save_reference, measured)
    if compared:
        known = gathered(compared, extractor, protocol, cache, _say)
    if known is not None:
        facts = _distances(measured, known, asked.space) | facts | _reference_facts(known)
    click.echo(json.dumps(facts, indent=1))


def _say(text: str) -> None:
    click.echo(text, err=True)


# What is asked.


def _checked(
    other: Path | None,
    reference: Path | None,
    save: Path | None,
    declare: Sequence[str],
    renders: int,
) -> str:
    """What PICTURES are compared with: "folder", "statistics", "renders" or "nothing"; raises UserError."""
    if other is not None and reference is not None:
        raise UserError(
            f"--to {other} --reference {reference}",
            "there is one thing to compare with",
            "",
            "give one of them",
        )
    if declare and reference is None:
        raise UserError(
            f"--declare {declare[0]}", "it is said of --reference, which is not given", "", "leave it out"
        )
    if renders < 2:
        raise UserError(
            f"--renders {renders}", "a covariance needs two pictures and more", "", "ask for more"
        )
    if save is not None and not save.resolve().parent.is_dir():
        raise UserError(f"--save-reference {save}", "there is no such folder", "", "make it first")
    if other is not None:
        return "folder"
    if reference is not None:
        return "statistics"
    return "nothing" if save is not None else "renders"


def _declared(declare: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE as a mapping; raises UserError for anything else, or a key twice."""
    pairs = [text.partition("=") for text in declare]
    if any(not key or not sign for key, sign, _ in pairs) or len({key for key, _, _ in pairs}) != len(pairs):
        raise UserError(
            f"--declare {' '.join(declare)}", "it is not KEY=VALUE, each key once", "", "write it so"
        )
    return {key: value for key, _, value in pairs}


def _extractor(name: str, weights: Path | None, sha256: str | None, device: str) -> Extractor:
    from .features.extractors import found_path, load_extractor, load_inception_file

    if (weights is not None or sha256 is not None) and name != "inception":
        raise UserError(
            f"--features {name} with --weights or --sha256", "only inception takes a file", "", "leave it out"
        )
    if weights is None and sha256 is None:
        return load_extractor(name, device)
    return load_inception_file(weights or found_path(name), sha256, device)


def _protocol(asked: Asked, extractor: Extractor, pictures: Path) -> Protocol:
    """How the pictures are measured; without resizing the size is their own."""
    from .data.folder import picture_files
    from .features import Protocol
    from .features.sets import common_size

    size = f"{asked.size}x{asked.size}"
    if asked.size is None:
        size = common_size(picture_files(pictures), asked.crop)
    space = asked.space
    return Protocol(space.name, space.extractor, extractor.weights, asked.resize, size, asked.crop)


def _check_other(asked: Asked, extractor: Extractor, protocol: Protocol, other: Path | None) -> None:
    """Raise UserError if the other folder's pictures, not resized, have another size."""
    from .features.protocol import check_same

    if other is not None:
        check_same(protocol, _protocol(asked, extractor, other), f"--to {other}")


def _known(reference: Path | None, declare: Sequence[str], protocol: Protocol) -> FeatureSet | None:
    """Statistics of a file; raises UserError, before any computing, if they were measured otherwise."""
    from .features.protocol import check_same
    from .features.reference import read_reference

    if reference is None:
        return None
    found = read_reference(reference, _declared(declare))
    check_same(protocol, found.protocol, f"--reference {reference}")
    return found


# What is computed.


def _file_parts(folder: Path | None, asked: Asked) -> list[Part]:
    from .data.folder import picture_files
    from .features.sets import file_part, parts_of

    assert folder is not None
    files = picture_files(folder)
    return [
        file_part(files[rows.start : rows.stop], asked.resize, asked.size, asked.crop, asked.batch)
        for rows in parts_of(len(files))
    ]


def _render_parts(renders: int, asked: Asked) -> list[Part]:
    from .features.sets import parts_of, render_part

    if asked.size is None:
        raise UserError(
            f"--features {asked.space.name} against renders of rooms",
            "renders have no size of their own",
            "without --to and --reference pictures are compared with renders",
            "give --to FOLDER, --reference FILE, or --resize FILTER --size PIXELS",
        )
    return [render_part(rows, asked.size, asked.batch) for rows in parts_of(renders)]


def _compute_shard(
    shard: str, parts: Sequence[Part], extractor: Extractor, protocol: Protocol, cache: Cache
) -> None:
    """Compute every N-th shard from the K-th on, if it is not in the cache, and say so."""
    from .features.sets import is_cached, shard_features

    given = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", shard)
    k, n = (int(given[1]), int(given[2])) if given else (1, 0)
    if k > n:
        raise UserError(
            f"--shard {shard}", "it is not K/N with 1 <= K <= N", "", "as in --shard 1/4 ... --shard 4/4"
        )
    mine = parts[k - 1 :: n]
    new = [part for part in mine if not is_cached(part, protocol, cache, extractor.device)]
    for part in new:
        shard_features(part, extractor, protocol, cache)
    facts = {"shard": shard, "shards": len(parts), "mine": len(mine), "computed": len(new)}
    click.echo(json.dumps(facts | {"protocol": protocol.facts()}, indent=1))


def _distances(a: FeatureSet, b: FeatureSet, space: Space) -> dict[str, Any]:
    """Both distances; the kernel's is null where one side is known by its mean and covariance only."""
    from .metrics.frechet import frechet_distance, kernel_distance

    frechet = {"frechet_distance": frechet_distance(a.statistics, b.statistics)}
    if a.rows is None or b.rows is None:
        reason = "the reference holds mean and covariance only"
        return frechet | {"kernel_distance": None, "kernel": {"reason": reason}}
    size = min(space.subset_size, len(a.rows), len(b.rows))
    kernel = kernel_distance(a.rows, b.rows, subsets=space.subsets, subset_size=size, seed=2020)
    how = {"subsets": space.subsets, "subset_size": size, "std": kernel.std}
    return frechet | {"kernel_distance": kernel.mean, "kernel": how}


def _facts(measured: FeatureSet, asked: Asked, extractor: Extractor) -> dict[str, Any]:
    published = (
        {"published_weights": PUBLISHED.get(extractor.weights)} if asked.space.name == "inception" else {}
    )
    return {
        "pictures": measured.statistics.count,
        "size": asked.size,
        "extractor": asked.space.extractor,
        "protocol": measured.protocol.facts(),
        "pictures_hash": measured.pictures,
    } | published


def _reference_facts(known: FeatureSet) -> dict[str, Any]:
    declared = {} if known.protocol.weights else {"reference_weights": "not declared"}
    return {"reference": known.statistics.count, "reference_hash": known.pictures or None} | declared


def _saved(path: Path, measured: FeatureSet) -> dict[str, Any]:
    from .features.reference import save_reference

    return {"saved": str(path), "saved_hash": save_reference(path, measured)}
