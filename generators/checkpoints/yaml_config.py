"""Settings as OmegaConf writes them: plain YAML, and `${a.b}` for a value that stands elsewhere in the file.

Nothing but values is read: no tags, no merge keys, no resolvers such as `${oc.env:HOME}`. What is left
of a text that names no value of the file stays as it is, for whoever needs that value to refuse.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .network_file import NotPlain, plain
from .records import Malformed, Reading, brief

if TYPE_CHECKING:
    from yaml.events import Event

SIZE_LIMIT = 1 << 16  # bytes of a file; published ones have some thousand
SCALAR_LIMIT = 1 << 12  # characters of one value
DEPTH_LIMIT = 16  # how deep lists and dicts may nest, and names may name names
ALIAS_LIMIT = 64
VALUE_COST = 128
INTERPOLATION = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}", re.ASCII)
KNOWN = "a file of settings is YAML of plain values, as OmegaConf writes it"
TODO = "compare it with the one that was published beside the weights"


def read_config(path: Path | str) -> dict[str, Any]:
    """The settings in a YAML file as plain values, with every `${a.b}` replaced that names one of them.

    Raises:
        UserError: the file cannot be opened, is larger than SIZE_LIMIT, is no YAML, or holds tags, merge
            keys, or values that are not None, booleans, numbers, texts, lists and dicts.
    """
    asked = f"read the settings in {path}"
    try:
        return _parsed(_text(Path(path)))
    except OSError as error:
        raise UserError(asked, error.strerror or str(error), KNOWN, "name a file that exists") from None
    except Malformed as error:
        raise UserError(asked, error.wrong, error.known or KNOWN, error.todo or TODO) from None


def unresolved(value: Any) -> str | None:
    """The first text among plain values that still holds a `${`, or None."""
    if isinstance(value, str):
        return value if "${" in value else None
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for each in inner if (found := unresolved(each)) is not None), None)


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise Malformed("it is a folder, a pipe or a device")
    with path.open("rb") as file:
        raw = file.read(SIZE_LIMIT + 1)
    if len(raw) > SIZE_LIMIT:
        raise Malformed(f"it has more than {SIZE_LIMIT:,} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Malformed("it is not a text in UTF-8") from None


def _parsed(text: str) -> dict[str, Any]:
    import yaml

    try:
        _check_events(text)
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise Malformed(f"it is not YAML of plain values{place} ({type(error).__name__})") from None
    except (ValueError, OverflowError):  # a date or a number that looks like one and is none
        raise Malformed("it holds a number or a date that cannot be") from None
    if not isinstance(found, dict):
        raise Malformed(f"it holds {brief(found)}, not names with values")
    reading = Reading(len(text))
    try:
        values = plain(found, reading)
        return _Names(values, reading).resolved(values, ())
    except NotPlain as error:
        raise Malformed(f"it holds {error}, which is not a plain value") from None


# Before anything is built: what the parser sees. It does not recurse, builders of values do.


def _check_events(text: str) -> None:
    """Raise Malformed for what a file of settings does not need, all of which can be made to explode."""
    import yaml

    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += _step(event)
        aliases += isinstance(event, yaml.AliasEvent)
        _check_value(event)
        if depth > DEPTH_LIMIT or aliases > ALIAS_LIMIT:
            what = f"nest more than {DEPTH_LIMIT} deep" if depth > DEPTH_LIMIT else "share too many parts"
            raise Malformed(f"its values {what}, in line {event.start_mark.line + 1}")


def _step(event: Event) -> int:
    """How much deeper values nest behind an event."""
    import yaml

    opened = isinstance(event, yaml.CollectionStartEvent)
    return opened - isinstance(event, yaml.CollectionEndEvent)


def _check_value(event: Event) -> None:
    import yaml

    line = event.start_mark.line + 1
    if getattr(event, "tag", None) is not None:
        raise Malformed(f"line {line} holds the tag {brief(event.tag)}; only plain values are read")
    if isinstance(event, yaml.ScalarEvent):
        if len(event.value) > SCALAR_LIMIT:
            raise Malformed(f"line {line} holds a value of {len(event.value):,} characters")
        if event.value == "<<" and event.style is None:
            raise Malformed(f"line {line} holds a merge key, which is not read")


# Values that name values.


class _Names:
    """The values of a file by dotted name.

    Args:
        values: the whole file.
        reading: what it may cost: a few names can describe a value of any size.
    """

    def __init__(self, values: dict[str, Any], reading: Reading) -> None:
        self.values, self.reading = values, reading

    def resolved(self, value: Any, asked: tuple[str, ...]) -> Any:
        """A copy with names replaced by values; `asked` are the names that led here, which end a circle."""
        self.reading.step(VALUE_COST)
        if isinstance(value, dict):
            return {name: self.resolved(each, asked) for name, each in value.items()}
        if isinstance(value, list):
            return [self.resolved(each, asked) for each in value]
        return self.text(value, asked) if isinstance(value, str) else value

    def text(self, text: str, asked: tuple[str, ...]) -> Any:
        """What a text says: the value it names and nothing else, or a text with values in it."""
        if whole := INTERPOLATION.fullmatch(text):
            return self.named(whole[1], whole[0], asked)
        found = INTERPOLATION.sub(lambda name: _written(self.named(name[1], name[0], asked), name[0]), text)
        self.reading.spend(4 * len(found))
        return found

    def named(self, name: str, text: str, asked: tuple[str, ...]) -> Any:
        """The value of a name, or the text where there is none."""
        self.reading.step(VALUE_COST + 16 * len(name))
        if name in asked or len(asked) >= DEPTH_LIMIT:
            return text
        value: Any = self.values
        for part in name.split("."):
            value = self.text(value, (*asked, name)) if isinstance(value, str) else value
            if isinstance(value, list) and part.isdecimal() and len(part) < 6 and int(part) < len(value):
                value = value[int(part)]
            elif isinstance(value, dict) and part in value:
                value = value[part]
            else:
                return text
        return self.resolved(value, (*asked, name))


def _written(value: Any, text: str) -> str:
    """A value inside a text; lists and dicts have no place there."""
    return text if isinstance(value, dict | list) else str(value)
