"""A folder of one's own as a data set: "own:PATH", or "own:NAME" below INTRINSIC_BENCH_DATA.

The folder's data.toml says where pictures and maps are and what their numbers mean (`settings`); `index`
finds them, `read` reads one, `checks` asks the maps whether they are what they are declared to be.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.data import ABSENT, BLOCK, DataSpec
from benchmarks.needs import Need

from .index import folder_of, one_name, read_index
from .settings import FILE, INTRINSICS


def spec(name: str) -> DataSpec:
    """Facts about a folder; no picture is opened, but contents are hashed the first time.

    Raises:
        UserError: data.toml leaves a convention out, or does not fit the files.
    """
    folder, name = folder_of(name), one_name(name)
    if not (folder / FILE).is_file():
        splits = ("train", "validation", "test")
        return DataSpec(name, f"{folder}: not there", ABSENT, "own", INTRINSICS, splits)
    found = read_index(folder)
    said = found.settings
    counts = {split: len(stems) for split, stems in found.rows.items()}
    if "train" in counts:
        counts["train"] = min(counts["train"], BLOCK)  # what lies beyond is another seed's
    return DataSpec(
        name,
        said.title,
        found.fingerprint,
        said.domain,
        said.intrinsics or INTRINSICS,
        tuple(found.rows),
        labels=("exact",) if said.intrinsics else (),
        resolution=said.resolution,
        counts=counts,
        licence=said.licence,
        groups=said.of,
    )


def needs(name: str, splits: Sequence[str] = (), intrinsics: Sequence[str] = ()) -> tuple[Need, ...]:
    """The folder itself, whatever is asked: nobody but its owner can bring it."""
    folder = folder_of(name)
    here = (folder / FILE).is_file()
    licence = read_index(folder).settings.licence if here else ""
    todo = f"put the pictures into {folder}; describe them: intrinsic-bench data init {folder}"
    return (Need(name, "data", None, licence or "your own", here, todo, note=str(folder)),)
