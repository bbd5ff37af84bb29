"""Malicious pickles, assembled by hand: each does harm to a reader that trusts what it reads."""

import struct
from collections.abc import Iterator
from typing import Any

import torch

from tests.checkpoints.emulate import Call, Name, Style, pickled, storage_stream

START = b"\x80\x04"
STOP = b"."
TARGETS = (  # what an attacker calls, with arguments that would leave a marker
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "__import__"),
    ("builtins", "getattr"),
    ("builtins", "open"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("tabnanny", "check"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("numpy", "load"),
    ("pickle", "loads"),
    ("dill._dill", "_create_function"),
    ("dill._dill", "_eval_repr"),
    ("torch._utils", "_rebuild_parameter_with_state"),
)


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def by_line(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def by_stack(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def network(value: bytes) -> bytes:
    """A file whose G_ema is what these opcodes make."""
    return START + b"}" + text("G_ema") + value + b"s" + STOP


def calls(argument: str) -> Iterator[tuple[str, bytes]]:
    """Every target through every opcode that can call."""
    for module, name in TARGETS:
        for how, found in (("line", by_line(module, name)), ("stack", by_stack(module, name))):
            where = f"{module}.{name}-{how}"
            yield f"{where}-reduce", network(found + text(argument) + b"\x85R")
            yield f"{where}-newobj", network(found + text(argument) + b"\x85\x81")
            yield f"{where}-newobj-ex", network(found + text(argument) + b"\x85}" + b"\x92")
            yield f"{where}-obj", network(b"(" + found + text(argument) + b"o")
            yield f"{where}-build", network(found + b")\x81}" + text("__setstate__") + found + b"sb")
            yield f"{where}-class-build", network(found + b"}" + text("__reduce__") + text(argument) + b"sb")
            yield f"{where}-key", network(b"}" + found + text(argument) + b"\x85RNs")
            yield f"{where}-left-on-the-stack", START + found + text(argument) + b"\x85R0" + b"N" + STOP
        yield f"{module}.{name}-inst", network(b"(" + text(argument) + f"i{module}\n{name}\n".encode())


def chains(argument: str) -> Iterator[tuple[str, bytes]]:
    """Calls of what calls returned, and the doors of dill, torch and NumPy."""
    imported = by_line("builtins", "__import__") + text("os") + b"\x85R"
    system = by_line("builtins", "getattr") + imported + text("system") + b"\x86R"
    yield "getattr-import", network(system + text(argument) + b"\x85R")
    for dill in ("dill._dill", "dill.dill"):
        module = by_line(dill, "_import_module") + text("os") + b"\x85R"
        attribute = by_line(dill, "_get_attr") + module + text("system") + b"\x86R"
        yield f"{dill}-get-attr", network(attribute + text(argument) + b"\x85R")
        evaluate = by_line(dill, "_load_type") + text("eval") + b"\x85R"
        yield f"{dill}-load-type", network(evaluate + text(argument) + b"\x85R")
        core = by_line(dill, "_import_module") + text("numpy.core._multiarray_umath") + b"\x85R"
        other = by_line(dill, "_get_attr") + core + text("fromfile") + b"\x86R"
        yield f"{dill}-other-function", network(other + text(argument) + b"\x85R")
        onward = by_line(dill, "_get_attr") + by_line("numpy", "dtype") + text("__init__") + b"\x86R"
        yield f"{dill}-attribute-of-a-name", network(onward + text(argument) + b"\x85R")
    inner = START + by_line("os", "system") + text(argument) + b"\x85R" + STOP
    loader = by_line("torch.storage", "_load_from_bytes")
    raw = b"B" + struct.pack("<I", len(inner)) + inner
    yield "pickle-in-storage", network(loader + raw + b"\x85R")
    subclass = by_line("numpy.core.multiarray", "_reconstruct") + by_line("os", "system")
    yield "array-of-a-class", network(subclass + b"K\x00\x85C\x01b\x87R")
    objects = by_line("numpy", "dtype") + text("O8") + b"\x89\x88\x87R"
    value = by_line("numpy.core.multiarray", "scalar") + objects + raw + b"\x86R"
    yield "scalar-object", network(value)
    yield "extension", network(b"\x82\x01")
    yield "persistent-text", network(b"Pos.system\n")
    yield "persistent", network(text(argument) + b"Q")
    yield "next-buffer", network(b"\x97")
    yield "encoding", network(by_line("_codecs", "encode") + text("x") + text("rot13") + b"\x86R")


def lengths() -> Iterator[tuple[str, bytes]]:
    """Numbers far beyond the file, for readers that allocate before they look."""
    for name, code, width in (
        ("text", b"X", "I"), ("text8", b"\x8d", "Q"), ("bytes", b"B", "I"), ("bytes8", b"\x8e", "Q"),
        ("bytearray8", b"\x96", "Q"), ("long", b"\x8b", "I"), ("frame", b"\x95", "Q"),
    ):  # fmt: skip
        most = (1 << 8 * struct.calcsize("<" + width)) - 1
        for count in (most, most // 2, most // 2 + 1, 1 << 30):
            yield f"{name}-{count:x}", START + code + struct.pack("<" + width, count) + b"abc" + STOP
    for index in (1 << 20, 1 << 30, (1 << 31) - 1, (1 << 32) - 1):
        yield f"put-{index:x}", network(b"Nr" + struct.pack("<I", index))
        yield f"get-{index:x}", network(b"j" + struct.pack("<I", index))
    yield "integer-of-digits", b"\x80\x02L" + b"9" * 100_000 + b"L\n" + STOP
    yield "put-of-digits", b"\x80\x02Np" + b"9" * 20 + b"\n" + STOP
    yield "long-line", b"\x80\x02c" + b"a" * 100_000


DOUBLINGS = 60  # levels of a value that holds the value below it twice


def doubled(levels: int = DOUBLINGS) -> bytes:
    """A tuple that written out would have 2^levels parts."""
    return b")" + b"2\x86" * levels


def bombs() -> Iterator[tuple[str, bytes]]:
    """Values that are small in the file and endless to hash, copy, compare or walk."""
    yield "hash-of-key", network(b"}" + doubled() + b"Ns")
    yield "hash-of-member", network(b"\x8f(" + doubled() + b"\x90")
    yield "hash-in-frozenset", network(b"(" + doubled() + b"\x91")
    members = b"(" + doubled() + b"l"
    yield "hash-in-set-call", network(by_line("builtins", "set") + members + b"\x85R")
    pair = doubled() + b"N\x86"
    yield "hash-in-ordered-dict", network(by_line("collections", "OrderedDict") + b"(" + pair + b"l\x85R")
    yield "deep-tuples", network(b")" + b"\x85" * 150_000)
    yield "deep-lists", network(b"]" * 100_000 + b"a" * 99_999)
    yield "deep-dicts", network(b"}K\x01" * 50_000 + b"}" + b"s" * 50_000)
    yield "deep-marks", network(b"(" * 100_000 + b"t" * 100_000)
    yield (
        "deep-objects",
        network(b"N" + b"".join([by_line("a", "b"), b"q\0" + b"0"]) + b"h\0)\x81h\0)\x81b" * 10_000),
    )
    yield "cycle-list", network(b"]\x94h\0a")
    yield "cycle-dict", network(b"}\x94K\x01h\0s")
    numbers = [(i * ((1 << 61) - 1)).to_bytes(10, "little") for i in range(20_000)]
    collisions = b"".join(b"\x8a\x0a" + number + b"N" for number in numbers)
    yield "keys-of-one-hash", network(b"}(" + collisions + b"u")
    yield "long-in-front", network(b"\x8a\xff" + b"\x7f" * 255)


def module(**members: Any) -> dict[str, Any]:
    return {"_parameters": {}, "_buffers": {}, "_modules": {}, "_init_kwargs": {}, **members}


def persistent(state: Any, **changes: Any) -> Call:
    facts = {"type": "class", "version": 6, "module_src": "", "class_name": "Generator", "state": state}
    return Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (facts | changes,))


def trees() -> Iterator[tuple[str, bytes]]:
    """Networks whose modules, attributes or tensors multiply when they are walked."""
    nest: Any = 1
    for _ in range(DOUBLINGS):
        nest = [nest, nest]
    wide: Any = 1
    for _ in range(8):
        wide = [wide] * 100
    child: Any = persistent(module())
    for _ in range(24):
        child = persistent(module(_modules={"a": child, "b": child}))
    deep: Any = persistent(module())
    for _ in range(40):
        deep = persistent(module(_modules={"a": deep}))
    endless: dict[str, Any] = module()
    endless["_modules"]["self"] = persistent(endless)
    shared = torch.nn.Parameter(torch.zeros(4096))
    style = Style()
    one = style.tensor(shared)
    values = {
        "doubled-attribute": module(noise=nest),
        "wide-attribute": module(noise=wide),
        "doubled-arguments": module(_init_kwargs={"z_dim": nest}),
        "wide-arguments": module(_init_kwargs={"z_dim": wide}),
        "doubled-modules": module(_modules={"a": child}),
        "deep-modules": module(_modules={"a": deep}),
        "endless-modules": endless,
        "shared-tensors": module(_parameters={f"p{i}": one for i in range(3000)}),
        "key-with-dots": module(_parameters={"a.b": one}),
        "key-number": module(_parameters={1: one}),
        "tensor-is-text": module(_parameters={"a": "b"}),
        "module-is-text": module(_modules={"a": "b"}),
        "arguments-are-a-list": module(_init_kwargs=[1]),
        "arguments-are-objects": module(_init_kwargs={"a": Call(Name("os", "system"), ("true",))}),
        "members-are-a-list": module(_parameters=[]),
    }
    for name, state in values.items():
        yield name, pickled({"G_ema": persistent(state)}, 4, style)
    for name, wrong in (("version", 7), ("type", "function"), ("state", 1), ("class_name", b"x")):
        yield f"persistence-{name}", pickled({"G_ema": persistent(**{"state": module(), name: wrong})}, 4)


def tensors() -> Iterator[tuple[str, bytes]]:
    """Views that leave their storage or outgrow it, and storages that are not what they say."""
    huge = 1 << 40
    views: dict[str, tuple[Any, Any, Any]] = {
        "negative-offset": (-1, (2,), (1,)),
        "negative-size": (0, (-2,), (1,)),
        "negative-stride": (3, (2,), (-1,)),
        "beyond": (3, (2,), (1,)),
        "far-offset": (huge, (1,), (1,)),
        "far-stride": (0, (2,), (huge,)),
        "expanded": (0, (1 << 20, 1 << 20), (0, 0)),
        "expanded-a-little": (0, (5,), (0,)),
        "overflowing": (0, (1 << 33, 1 << 33, 0), (1, 1, 1)),
        "wrapping": (0, (1 << 62, 4), (1, 1)),
        "integer-beyond-64-bits": (1 << 200, (1,), (1,)),
        "no-stride": (0, (2,), ()),
        "many-dimensions": (0, (1,) * 3000, (1,) * 3000),
        "size-is-a-list": (0, [2], [1]),
        "size-is-true": (0, (True,), (1,)),
        "size-is-a-float": (0, (2.0,), (1,)),
    }
    for name, (offset, size, stride) in views.items():
        yield f"view-{name}", parameter(storage_stream(torch.arange(4.0)), offset, size, stride)
    good = storage_stream(torch.arange(4.0))
    count = struct.pack("<q", 4)
    changes = {
        "longer": good + b"\0",
        "shorter": good[:-1],
        "count": good.replace(count, struct.pack("<q", 5)),
        "negative-count": good.replace(count, struct.pack("<q", -4)),
        "announced": good.replace(b"K\x04N", b"K\x05N"),
        "announced-many": good.replace(b"K\x04N", b"J\xff\xff\xff\x7fN"),
        "announced-negative": good.replace(b"K\x04N", b"J\xff\xff\xff\xffN"),
        "big-endian": good.replace(b"\x88X\x0a", b"\x89X\x0a"),
        "type": good.replace(b"ctorch\nFloatStorage", b"cos\nsystem"),
        "other-type": good.replace(b"FloatStorage", b"TypedStorage"),
        "magic": good.replace(b"\x6c\xfc", b"\x6d\xfc"),
        "empty": b"",
        "zip": b"PK\x03\x04" + b"\0" * 100,
        "truth": storage_stream(torch.tensor([True, False]))[:-1] + b"\x07",
    }
    for name, stream in changes.items():
        yield f"storage-{name}", parameter(stream, 0, (4,), (1,))


def parameter(stream: bytes, offset: Any, size: Any, stride: Any) -> bytes:
    """A network whose only parameter is this view of this storage."""
    storage = Call(Name("torch.storage", "_load_from_bytes"), (stream,))
    view = Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage, offset, size, stride, False, {}))
    return pickled({"G_ema": persistent(module(_parameters={"weight": view}))}, 4)


def arrays() -> Iterator[tuple[str, bytes]]:
    """NumPy values with the wrong sizes."""

    def array(shape: Any, raw: Any, code: str = "f4", columns: bool = False) -> Call:
        kind = Call(Name("numpy", "dtype"), (code, False, True), state=(3, "<", None, None, None, -1, -1, 0))
        made = (Name("numpy", "ndarray"), (0,), b"b")
        function = Name("numpy.core.multiarray", "_reconstruct")
        return Call(function, made, state=(1, shape, kind, columns, raw))

    cases = {
        "short": array((3,), b"1234"),
        "huge": array((1 << 39,), b"1234"),
        "overflow": array((1 << 33, 1 << 33), b"1234"),
        "negative": array((-1,), b"1234"),
        "empty-and-huge": array((0, 1 << 62), b""),
        "dimensions": array((1,) * 500, b"1234"),
        "objects": array((1,), [Call(Name("os", "system"), ("true",))], "O8"),
        "text": array((1,), "1234"),
    }
    for name, value in cases.items():
        yield f"array-{name}", pickled({"G_ema": persistent(module(_init_kwargs={"a": value}))}, 4)


def attacks(argument: str) -> list[tuple[str, bytes]]:
    """Every attack by name; the argument is a shell command, and Python, that leaves a marker."""
    kinds = (calls(argument), chains(argument), lengths(), bombs(), trees(), tensors(), arrays())
    return [attack for kind in kinds for attack in kind]


def opcode_floods(size: int) -> list[tuple[str, bytes]]:
    """Files of so many bytes made of one thing over and over, each as many objects as its bytes allow."""
    parts = {
        "none": b"N",
        "lists": b"]",
        "dicts": b"}",
        "sets": b"\x8f",
        "filled-dicts": b"}NNs",
        "floats": b"G\x40\x09\x21\xfb\x54\x44\x2d\x18",
        "texts": b"\x8c\x01a",
        "wide-texts": b"\x8c\x08abcd" + "\U0001f600".encode(),
        "bytes": b"C\x41" + b"x" * 65,
        "memo": b"N\x94",
        "objects": b"ca\nb\n)\x81",
        "popped": b"N0",
    }
    return [(name, START + part * (size // len(part)) + STOP) for name, part in parts.items()]
