"""`intrinsic-bench distance`: Frechet and kernel distance of folders of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option("--to", "other", type=click.Path(path_type=Path), help="Folder to compare with.")
@click.option("--renders", default=4096, show_default=True, help="Renders to compare with, without --to.")
@click.option("--size", default=64, show_default=True, help="Pixels a side the pictures are brought to.")
def distance(pictures: Path, other: Path | None, renders: int, size: int) -> None:
    """Frechet and kernel distance of the folder PICTURES to renders of rooms, or to another folder.

    In the features of the rooms' own network: comparable with the zoo's numbers, not with FID.
    """
    import torch

    from .data.folder import picture_files, read_pictures
    from .data.load import load_pictures
    from .predictors.rooms import load_rooms_network
    from .quality import EXTRACTOR, distances, features_of

    torch.set_num_threads(1)
    files = picture_files(pictures)
    network = load_rooms_network()
    samples = features_of(network, read_pictures(files, size))
    if other is not None:
        reference = features_of(network, read_pictures(picture_files(other), size))
    else:
        reference = features_of(network, load_pictures("rooms", "reference", range(renders), size).pictures)
    facts = {"pictures": len(samples), "reference": len(reference), "size": size, "extractor": EXTRACTOR}
    click.echo(json.dumps(distances(samples, reference)[0] | facts, indent=1))
