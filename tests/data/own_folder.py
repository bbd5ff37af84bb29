"""A folder of pictures and maps of rooms, stored as a test asks."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from benchmarks.data.command import data
from benchmarks.data.own.conventions import OURS
from benchmarks.data.own.settings import FILE
from benchmarks.data.rooms.render import render
from benchmarks.predict.writing import png16

COUNT, SIZE = 10, 64
ALL = ("normal", "depth", "albedo", "shading")
SETTINGS: dict[str, dict[str, str]] = {
    "": {"title": '"My rooms"', "licence": '"CC0"', "resolution": "48"},
    "splits": {"by": '"fractions"', "seed": "0", "train": "0.6", "test": "0.4"},
    "picture": {"pattern": '"rgb/{stem}.png"', "space": '"srgb"'},
    "normal": {"pattern": '"normal/{stem}.png"', "axes": f'"{OURS}"', "encoding": '"0..1"'},
    "depth": {"pattern": '"depth/{stem}.npy"', "kind": '"z"', "unit": '"m"'},
    "albedo": {"pattern": '"albedo/{stem}.npy"', "space": '"linear"'},
    "shading": {"pattern": '"shading/{stem}.png"', "space": '"linear"'},
}
Arrays = dict[str, NDArray[Any]]


@cache
def rooms_as_arrays() -> list[Arrays]:
    """Rooms as arrays (h w c) in natural units."""
    found = render("test", range(COUNT), SIZE)
    names = ("rgb", *ALL)
    return [{n: getattr(found, n)[i].permute(1, 2, 0).numpy() for n in names} for i in range(COUNT)]


def sixteen(values: NDArray[Any]) -> bytes:
    return png16(np.rint(np.clip(values, 0, 1) * 65535).astype(np.uint16))


def write_settings(folder: Path, settings: dict[str, dict[str, str]]) -> None:
    text = "\n".join(f"{k} = {v}" for k, v in settings.get("", {}).items()) + "\n"
    for name, values in settings.items():
        if name:
            text += f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in values.items())
    (folder / FILE).write_text(text)


def said(**changes: dict[str, str] | None) -> dict[str, dict[str, str]]:
    """SETTINGS with some values replaced; a table that is None is left out."""
    made = {name: dict(values) for name, values in SETTINGS.items()}
    for name, values in changes.items():
        name = "" if name == "top" else name
        if values is None:
            del made[name]
        else:
            made[name] = {k: v for k, v in (made.get(name, {}) | values).items() if v}
    return made


def write(
    folder: Path,
    rooms: list[Arrays],
    change: Callable[[int, Arrays], None] = lambda i, maps: None,
    settings: dict[str, dict[str, str]] = SETTINGS,
) -> str:
    """A folder of pictures and maps; gives the name of its data set."""
    for name in ("rgb", *ALL, "mask"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, maps in enumerate(rooms):
        maps = {name: value.copy() for name, value in maps.items()}
        change(i, maps)
        stem = f"scene_{i // 2}-{i}"
        Image.fromarray(np.rint(maps["rgb"] * 255).astype(np.uint8)).save(folder / "rgb" / f"{stem}.png")
        (folder / "normal" / f"{stem}.png").write_bytes(sixteen((maps["normal"] + 1) / 2))
        np.save(folder / "depth" / f"{stem}.npy", maps["depth"][..., 0])
        np.save(folder / "albedo" / f"{stem}.npy", maps["albedo"])
        (folder / "shading" / f"{stem}.png").write_bytes(sixteen(maps["shading"]))
        if "mask" in maps:
            Image.fromarray(maps["mask"]).save(folder / "mask" / f"{stem}.png")
    write_settings(folder, settings)
    return f"own:{folder}"


def call(*arguments: object) -> Result:
    """The command `data`."""
    return CliRunner().invoke(data, [str(a) for a in arguments])
