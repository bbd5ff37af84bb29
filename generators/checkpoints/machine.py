"""A pickle machine of protocols 2 to 5 that builds plain values and records, and runs nothing.

Written from the description of the opcodes in Python's `pickletools`. Names in the stream become
`Global` records; what calling one yields is decided by a table of functions given by the caller, and
for every other name by a record that does nothing. Long bytes and texts stay where they are, as
views of the file. Every opcode and every object is paid for from the file's `Reading`.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .records import Array, Dtype, Global, Inert, Malformed, Reading, Text, brief, key

Call = Callable[[tuple[Any, ...], Reading], Any]
Build = Callable[[Any, Any], None]


@dataclass(frozen=True)
class Names:
    """What the names in a stream mean.

    Args:
        calls: what calling a name yields, by (module, name); every other call yields an inert record.
        builds: what BUILD does to a record, by class of the record.
        only: which names may stand in the stream; None for all of them.
        persistent: what a persistent id stands for; None refuses them.
    """

    calls: Mapping[tuple[str, str], Call]
    builds: Mapping[type, Build]
    only: Callable[[Global], bool] | None = None
    persistent: Callable[[Any], Any] | None = None


STEP_COST = 128  # bytes of memory of one opcode: its object, its place on the stack or in the memo
BIG_COST = 256  # and of one that makes a set, a record or the first entries of a dict
SHORT = 64  # bytes up to this length are copied, longer ones stay views
NAME_LIMIT = 512
TEXT_LIMIT = 1 << 12  # texts up to this length are decoded, longer ones stay views
INTEGER_LIMIT = 64  # bytes of an integer
MARKS_LIMIT = 1000  # how deep open lists, tuples and dicts may nest
CODES = {op.name: ord(op.code) for op in pickletools.opcodes}
OPCODES = {code: name for name, code in CODES.items()}
STOP = CODES["STOP"]

ACTIONS: dict[int, Callable[[Machine], None]] = {}


def opcode(*names: str) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    """Register the function that carries out these opcodes."""

    def register(action: Callable[[Machine], None]) -> Callable[[Machine], None]:
        ACTIONS.update((CODES[name], action) for name in names)
        return action

    return register


class Machine:
    """One pass over one pickle.

    Args:
        view: the stream, which may go on behind the pickle's STOP.
        names: what its names mean.
        reading: what it may cost.
        where: how the stream is called in error messages.
    """

    def __init__(self, view: memoryview, names: Names, reading: Reading, where: str = "") -> None:
        self.view, self.names, self.reading, self.where = view, names, reading, where
        self.at = 0  # next byte
        self.code = 0  # opcode being carried out
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open MARK
        self.memo: dict[int, Any] = {}

    def run(self) -> tuple[Any, int]:
        """The value and the offset just behind its STOP; raises Malformed with offset and opcode."""
        start = 0
        try:
            while True:
                start = self.at
                self.code = self.unsigned(1)
                if self.code == STOP:
                    return self.result(), self.at
                self.reading.step(STEP_COST)
                action = ACTIONS.get(self.code)
                if action is None:
                    raise Malformed("this opcode is not used in network files")
                action(self)
        except Malformed as error:
            place = f"at byte {start:,}{self.where} ({OPCODES.get(self.code, hex(self.code))})"
            raise Malformed(f"{place}: {error.wrong}", error.known, error.todo) from None

    def result(self) -> Any:
        value = self.pop()
        if self.stack or self.below:
            raise Malformed("the pickle stops with values left over")
        return value

    # Arguments in the stream.

    def take(self, count: int) -> memoryview:
        if count > len(self.view) - self.at:
            raise Malformed(f"{count:,} bytes are announced, {len(self.view) - self.at:,} are left")
        self.at += count
        return self.view[self.at - count : self.at]

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def text(self, count: int) -> str | Text:
        """A text of so many bytes of UTF-8; a long one is left alone."""
        view = self.take(count)
        if count > TEXT_LIMIT:
            return Text(view)
        text = decoded(view)
        self.reading.spend(sys.getsizeof(text))
        return text

    def octets(self, count: int) -> bytes | memoryview:
        view = self.take(count)
        return bytes(view) if count <= SHORT else view

    def line(self) -> str:
        """A text up to the end of the line, as GLOBAL writes its names."""
        found = bytes(self.view[self.at : self.at + NAME_LIMIT]).partition(b"\n")
        if not found[1]:
            raise Malformed(f"a name is longer than {NAME_LIMIT} bytes")
        self.at += len(found[0]) + 1
        return decoded(memoryview(found[0]))

    # The stack.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise Malformed("there is no value to take")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise Malformed("there is no value to work on")
        return self.stack[-1]

    def marked(self) -> list[Any]:
        """The values since the last MARK, which is closed."""
        if not self.below:
            raise Malformed("there is no MARK to go back to")
        values, self.stack = self.stack, self.below.pop()
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) < count:
            raise Malformed(f"{count} values are needed, {len(self.stack)} are there")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        return values

    def remember(self, index: int) -> None:
        if index > len(self.view):
            raise Malformed(f"the memo has no place {index:,} in a stream of {len(self.view):,} bytes")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Malformed(f"nothing was put in place {index:,} of the memo")
        self.push(self.memo[index])

    def name(self, module: Any, name: Any) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)) or len(module) + len(name) > NAME_LIMIT:
            raise Malformed(f"a name is expected, not {brief(module)} and {brief(name)}")
        found = Global("builtins" if module == "__builtin__" else module, name)
        if self.names.only is not None and not self.names.only(found):
            raise Malformed(f"{brief(found)} has no place in this stream")
        return found

    def call(self, function: Any, arguments: Any) -> Any:
        """What the table says a call yields; for every other name an inert record."""
        self.reading.spend(BIG_COST)
        if not isinstance(arguments, tuple):
            raise Malformed(f"a call needs a tuple of arguments, not {brief(arguments)}")
        if isinstance(function, Inert):
            return Inert(function.name)
        if not isinstance(function, Global):
            raise Malformed(f"{brief(function)} cannot be called")
        known = self.names.calls.get((function.module, function.name))
        return known(arguments, self.reading) if known else Inert(str(function))


def decoded(view: memoryview) -> str:
    try:
        return str(view, "utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None


# Frames and plain values.


@opcode("PROTO")
def _protocol(m: Machine) -> None:
    if not 2 <= (version := m.unsigned(1)) <= 5:
        raise Malformed(f"pickle protocol {version} is not one of 2 to 5")


@opcode("FRAME")
def _frame(m: Machine) -> None:
    if (count := m.unsigned(8)) > len(m.view) - m.at:
        raise Malformed(f"a frame of {count:,} bytes is announced, {len(m.view) - m.at:,} are left")


@opcode("NONE", "NEWTRUE", "NEWFALSE")
def _constant(m: Machine) -> None:
    m.push({CODES["NONE"]: None, CODES["NEWTRUE"]: True}.get(m.code, False))


@opcode("BININT1", "BININT2")
def _small_integer(m: Machine) -> None:
    m.push(m.unsigned(1 if m.code == CODES["BININT1"] else 2))


@opcode("BININT")
def _integer(m: Machine) -> None:
    m.push(int.from_bytes(m.take(4), "little", signed=True))


@opcode("LONG1", "LONG4")
def _long_integer(m: Machine) -> None:
    if (count := m.unsigned(1 if m.code == CODES["LONG1"] else 4)) > INTEGER_LIMIT:
        raise Malformed(f"an integer of {count:,} bytes")
    m.push(int.from_bytes(m.take(count), "little", signed=True))


@opcode("BINFLOAT")
def _float(m: Machine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


WIDTHS = {
    CODES[name]: width
    for width, named in {
        1: ("SHORT_BINUNICODE", "SHORT_BINBYTES", "BINGET", "BINPUT"),
        4: ("BINUNICODE", "BINBYTES", "LONG_BINGET", "LONG_BINPUT"),
        8: ("BINUNICODE8", "BINBYTES8", "BYTEARRAY8"),
    }.items()
    for name in named
}  # bytes of the number behind the opcode


@opcode("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
def _text(m: Machine) -> None:
    m.push(m.text(m.unsigned(WIDTHS[m.code])))


@opcode("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
def _bytes(m: Machine) -> None:
    m.reading.spend(STEP_COST)
    m.push(m.octets(m.unsigned(WIDTHS[m.code])))


# The stack and the memo.


@opcode("MARK")
def _mark(m: Machine) -> None:
    if len(m.below) >= MARKS_LIMIT:
        raise Malformed(f"values nest more than {MARKS_LIMIT:,} deep")
    m.below.append(m.stack)
    m.stack = []


@opcode("POP")
def _pop(m: Machine) -> None:
    if m.stack:
        m.pop()
    else:
        m.marked()


@opcode("POP_MARK")
def _pop_mark(m: Machine) -> None:
    m.marked()


@opcode("DUP")
def _duplicate(m: Machine) -> None:
    m.push(m.top())


@opcode("BINPUT", "LONG_BINPUT")
def _put(m: Machine) -> None:
    m.remember(m.unsigned(WIDTHS[m.code]))


@opcode("MEMOIZE")
def _memoize(m: Machine) -> None:
    m.remember(len(m.memo))


@opcode("BINGET", "LONG_BINGET")
def _get(m: Machine) -> None:
    m.recall(m.unsigned(WIDTHS[m.code]))


# Lists, tuples, dicts and sets.


@opcode("EMPTY_LIST")
def _empty_list(m: Machine) -> None:
    m.push([])


@opcode("LIST")
def _list(m: Machine) -> None:
    m.push(m.marked())


@opcode("APPEND", "APPENDS")
def _append(m: Machine) -> None:
    values = m.marked() if m.code == CODES["APPENDS"] else [m.pop()]
    target = m.top()
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Inert):
        raise Malformed(f"nothing can be appended to {brief(target)}")


@opcode("EMPTY_TUPLE")
def _empty_tuple(m: Machine) -> None:
    m.push(())


@opcode("TUPLE")
def _tuple(m: Machine) -> None:
    values = tuple(m.marked())
    m.push(values)


@opcode("TUPLE1", "TUPLE2", "TUPLE3")
def _short_tuple(m: Machine) -> None:
    m.push(m.last(m.code - CODES["TUPLE1"] + 1))


@opcode("EMPTY_DICT")
def _empty_dict(m: Machine) -> None:
    m.push({})


@opcode("DICT")
def _dict(m: Machine) -> None:
    values = m.marked()
    m.push({})
    _fill(m, values)


@opcode("SETITEM", "SETITEMS")
def _set_items(m: Machine) -> None:
    _fill(m, m.marked() if m.code == CODES["SETITEMS"] else list(m.last(2)))


def _fill(m: Machine, values: list[Any]) -> None:
    m.reading.spend(BIG_COST + STEP_COST * len(values))
    target = m.top()
    if len(values) % 2:
        raise Malformed("a key has no value")
    if isinstance(target, dict):
        target.update((key(k), v) for k, v in zip(values[::2], values[1::2], strict=True))
    elif not isinstance(target, Inert):
        raise Malformed(f"{brief(target)} has no items to set")


@opcode("EMPTY_SET")
def _empty_set(m: Machine) -> None:
    m.reading.spend(BIG_COST)
    m.push(set())


@opcode("FROZENSET")
def _frozen_set(m: Machine) -> None:
    m.reading.spend(BIG_COST + STEP_COST * len(m.stack))
    m.push({key(value) for value in m.marked()})


@opcode("ADDITEMS")
def _add_items(m: Machine) -> None:
    m.reading.spend(STEP_COST * len(m.stack))
    values, target = m.marked(), m.top()
    if isinstance(target, set):
        target.update(key(value) for value in values)
    elif not isinstance(target, Inert):
        raise Malformed(f"nothing can be added to {brief(target)}")


# Names and objects.


@opcode("GLOBAL")
def _global(m: Machine) -> None:
    m.push(m.name(m.line(), m.line()))


@opcode("STACK_GLOBAL")
def _stack_global(m: Machine) -> None:
    m.push(m.name(*m.last(2)))


@opcode("REDUCE", "NEWOBJ")
def _call(m: Machine) -> None:
    function, arguments = m.last(2)
    m.push(m.call(function, arguments))


@opcode("NEWOBJ_EX")
def _call_with_keywords(m: Machine) -> None:
    function, arguments, keywords = m.last(3)
    if not isinstance(keywords, dict):
        raise Malformed(f"a call needs a dict of keywords, not {brief(keywords)}")
    known = isinstance(function, Global) and (function.module, function.name) in m.names.calls
    if keywords and known:
        raise Malformed(f"{brief(function)} takes no keywords")
    m.push(m.call(function, arguments))


@opcode("BUILD")
def _build(m: Machine) -> None:
    state, target = m.pop(), m.top()
    if isinstance(target, Inert):
        if target.state is not None:
            raise Malformed(f"{brief(target)} gets its state twice")
        target.state = state
    elif isinstance(target, Array | Dtype) and type(target) in m.names.builds:
        m.names.builds[type(target)](target, state)
    elif not isinstance(target, dict):  # an OrderedDict may carry attributes, which nobody reads
        raise Malformed(f"{brief(target)} takes no state")


@opcode("BINPERSID")
def _persistent(m: Machine) -> None:
    if m.names.persistent is None:
        raise Malformed("persistent ids are not used in this stream")
    m.reading.spend(BIG_COST)
    m.push(m.names.persistent(m.pop()))
