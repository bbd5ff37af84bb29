"""Names that give a checkpoint away: code that no checkpoint needs, wherever in the file it is named.

Our readers import and call nothing, so a poisoned file does nothing here. It is refused all the same:
somebody may give it to `torch.load` next. The rule goes by names alone, called or not:

1. Of Python's standard library a checkpoint may name the plain data types in DATA, and nothing else.
2. Of torch and NumPy it may name what lies directly in the modules of OPEN.
3. Of no package it may name what loads or runs other things: a function called like one of VERBS, a
   pickler, or anything reached through a standard module or a double underscore (`torch os.system`).

Every other name, of a known package or an unknown one, is a class that stays inert.
"""

from __future__ import annotations

import _compat_pickle
import sys

from .records import Global, Malformed, brief

DATA = {
    "builtins": {
        "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long",
        "object", "range", "set", "slice", "str", "tuple", "type", "unicode", "xrange", "Ellipsis",
    },
    "collections": {"ChainMap", "Counter", "OrderedDict", "UserDict", "UserList", "defaultdict", "deque"},
    "argparse": {"Namespace"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "pathlib": {"Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
    "typing": {"Any", "Dict", "List", "Optional", "Set", "Tuple", "Union"},  # the settings of OmegaConf
    "types": {"SimpleNamespace"},
    "functools": {"partial"},  # harmless, since the function would have to be named as well
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
    "_codecs": {"encode"},  # how protocol 2 writes bytes
    "copyreg": {"_reconstructor"},  # how it writes objects of older classes
}  # fmt: skip
# Where a module is today: protocol 2 is written with the names of Python 2, `commands` for `subprocess`.
MOVED = _compat_pickle.IMPORT_MAPPING | {"pathlib._local": "pathlib"}
# Modules that newer Pythons do not have, but older ones.
GONE = {"asynchat", "asyncore", "cgi", "crypt", "distutils", "imp", "nntplib", "pipes", "smtpd", "telnetlib"}
STANDARD = sys.stdlib_module_names | GONE
OPEN = {
    "torch": ("torch", "torch._C._nn", "torch._tensor", "torch._utils", "torch.cuda.amp",
              "torch.distributions", "torch.functional", "torch.nn", "torch.optim", "torch.storage",
              "torch.torch_version", "torch.utils.data.dataloader",
              "torch.utils.data.dataset", "torch.utils.data.sampler"),
    "numpy": ("numpy", "numpy._core.multiarray", "numpy._core.numeric", "numpy.core.multiarray",
              "numpy.core.numeric", "numpy.dtypes", "numpy.random"),
}  # fmt: skip
PICKLERS = {"cloudpickle", "dill", "joblib", "jsonpickle", "pip", "pkg_resources", "setuptools"}
VERBS = {
    "__import__", "_load_from_bytes", "compile", "eval", "exec", "from_file", "fromfile", "genfromtxt",
    "get_obj_from_str", "getattr", "import_module", "instantiate", "instantiate_from_config", "load",
    "load_from_checkpoint", "load_library", "load_module", "loads", "loadtxt", "memmap", "popen",
    "read_pickle", "run", "runcode", "runstring", "save", "setattr", "system", "unsafe_load",
}  # fmt: skip


def check_name(name: Global) -> bool:
    """True for a name that may stand in a checkpoint; raises Malformed naming any other."""
    module = MOVED.get(name.module, name.module)
    if not _may_stand(module, name.name):
        named = brief(f"{module} {name.name}")[1:-1]
        raise Malformed(
            f"it names {named}, which no checkpoint needs; nothing of it was run",
            "a checkpoint names tensors, containers, and classes of its trainer and its settings",
            "do not open the file with torch.load; compare its sha256 with its publisher's",
        )
    return True


def _may_stand(module: str, name: str) -> bool:
    package, parts = module.partition(".")[0], name.split(".")
    if package in STANDARD:
        return name in DATA.get(module, ())
    if package in PICKLERS or parts[-1] in VERBS or any(_leads_away(part) for part in parts):
        return False
    if package in OPEN:
        return len(parts) == 1 and any(_within(module, each, package) for each in OPEN[package])
    return True


def _leads_away(part: str) -> bool:
    """Whether an attribute is a standard module, under its own name or `_os`, or an inner part of Python."""
    return part.strip("_") in STANDARD or (part.startswith("__") and part.endswith("__"))


def _within(module: str, known: str, package: str) -> bool:
    """Whether a module is a known one or below it; below the package itself only what is listed."""
    return module == known or (known != package and module.startswith(f"{known}."))
