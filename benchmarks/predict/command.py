"""`intrinsic-bench predict`: maps of one's own pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generators.errors import UserError

from .layout import POLICIES
from .settings import PRECISIONS, Settings
from .writing import COLORS, FORMATS, Shown

if TYPE_CHECKING:
    from .run import Outcome

INTERRUPTED = 130  # exit status of Ctrl-C
_POLICIES = "; ".join(f"{name}: {what}" for name, what in POLICIES.items())


@click.command()
@click.argument("pictures", nargs=-1, metavar="IMAGES...")
@click.option("--adapter", type=click.Path(path_type=Path), help="Folder of a trained adapter.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the maps.")
@click.option("--model", help="Base model; the adapter knows it.")
@click.option("--intrinsic", help="normal, depth, albedo or shading; the adapter knows it.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(list(FORMATS)),
    multiple=True,
    default=("png8",),
    show_default=True,
    help="Once or more: PNG to look at, 16-bit PNG, NPY of float32.",
)
@click.option("--colormap", default=COLORS, show_default=True, help="Of depth in png8; none: gray.")
@click.option("--range", "limits", type=(float, float), help="Depths at the ends of the colormap, in meters.")
@click.option("--sheet", is_flag=True, help="Also every picture beside its map, and contact sheets.")
@click.option("--resize", type=click.Choice(list(POLICIES)), help=f"{_POLICIES}.  [default: keep]")
@click.option("--background", default="white", show_default=True, help="Color behind transparent pixels.")
@click.option("--batch", default=4, show_default=True, help="Pictures or tiles of one size at once.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True)
@click.option("--set", "asks", multiple=True, metavar="KEY=VALUE", help="How a model that samples is asked.")
@click.option("--overwrite", is_flag=True, help="Make again what is there.")
def predict(
    pictures: tuple[str, ...],
    adapter: Path | None,
    out: Path,
    model: str | None,
    intrinsic: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Draw the maps of IMAGES: files, folders and quoted globs. Run it again to continue.

    What is finished is skipped. Tiles of depth maps are drawn one by one and may differ in scale.

    Exit status: 0 all is done, 3 some pictures failed (see failed.json), 2 something to mend, 130
    stopped by Ctrl-C.
    """
    from probes.memory import shortages

    from .run import predict_pictures
    from .show import show

    settings = _settings(options)
    try:
        outcome = predict_pictures(
            pictures,
            adapter,
            out,
            model=model,
            intrinsic=intrinsic,
            settings=settings,
            overwrite=overwrite,
            show=show(),
        )
    except KeyboardInterrupt:
        click.echo("stopped; what is done is done. To continue, run the same command again.", err=True)
        sys.exit(INTERRUPTED)
    _summary(outcome, out)
    for line in shortages():
        click.echo(line, err=True)
    sys.exit(outcome.status)


def _settings(options: dict[str, Any]) -> Settings:
    formats, colormap, limits = (options.pop(k) for k in ("formats", "colormap", "limits"))
    shown = Shown(tuple(dict.fromkeys(formats)), colormap, limits)
    background, asks = _color(options.pop("background")), _pairs(options.pop("asks"))
    return Settings(shown=shown, background=background, asks=asks, **options)


def _color(text: str) -> tuple[int, int, int]:
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        known = "names of CSS, #rrggbb, rgb(r, g, b)"
        raise UserError(f"--background {text}", "it is no color", known, "--background white") from error
    return red, green, blue


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--set {text}", "it is no pair", "KEY=VALUE", "as in --set steps=10")
        found[key.strip()] = value.strip()
    return found


def _summary(outcome: Outcome, out: Path) -> None:
    """Where the maps are, what was decided for some pictures, and what failed."""
    counts = (
        f"{len(outcome.written)} written, {len(outcome.skipped)} were finished, {len(outcome.failed)} failed"
    )
    click.echo(f"{out}: {counts}")
    for path in outcome.contact:
        click.echo(f"contact sheet: {path}")
    told: dict[str, list[str]] = {}
    for picture, notes in outcome.notes.items():
        for note in notes:
            told.setdefault(note, []).append(picture)
    for note, pictures in told.items():
        more = f" and {len(pictures) - 1} more" if len(pictures) > 1 else ""
        click.echo(f"note: {note}: {pictures[0]}{more}", err=True)
    for picture, reason in outcome.failed.items():
        click.echo(f"failed: {picture}: {reason}", err=True)
