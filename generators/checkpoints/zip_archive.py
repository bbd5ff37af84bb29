"""Zip archives as torch.save writes them: entries stored as they are, one behind the other.

Written from PKWARE's APPNOTE 6.3.10, sections 4.3 to 4.5. Nothing is unpacked, so a small file cannot
turn into a large one, and no two entries share bytes. Looking up names reads the directory at the end;
the bytes of an entry are looked at when they are asked for.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .records import Malformed, Reading, brief

END = struct.Struct("<4s4H2IH")  # end of central directory, 4.3.16
END64 = struct.Struct("<4sQ2H2I4Q")  # its 64-bit form, 4.3.14
LOCATOR = struct.Struct("<4sIQI")  # says where that is, 4.3.15
CENTRAL = struct.Struct("<4s6H3I5H2I")  # an entry in the directory, 4.3.12
LOCAL = struct.Struct("<4s5H3I2H")  # the header in front of its data, 4.3.7
LONGEST_COMMENT = 0xFFFF
LARGE = 0xFFFFFFFF  # stands for a number in the extra field with this id:
EXTRA64 = 1
ENCRYPTED, SIZES_FOLLOW = 1, 8  # bits of the flags, 4.4.4
NAME_LIMIT = 512
ENTRY_COST = 1024  # bytes of memory of an entry


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an entry is: its header starts at `start`, and data of `size` bytes ends at most at `limit`."""

    name: str
    start: int
    size: int
    crc: int
    limit: int = 0


class Archive:
    """The entries of an archive by name, their places checked against the file.

    Args:
        view: the whole file.
        reading: what it may cost.

    Raises:
        Malformed: the directory is damaged, or an entry is compressed, encrypted, there twice, outside
            the file or inside another one.
    """

    def __init__(self, view: memoryview, reading: Reading) -> None:
        self.view = view
        start, size, count = _directory(view)
        entries = sorted(_listed(view[start : start + size], count, reading), key=lambda entry: entry.start)
        limits = [each.start for each in entries[1:]] + [start]
        self.entries: dict[str, Entry] = {}
        for entry, limit in zip(entries, limits, strict=True):
            if entry.name in self.entries:
                raise Malformed(f"the entry {brief(entry.name)} is there twice")
            self.entries[entry.name] = Entry(entry.name, entry.start, entry.size, entry.crc, limit)
        _check_places(list(self.entries.values()))
        # torch.serialization.set_crc32_options(False) writes zero for all of them.
        self.has_checksums = any(entry.crc for entry in entries)

    def content(self, name: str) -> memoryview:
        """The bytes of an entry, compared with its checksum; raises Malformed."""
        entry = self.entries[name]
        flags, method, crc, sizes, lengths = _local(self.view, entry)
        start = entry.start + LOCAL.size + sum(lengths)
        said = self.view[entry.start + LOCAL.size :][: lengths[0]]
        if flags & ENCRYPTED or method or bytes(said) != name.encode() or start + entry.size > entry.limit:
            raise Malformed(f"the header in front of {brief(name)} is not that of the directory")
        known = not flags & SIZES_FOLLOW and LARGE not in sizes
        if known and (crc, *sizes) != (entry.crc, entry.size, entry.size):
            raise Malformed(
                f"{brief(name)} has another size or checksum in front of it than in the directory"
            )
        found = self.view[start : start + entry.size]
        if self.has_checksums and zlib.crc32(found) != entry.crc:
            raise Malformed(f"the bytes of {brief(name)} do not have the checksum the archive gives")
        return found


def _unpacked(form: struct.Struct, view: memoryview, at: int, mark: bytes, what: str) -> tuple[Any, ...]:
    """The numbers of a record behind its mark of four bytes."""
    if not 0 <= at <= len(view) - form.size or bytes(view[at : at + 4]) != mark:
        raise Malformed(f"the zip archive has no {what} at byte {at:,}; it may have been cut short")
    return form.unpack_from(view, at)[1:]


def _local(view: memoryview, entry: Entry) -> tuple[int, int, int, tuple[int, int], tuple[int, int]]:
    """Flags, method, checksum, both sizes, and the lengths of name and extra field."""
    numbers = _unpacked(LOCAL, view, entry.start, b"PK\3\4", f"header of {brief(entry.name)}")
    _, flags, method, _, _, crc, packed, size, name_length, extra_length = numbers
    return flags, method, crc, (packed, size), (name_length, extra_length)


def _directory(view: memoryview) -> tuple[int, int, int]:
    """Offset, bytes and number of entries of the central directory, which must end where its end says."""
    tail = bytes(view[-END.size - LONGEST_COMMENT :])
    at = len(view) - len(tail) + tail.rfind(b"PK\5\6") if b"PK\5\6" in tail else len(view)
    *disks, here, count, size, start, comment = _unpacked(END, view, at, b"PK\5\6", "directory")
    end = at
    if bytes(view[max(at - LOCATOR.size, 0) :][:4]) == b"PK\6\7":
        first, end, _ = _unpacked(LOCATOR, view, at - LOCATOR.size, b"PK\6\7", "locator")
        numbers = _unpacked(END64, view, end, b"PK\6\6", "64-bit directory")
        length, _, _, *disks, here, count, size, start = numbers
        if first or end + 12 + length != at - LOCATOR.size:
            raise Malformed("the end of the zip archive's directory contradicts itself")
    if any(disks) or here != count or start + size != end or at + END.size + comment != len(view):
        raise Malformed("the end of the zip archive's directory contradicts itself or the file's size")
    return start, size, count


def _listed(directory: memoryview, count: int, reading: Reading) -> Iterator[Entry]:
    """So many entries (count), which must fill the directory."""
    at = 0
    for _ in range(count):
        reading.step(ENTRY_COST)
        numbers = _unpacked(CENTRAL, directory, at, b"PK\1\2", "entry of its directory")
        _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, _, start = numbers
        at += CENTRAL.size
        name, extra = _name(directory[at : at + lengths[0]]), directory[at + lengths[0] :][: lengths[1]]
        at += sum(lengths)
        if LARGE in (packed, size, start):
            size, packed, start = _large(extra, size, packed, start)
        if flags & ENCRYPTED or method or packed != size or disk:
            raise Malformed(f"{brief(name)} is compressed or encrypted; torch.save stores what it is given")
        yield Entry(name, start, size, crc)
    if at != len(directory):
        raise Malformed(f"the zip archive's directory does not hold the {count:,} entries it announces")


def _large(extra: memoryview, *numbers: int) -> list[int]:
    """The numbers, those that need more than 32 bits from the extra field (4.5.3)."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        found = extra[at + 4 : at + 4 + length]
        wide = [n for n in struct.unpack(f"<{len(found) // 8}Q", found[: len(found) // 8 * 8])]
        if kind == EXTRA64 and len(wide) >= numbers.count(LARGE):
            return [wide.pop(0) if number == LARGE else number for number in numbers]
        at += 4 + length
    raise Malformed("an entry of the zip archive has no 64-bit sizes where it needs them")


def _name(raw: memoryview) -> str:
    if not 0 < len(raw) <= NAME_LIMIT:
        raise Malformed(f"an entry of the zip archive has a name of {len(raw):,} bytes")
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise Malformed("the name of an entry of the zip archive is not UTF-8") from None


def _check_places(entries: list[Entry]) -> None:
    """Raise Malformed unless header, name and data of each entry end before the next one starts."""
    for entry in entries:
        if entry.start + LOCAL.size + len(entry.name.encode()) + entry.size > entry.limit:
            raise Malformed(f"{brief(entry.name)} does not fit between its start and what comes next")
