"""Names to generators, lazily: built-in families, then plugins by entry point.

A family is a module with `SPECS` (a list of GeneratorSpec) and `load(spec, device)`. Listing
imports families but neither torch nor diffusers.
"""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from .base import Generator, GeneratorSpec
from .errors import UserError, unknown

GROUP = "intrinsic_bench.generators"
FAMILIES = (
    "generators.stable_diffusion",
    "generators.multi_step",
    "generators.stylegan2",
    "generators.stylegan_xl",
    "generators.vqgan",
    "generators.dinov2",
)


@cache
def _builtin() -> dict[str, tuple[GeneratorSpec, str]]:
    found = {}
    for module in FAMILIES:
        for spec in importlib.import_module(module).SPECS:
            found[spec.name] = (spec, module)
    return found


@cache
def _plugins() -> tuple[dict[str, tuple[GeneratorSpec, str]], dict[str, str]]:
    """Specs of plugins by name, and the reasons of those that could not be imported."""
    found: dict[str, tuple[GeneratorSpec, str]] = {}
    broken: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            module = _family(entry.load(), entry)
        except Exception as error:  # whatever a plugin raises breaks only the runs that ask for it
            broken[entry.name] = f"{type(error).__name__}: {error}"
            continue
        for spec in module.SPECS:
            found.setdefault(spec.name, (spec, entry.value))
    return found, broken


def _family(module: ModuleType, entry: EntryPoint) -> ModuleType:
    specs = getattr(module, "SPECS", None)
    if not isinstance(specs, (list, tuple)) or not callable(getattr(module, "load", None)):
        raise TypeError(f"{entry.value} needs SPECS, a list of GeneratorSpec, and load(spec, device)")
    wrong = [s for s in specs if not isinstance(s, GeneratorSpec)]
    if wrong:
        raise TypeError(f"{entry.value}: SPECS holds {wrong[0]!r}, which is no GeneratorSpec")
    return module


def specs() -> list[GeneratorSpec]:
    """All generators, built-in first; a built-in name wins over a plugin's."""
    builtin, plugins = _builtin(), _plugins()[0]
    return [s for s, _ in builtin.values()] + [s for n, (s, _) in plugins.items() if n not in builtin]


def broken_plugins() -> dict[str, str]:
    """Entry point name to the reason for which the plugin could not be imported."""
    return dict(_plugins()[1])


def _find(name: str) -> tuple[GeneratorSpec, str]:
    if name in _builtin():
        return _builtin()[name]
    plugins, broken = _plugins()
    if name in plugins:
        return plugins[name]
    family = name.split(".")[0]
    if family in broken:
        raise UserError(
            f"model {name!r}",
            f"the plugin {family!r} that may provide it cannot be imported: {broken[family]}",
            "the other models are unaffected: intrinsic-bench ls models",
            f"mend or uninstall the package behind the entry point {family!r}",
        )
    raise unknown("model", name, [s.name for s in specs()], "see: intrinsic-bench ls models")


def spec(name: str) -> GeneratorSpec:
    """Facts about one generator; raises UserError with near names if there is none."""
    return _find(name)[0]


def family_module(name: str) -> ModuleType:
    """The module that provides a generator."""
    module = importlib.import_module(_find(name)[1].split(":")[0])
    return module


def _hash_files(paths: list[Path], root: Path) -> str:
    """Hash of the names and contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:32]


def _visible(folder: Path) -> list[Path]:
    """Files below a folder, sorted; nothing whose path has a part that starts with a dot."""
    paths = (p for p in folder.rglob("*") if not any(q.startswith(".") for q in p.relative_to(folder).parts))
    return sorted(p for p in paths if p.is_file())


def identity(name: str) -> str:
    """Which weights a name stands for here and now, without loading them.

    What the family's own `identity(spec)` says; else the hash of the files below `spec.source`, if
    that is a folder; else "source@revision"; else, for a generator whose module alone makes it,
    the hash of that module.
    """
    found, module = spec(name), family_module(name)
    if hasattr(module, "identity"):
        return str(module.identity(found))
    if found.source is None:
        return _hash_files([Path(str(module.__file__))], Path(str(module.__file__)).parent)
    folder = Path(found.source)
    if folder.is_dir():
        return _hash_files(_visible(folder), folder)
    return f"{found.source}@{found.revision}"


def load(name: str, device: str = "cpu") -> Generator:
    """A generator by name, frozen and in evaluation mode, on a device."""
    found: Generator = family_module(name).load(spec(name), device)
    return found


def frozen_identity(name: str) -> str:
    """Hash of what makes a model's codes and encodes its targets: stages of one training share it.

    What the family's own `frozen_identity(spec)` says, else the model's whole identity.
    """
    module, found = family_module(name), spec(name)
    if hasattr(module, "frozen_identity"):
        return str(module.frozen_identity(found))
    return identity(name)
