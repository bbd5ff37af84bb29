"""TorchScript as a feature extractor: read as text, held to pure computation, then loaded.

A TorchScript archive is a program. Its operators can read and write files (aten::from_file, aten::save), and
its classes may be C++ classes with code of their own. So nothing of it runs before `checked` has read it:

- every entry is looked at by name, size and checksum; code is parsed as text, never imported;
- every name below `torch` and `ops` must stand in OPERATORS or PRIMITIVES, every other name must be bound in
  the code itself, every attribute must be no operator, or one of OPERATORS (`x.save` calls aten::save);
- the pickles name classes of the archive's own code and what rebuilds tensors, nothing else.

What is then loaded is not the file but a new archive in memory: the syntax trees that were checked, written
out again, and the entries that were checked. No second reader can see something else in it. A script can
still take long, or much memory.
"""

from __future__ import annotations

import ast
import io
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

MOST_ENTRIES = 4096
LONGEST_CODE = 1 << 20  # bytes of one source file; Inception's have some ten thousand
LONGEST_PICKLE = 1 << 24
LARGEST = 1 << 30  # bytes of all entries together

# Operators (aten) that only compute on their arguments.
_OPERATORS = """
    Bool Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ __derive_index
    __getitem__ __is__ __isnot__ __not__ __or__ __range_length _convolution _set_item
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d abs adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d adaptive_max_pool2d add add_ addmm affine_grid_generator all amax amin any append
    arange avg_pool1d avg_pool2d batch_norm bmm broadcast_to cat ceil chunk clamp clamp_ clamp_max
    clamp_min clone constant_pad_nd contiguous conv1d conv2d convolution detach device dim div div_
    dropout dropout_ dtype einsum elu eq exp expand expand_as eye flatten flip floor floor_divide floordiv
    format full ge gelu grid_sampler grid_sampler_2d group_norm gt hardsigmoid hardswish hardtanh index
    index_select instance_norm is_floating_point item items keys layer_norm le leaky_relu len lerp linear
    list log log_softmax logical_and logical_not logical_or lt matmul max max_pool1d max_pool2d maximum
    mean meshgrid min minimum mm mul mul_ narrow ne neg norm numel ones ones_like pad permute pow prod
    reciprocal reflection_pad2d relu relu6 relu_ remainder repeat replication_pad2d reshape roll round
    rsqrt rsub select sigmoid silu size slice softmax softplus split split_with_sizes sqrt square squeeze
    squeeze_ stack std sub sub_ sum t tanh tensor to transpose true_divide truediv type_as unbind
    unflatten unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d values var view view_as
    warn where zeros zeros_like
"""
OPERATORS = frozenset(_OPERATORS.split())
# Primitives (prim) of the same kind; RaiseException ends the program with a message.
_PRIMITIVES = """
    RaiseException device dtype layout is_cuda requires_grad shape data min max abs NumToTensor isinstance
    unchecked_cast unchecked_unwrap_optional TupleUnpack TupleIndex ListUnpack
"""
PRIMITIVES = frozenset(_PRIMITIVES.split())
_BUILT_IN = """
    annotate unchecked_cast uninitialized getattr isinstance int float bool str len range min max abs inf
    nan Tensor List Tuple Dict Optional Union Final NoneType Module Device number
"""
BUILT_IN = frozenset(_BUILT_IN.split())
ROOTS = frozenset(("torch", "ops", "__torch__", "CONSTANTS"))
FOREIGN = "torch.classes"  # C++ classes, registered by whatever is loaded in the process
CLASS_FACTS = frozenset(("__parameters__", "__buffers__", "__annotations__"))
VERSIONS = frozenset(("version", ".data/version"))  # places of the format's number
# What the pickles may name besides classes of the archive's own code.
PICKLED = frozenset(
    (
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(
            f"torch {kind}Storage"
            for kind in ("Float", "Half", "Double", "Long", "Int", "Byte", "Bool", "BFloat16")
        ),
        *(f"torch.jit._pickle {verb}" for verb in ("build_intlist", "build_doublelist", "build_boollist")),
        *(f"torch.jit._pickle {verb}" for verb in ("build_tensorlist", "restore_type_tag")),
    )
)
NAMING = frozenset(("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"))  # other ways to name a class


class Refused(Exception):
    """What a script does, or is, that is not let through."""


# Code.


_ALLOWED: tuple[type[ast.AST], ...] = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.keyword, ast.Load, ast.Store),
    *(ast.Assign, ast.AnnAssign, ast.Expr, ast.Return, ast.Pass, ast.If, ast.For, ast.Assert),
    *(
        ast.Name,
        ast.Attribute,
        ast.Call,
        ast.Constant,
        ast.Subscript,
        ast.Slice,
        ast.Tuple,
        ast.List,
        ast.Dict,
    ),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.unaryop, ast.operator, ast.boolop, ast.cmpop),
)


def _chain(node: ast.Attribute) -> list[str]:
    """a.b.c as its names; [] where it does not start with a name."""
    names: list[str] = []
    current: ast.expr = node
    while isinstance(current, ast.Attribute):
        names.append(current.attr)
        current = current.value
    return [current.id, *reversed(names)] if isinstance(current, ast.Name) else []


def _check_attribute(name: str, is_operator: Callable[[str], bool]) -> None:
    """An attribute of a value: `x.save(...)` is the operator aten::save if there is one of this name."""
    if name not in OPERATORS and (name in ROOTS or is_operator(name)):
        raise Refused(f"it uses the operator aten::{name}")


def _check_chain(names: list[str]) -> None:
    """A dotted name below one of ROOTS."""
    root, rest = names[0], names[1:]
    if FOREIGN in ".".join(names):
        raise Refused(f"it uses the C++ class {'.'.join(names)[:100]}")
    if root == "torch" and (len(rest) != 1 or rest[0] not in OPERATORS):
        raise Refused(f"it uses the operator aten::{'.'.join(rest)[:60]}")
    known = {"prim": PRIMITIVES, "aten": OPERATORS}.get(rest[0], frozenset()) if root == "ops" else None
    if known is not None and (len(rest) != 2 or rest[1] not in known):
        raise Refused(f"it uses the operator {'::'.join(rest)[:60]}")
    if root == "CONSTANTS" and len(rest) != 1:
        raise Refused("it looks into a constant")


class _Checker:
    """Walks one source file.

    Args:
        is_operator: whether torch has an operator aten::NAME.
    """

    def __init__(self, is_operator: Callable[[str], bool]) -> None:
        self.is_operator = is_operator

    def visit(self, node: ast.AST, bound: frozenset[str]) -> None:
        """Check a node and what is below it, where these names are bound."""
        if not isinstance(node, _ALLOWED):
            raise Refused(f"it has {type(node).__name__} in its code, line {getattr(node, 'lineno', '?')}")
        if isinstance(node, ast.FunctionDef):
            bound = self._function(node, bound)
        elif isinstance(node, ast.ClassDef):
            self._class(node)
            bound = bound | CLASS_FACTS | _targets(node)
        elif isinstance(node, ast.Attribute):
            names = _chain(node)
            if names and names[0] in ROOTS:
                _check_chain(names)
                return
            _check_attribute(node.attr, self.is_operator)
        elif isinstance(node, ast.Name):
            self._name(node, bound)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            self._targets_of(node)
        for child in ast.iter_child_nodes(node):
            self.visit(child, bound)

    def _function(self, node: ast.FunctionDef, bound: frozenset[str]) -> frozenset[str]:
        arguments = node.args
        if node.decorator_list or arguments.vararg or arguments.kwarg or arguments.posonlyargs:
            raise Refused(f"its function {node.name} has decorators or open arguments")
        self._own(node.name)
        names = {each.arg for each in (*arguments.args, *arguments.kwonlyargs)} | _targets(node)
        for name in names:
            self._own(name)
        return bound | names

    def _class(self, node: ast.ClassDef) -> None:
        bases = [base.id if isinstance(base, ast.Name) else "?" for base in node.bases]
        if node.decorator_list or node.keywords or any(base != "Module" for base in bases):
            raise Refused(f"its class {node.name} has decorators, or other bases than Module")
        for each in node.body:
            if not isinstance(each, ast.FunctionDef | ast.Assign | ast.AnnAssign | ast.Pass):
                raise Refused(f"its class {node.name} does something where it is defined")

    def _own(self, name: str) -> None:
        if name in ROOTS or name in BUILT_IN:
            raise Refused(f"it gives {name!r} another meaning")

    def _name(self, node: ast.Name, bound: frozenset[str]) -> None:
        """A name alone: bound in the code, or one of the language; a root alone could be passed on."""
        if isinstance(node.ctx, ast.Load) and node.id not in bound and node.id not in BUILT_IN:
            raise Refused(f"it uses the name {node.id!r}")

    def _call(self, node: ast.Call) -> None:
        """getattr(x, "save") is x.save."""
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            name = node.args[1] if len(node.args) == 2 else None
            if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
                raise Refused("it calls getattr with a name it computes")
            _check_attribute(name.value, self.is_operator)

    def _targets_of(self, node: ast.Assign | ast.AnnAssign) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            if isinstance(target, ast.Subscript) and not _is_named(target.value, "__annotations__"):
                raise Refused("it assigns to an element")


def _is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _targets(node: ast.AST) -> set[str]:
    """Names that are assigned anywhere below a node."""
    return {
        each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
    }


def check_code(source: str, is_operator: Callable[[str], bool]) -> str:
    """The same program written anew from its syntax tree; raises Refused if it does more than compute."""
    if not source.isascii():
        raise Refused("its code is not ASCII")
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        operator = "a PythonOp (^)" if "^" in source else type(error).__name__
        raise Refused(f"its code cannot be read as text: {operator}") from error
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            raise Refused("its code does something outside of classes and functions")
    try:
        _Checker(is_operator).visit(tree, frozenset())
        return ast.unparse(tree) + "\n"
    except RecursionError as error:
        raise Refused("its code is nested too deeply") from error


# Pickles.


def check_pickle(data: bytes, what: str) -> None:
    """Raise Refused unless a pickle names nothing but the archive's own classes and what makes tensors.

    The opcodes are read one by one; nothing is unpickled.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in NAMING:
                raise Refused(f"its {what} names a class by {opcode.name}")
            if isinstance(argument, str) and FOREIGN in argument.replace(" ", "."):
                raise Refused(f"its {what} names the C++ class {argument[:100]!r}")
            if opcode.name == "GLOBAL" and argument not in PICKLED and not _own_class(str(argument)):
                raise Refused(f"its {what} names {argument!r}")
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, RecursionError) as error:
        raise Refused(f"its {what} is no pickle: {error}") from error


def _own_class(name: str) -> bool:
    return name.startswith(("__torch__ ", "__torch__."))


# The archive.


def is_script(path: Path) -> bool:
    """Whether a file is a zip archive with constants of a program, as torch.jit.save writes it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Entries by their name below the archive's one folder; raises Refused for a suspicious directory."""
    listed = archive.infolist()
    folders = {each.filename.partition("/")[0] for each in listed}
    if len(listed) > MOST_ENTRIES or len(folders) != 1:
        raise Refused(f"it has {len(listed)} entries in {len(folders)} folders")
    if sum(each.file_size for each in listed) > LARGEST:
        raise Refused(f"its entries are larger than {LARGEST:,} bytes together")
    found = {each.filename.partition("/")[2]: each for each in listed}
    if len(found) != len(listed):
        raise Refused("it has two entries of one name")
    return found


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """The bytes of an entry, their checksum compared, never more than `most`."""
    if entry.file_size > most:
        raise Refused(f"its entry {entry.filename[:80]!r} has {entry.file_size:,} bytes")
    with archive.open(entry) as file:
        data = file.read(most + 1)
    if len(data) != entry.file_size:
        raise Refused(f"its entry {entry.filename[:80]!r} is not as long as announced")
    return data


def _kept(archive: zipfile.ZipFile, is_operator: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Checked entries of a program, in their order; debugging records and the like are left behind."""
    for name, entry in _entries(archive).items():
        if name.startswith("code/") and name.endswith(".py"):
            source = _content(archive, entry, LONGEST_CODE).decode("ascii", "replace")
            yield name, check_code(source, is_operator).encode()
        elif name in ("data.pkl", "constants.pkl"):
            data = _content(archive, entry, LONGEST_PICKLE)
            check_pickle(data, name)
            yield name, data
        elif name.startswith(("data/", "constants/")):
            yield name, _content(archive, entry, LARGEST)
        elif name in (*VERSIONS, "byteorder"):
            yield name, _content(archive, entry, 64)


def _operator_known(name: str) -> bool:
    import torch

    return bool(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))


def checked(path: Path) -> io.BytesIO:
    """A new archive in memory with the checked program of a file; raises UserError naming what it does."""
    made = io.BytesIO()
    damaged = (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        ValueError,
        NotImplementedError,
        EOFError,
        RuntimeError,
    )
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w") as copy:
            _write(copy, _kept(archive, _operator_known))
    except Refused as error:
        raise _error(path, f"this script is not let through: {error}") from error
    except damaged as error:
        raise _error(path, f"it is damaged: {type(error).__name__}: {str(error)[:200]}") from error
    made.seek(0)
    return made


def _write(copy: zipfile.ZipFile, entries: Iterable[tuple[str, bytes]]) -> None:
    names = set()
    for name, data in entries:
        copy.writestr(f"program/{name}", data)
        names.add(name)
    lacking = {"data.pkl", "constants.pkl"} - names
    if lacking or not names & VERSIONS:
        raise Refused(f"it has no {', '.join(sorted(lacking)) or 'version'}")


def _error(path: Path, wrong: str) -> UserError:
    return UserError(
        f"extractor {path}",
        wrong,
        "a TorchScript that takes uint8 pictures (b 3 h w) and return_features=True and only computes",
        "fetch it again: intrinsic-bench fetch inception; or take the weights without a program: "
        "intrinsic-bench fetch inception.torch-fidelity",
    )


def load_script(path: Path, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """Pictures (b 3 h w) on 0..255 to features (b d), by a program that was checked first.

    Raises:
        UserError: the program does more than compute, cannot be loaded, or is called in another way.
    """
    import torch

    program = checked(path)
    try:
        with warnings.catch_warnings():
            # torch prefers other formats since 2.10; the published file is in this one.
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
            network: Any = torch.jit.load(program, map_location=device).eval()
        arguments = [each.name for each in network.forward.schema.arguments]
    except (RuntimeError, AttributeError, ValueError) as error:
        raise _error(path, f"torch cannot load it: {str(error).strip()[:200]}") from error
    if len(arguments) < 2 or "return_features" not in arguments:
        raise _error(path, f"it is called with {', '.join(arguments[1:]) or 'nothing'}")

    def features(pictures: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):
            try:
                found = network(pictures, return_features=True)
            except (RuntimeError, torch.jit.Error) as error:
                reason = str(error).strip().splitlines()[-1][:200]
                raise _error(path, f"it fails on pictures {tuple(pictures.shape)}: {reason}") from error
        if not isinstance(found, torch.Tensor):
            raise _error(path, f"it gives {type(found).__name__} instead of features")
        return found

    return features
