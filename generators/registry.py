"""Names to generators, lazily: built-in families, then plugins by entry point.

A family is a module with `SPECS` (a list of GeneratorSpec), `load(spec, device)`, and what else
`generators.base` says it may have. Listing imports families but neither torch nor diffusers.
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
WEIGHTS = (".bin", ".ckpt", ".npz", ".pkl", ".pt", ".pth", ".safetensors")  # what paths of weights end in


@cache
def _builtin() -> dict[str, tuple[GeneratorSpec, str]]:
    found = {}
    for module in FAMILIES:
        for spec in importlib.import_module(module).SPECS:
            found[spec.name] = (spec, module)
    return found


@cache
def _plugins() -> tuple[dict[str, tuple[GeneratorSpec, str]], dict[str, str], dict[str, str]]:
    """Specs of plugins by name, why some could not be imported, and which models others leave no name."""
    found: dict[str, tuple[GeneratorSpec, str]] = {}
    broken: dict[str, str] = {}
    taken: dict[str, list[str]] = {}
    owners = dict.fromkeys(_builtin(), "a built-in model")
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            module = _family(entry.load(), entry)
        except Exception as error:  # whatever a plugin raises breaks only the runs that ask for it
            broken[entry.name] = f"{type(error).__name__}: {error}"
            continue
        for spec in module.SPECS:
            if spec.name in owners:
                told = f"its model {spec.name!r} is left out: {owners[spec.name]} has that name"
                taken.setdefault(entry.name, []).append(told)
                continue
            found[spec.name] = (spec, entry.value)
            owners[spec.name] = f"one of the plugin {entry.name!r}"
    return found, broken, {name: "; ".join(told) for name, told in taken.items()}


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


def taken_names() -> dict[str, str]:
    """Entry point name to the plugin's models that are left out because others have their names."""
    return dict(_plugins()[2])


def _find(name: str) -> tuple[GeneratorSpec, str]:
    if name in _builtin():
        return _builtin()[name]
    plugins, broken = _plugins()[:2]
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

    What the family's own `identity(spec)` says; else the hash of the file `spec.source`, or of the files
    below it, if that is a file or folder; else "source@revision"; else, for a generator whose module alone
    makes it, the hash of that module, of a package with all files in its folder.

    Raises:
        UserError: `source` is a path, and nothing is there.
    """
    found, module = spec(name), family_module(name)
    if hasattr(module, "identity"):
        return str(module.identity(found))
    if found.source is None:
        place = Path(str(module.__file__))
        place = place.parent if place.name == "__init__.py" else place
    else:
        place = Path(found.source).expanduser()
    if place.is_dir():
        return _hash_files([p for p in _visible(place) if "__pycache__" not in p.parts], place)
    if place.is_file():
        return _hash_files([place], place.parent)
    if _is_path(found.source):
        raise UserError(
            f"model {name!r}",
            f"its weights are not there: {found.source}",
            "a source is a file, a folder, or the name of a repository",
            "put them there, or mend `source` in its spec",
        )
    return f"{found.source}@{found.revision}"


def _is_path(source: str | None) -> bool:
    """Whether a source that is not on this machine should be: it is no address and no repository."""
    if source is None or "://" in source:
        return False
    return source.startswith(("/", "~", ".")) or source.endswith(WEIGHTS)


def fetch(name: str) -> None:
    """Fetch a model's folder from the hub if it is not on this machine: its identity is known only then."""
    module, found = family_module(name), spec(name)
    if hasattr(module, "hub_folder") and hasattr(module, "on_machine") and not module.on_machine(found):
        module.hub_folder(found)


def load(name: str, device: str = "cpu") -> Generator:
    """A generator by name, frozen and in evaluation mode, on a device."""
    found: Generator = family_module(name).load(spec(name), device)
    return found


def frozen_identity(name: str) -> str:
    """Hash of what makes a model's codes and encodes its targets: stages of one training share it.

    What the family's own `frozen_identity(spec)` says, else the model's whole identity and its name: two
    models of one module, or of one source, may have the same identity and encode otherwise.
    """
    module, found = family_module(name), spec(name)
    if hasattr(module, "frozen_identity"):
        return str(module.frozen_identity(found))
    return f"{name} {identity(name)}"
