"""What a name like "diode:indoors,erode=2" asks for; several ways to write it have one canonical name."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from generators.errors import UserError, unknown

FAMILY = "diode"
OFFICIAL, ARCHIVE = "val612", "val771"  # the validation lists: diode_meta.json's, and all of the archive
PICTURES = {OFFICIAL: 612, ARCHIVE: 771}
PLACES = ("indoors", "outdoor")
KNOWN = ("indoors", "outdoor", OFFICIAL, ARCHIVE, "maps=depth", "erode=PIXELS", "clip=METERS", "flip=AXES")


@dataclass(frozen=True)
class Options:
    """What is asked of DIODE; the defaults are the paper's, as far as it states any.

    Attributes:
        place: "indoors" or "outdoor" alone, "" for both.
        validation: OFFICIAL, the list that the paper's loader reads, or ARCHIVE.
        maps: "depth": normals are not looked at; "": pictures without normals are left out where their
            partition has normals at all.
        erode: pixels at 1024x768 that depth is invalid around a jump of it.
        clip: meters that depth is cut off at, None for not at all (the paper states none).
        flip: axes of the files' normals, out of "xyz", that are turned before use.
    """

    place: str = ""
    validation: str = OFFICIAL
    maps: str = ""
    erode: int = 0
    clip: float | None = None
    flip: str = ""


def parse(name: str) -> Options:
    """The options of a name; raises UserError for unknown, doubled or contradicting ones."""
    found: dict[str, str | int | float] = {}
    for text in filter(None, name.partition(":")[2].split(",")):
        key, value = _option(name, text.strip())
        if key in found:
            wrong = f"{key} is said twice" if found[key] == value else f"it says {found[key]} and {value}"
            raise UserError(f"data set {name!r}", wrong, f"options: {', '.join(KNOWN)}", "say it once")
        found[key] = value
    return Options(**found)  # type: ignore[arg-type]


def _option(name: str, text: str) -> tuple[str, str | int | float]:
    key, equals, value = text.partition("=")
    if text in PLACES:
        return "place", text
    if text in PICTURES:
        return "validation", text
    if text == "maps=depth":
        return "maps", "depth"
    if key == "erode" and value.isdecimal() and 0 < int(value) <= 64:
        return "erode", int(value)
    if key == "clip" and (meters := _meters(value)) is not None:
        return "clip", meters
    if key == "flip" and value and set(value) <= set("xyz") and len(set(value)) == len(value):
        return "flip", "".join(sorted(value))
    if equals and key in {field.name for field in fields(Options)}:
        known = f"options: {', '.join(KNOWN)}; at most 64 pixels, more than 0 meters"
        raise UserError(f"option {text!r} of data set {name!r}", "this value is not possible", known)
    raise unknown(f"option of data set {name!r}", text, KNOWN, "several are parted by commas")


def _meters(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found > 0 else None


def written(options: Options) -> str:
    """The canonical name of some options: defaults unsaid, the others in one order."""
    said = [options.place, options.validation if options.validation != OFFICIAL else ""]
    said += ["maps=depth" if options.maps else "", f"erode={options.erode}" if options.erode else ""]
    said += [f"clip={options.clip:g}" if options.clip is not None else ""]
    said += [f"flip={options.flip}" if options.flip else ""]
    text = ",".join(filter(None, said))
    return f"{FAMILY}:{text}" if text else FAMILY


def canonical(name: str) -> str:
    """The one name of what a name asks for; raises UserError as `parse` does."""
    return written(parse(name))
