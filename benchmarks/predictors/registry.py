"""Predictors by name, built in and by entry point; nothing here imports torch.

A plugin's entry point in the group intrinsic_bench.predictors names a module with `SPECS`, a list of
PredictorSpec, whose `module` says what loads them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from generators.errors import UserError, unknown

from .base import (
    ABSENT,
    Predict,
    PredictorSpec,
    cached_folder,
    file_digest,
    folder_digest,
    lacking,
    own_folder,
)
from .facts import check_facts

if TYPE_CHECKING:
    from benchmarks.needs import Need

GROUP = "intrinsic_bench.predictors"
HERE = Path(__file__).parent
_KE = (
    "Ke et al., Marigold: Affordable Adaptation of Diffusion-Based Image Generators for Image Analysis, 2025"
)
_RAIL = "CreativeML OpenRAIL++-M"
# Of v1.1: DDIM, v-prediction, 4 steps, 768 pixels on the long side (the models' own defaults).
_MARIGOLD = {"steps": 4, "ensemble": 1, "seed": 0, "resolution": 768}
_MARIGOLD_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors|text_encoder/model.safetensors",
    "tokenizer/merges.txt|tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json|tokenizer/tokenizer.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.fp16.safetensors|unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors|vae/diffusion_pytorch_model.safetensors",
)
_HALF = "the half-precision files are fetched, and computed with in float32"
_BOUNDED = {"albedo and shading": "in [0, 1]"}  # of the embedded worlds' networks, since their second code
_TRANSFORMERS_FILES = ("config.json", "model.safetensors")

BUILTIN: tuple[PredictorSpec, ...] = (
    PredictorSpec(
        name="omnidata-v2",
        title="Omnidata v2 (DPT-hybrid)",
        module="benchmarks.predictors.omnidata",
        intrinsics=("normal",),
        source="https://zenodo.org/records/10447888/files/omnidata_dpt_normal_v2.ckpt",
        sha256="38db3f7d952f48f900f0b32d6cce6749e41641045ebc5713cf29618f54aff3bb",
        bytes=1_947_430_960,
        licence="non-commercial research, weights included",
        non_commercial=True,
        convention="(n + 1) / 2 in [0, 1], axes of Omnidata (see benchmarks.data.axes.from_omnidata)",
        input_size=384,
        citation="Eftekhar et al., Omnidata, ICCV 2021; Kar et al., 3D Common Corruptions, CVPR 2022",
        note="pictures in [0, 1] without mean and deviation; the middle square is shown to it",
    ),
    PredictorSpec(
        name="zoedepth",
        title="ZoeDepth (NYU and KITTI)",
        module="benchmarks.predictors.zoedepth",
        intrinsics=("depth",),
        source="Intel/zoedepth-nyu-kitti",
        revision="f364d4c7936e91f465abba182208dd68142bf0ca",
        bytes=1_380_293_228,
        files=_TRANSFORMERS_FILES,
        licence="MIT",
        depth="metric",
        convention="meters along the view axis",
        input_size=384,
        citation="Bhat et al., ZoeDepth: Zero-shot Transfer by Combining Relative and Metric Depth, 2023",
        options={"flip": True, "padding": 3, "batch": 1},
        note="padded by reflection and averaged with the mirrored picture, as its authors do",
    ),
    PredictorSpec(
        name="depth-anything-v2",
        title="Depth Anything V2, metric, indoor, large",
        module="benchmarks.predictors.depth_anything",
        intrinsics=("depth",),
        source="depth-anything/Depth-Anything-V2-Metric-Indoor-Large-hf",
        revision="719f4a6b8b78707d94d2671fa219bd253a6c4b62",
        bytes=1_341_262_596,
        files=_TRANSFORMERS_FILES,
        licence="CC-BY-NC-4.0 (non-commercial), as the large encoder's; the metric model's card states none",
        non_commercial=True,
        depth="metric",
        convention="meters along the view axis, at most 20",
        input_size=518,
        citation="Yang et al., Depth Anything V2, NeurIPS 2024",
        note="fine-tuned on Hypersim; the relative models give disparity and are refused",
    ),
    PredictorSpec(
        name="marigold-normals",
        title="Marigold normals v1.1",
        module="benchmarks.predictors.marigold:load_normals",
        intrinsics=("normal",),
        source="prs-eth/marigold-normals-v1-1",
        bytes=2_579_927_894,
        files=_MARIGOLD_FILES,
        licence=_RAIL,
        convention="unit vectors in [-1, 1], x right, y up, z towards the camera",
        input_size=768,
        citation=_KE,
        options=_MARIGOLD,
        note=_HALF,
    ),
    PredictorSpec(
        name="marigold-depth",
        title="Marigold depth v1.1",
        module="benchmarks.predictors.marigold:load_depth",
        intrinsics=("depth",),
        source="prs-eth/marigold-depth-v1-1",
        bytes=2_579_927_894,
        files=_MARIGOLD_FILES,
        licence=_RAIL,
        depth="affine",
        convention="affine-invariant depth: 0 at the nearest plane, 1 at the farthest, no unit",
        input_size=768,
        citation=_KE,
        options=_MARIGOLD,
        note=f"{_HALF}; to be aligned by scale and shift before it is compared with meters",
    ),
    PredictorSpec(
        name="marigold-iid",
        title="Marigold intrinsic images v1.1 (lighting)",
        module="benchmarks.predictors.marigold:load_intrinsics",
        intrinsics=("albedo", "shading"),
        source="prs-eth/marigold-iid-lighting-v1-1",
        revision="08c3930bb641abf786ba44ce92547507ebefbc16",
        bytes=2_580_020_070,
        files=_MARIGOLD_FILES,
        licence=_RAIL,
        convention="linear RGB in [0, 1]; picture = albedo x shading + residual, shading up to one scale",
        input_size=768,
        citation=_KE,
        options=_MARIGOLD,
        note=f"{_HALF}; the residual (not diffuse) is left out; the appearance model gives no shading",
    ),
    PredictorSpec(
        name="rooms-network",
        title="the rooms' own network",
        module="benchmarks.predictors.rooms_labels",
        intrinsics=("normal", "depth", "albedo", "shading"),
        source="",
        files=("rooms.safetensors",),
        licence="Apache-2.0",
        depth="metric",
        convention="ours",
        input_size=64,
        citation="this package",
        embedded=True,
        options=_BOUNDED,
        note="trained on the rooms' split zoo: of use on rooms, and on what models of the zoo draw",
    ),
    PredictorSpec(
        name="objects-network",
        title="the objects' own network",
        module="benchmarks.predictors.objects_labels",
        intrinsics=("normal", "depth", "albedo", "shading"),
        source="",
        files=("objects.safetensors",),
        licence="Apache-2.0",
        depth="metric",
        convention="ours",
        input_size=64,
        citation="this package",
        embedded=True,
        options=_BOUNDED,
        note="the rooms' network, trained on with the objects' split zoo: of use on objects",
    ),
    PredictorSpec(
        name="paradigms",
        title="albedo and shading learnt from paradigms",
        module="benchmarks.predictors.paradigms.predictor",
        intrinsics=("albedo", "shading"),
        source="",
        files=("paradigms.safetensors",),
        licence="Apache-2.0",
        convention="linear RGB in [0, 1], both up to one scale",
        input_size=256,
        citation="Forsyth and Rock, Intrinsic Image Decomposition Using Paradigms, TPAMI 2021",
        embedded=True,
        note="trained on drawn pictures only: flat albedo, smooth shading, sparse gloss",
    ),
)


# Plugins.


class _Read(NamedTuple):
    """What the plugins gave: specs by name, and what is wrong with others.

    Attributes:
        broken: entry point name to why it could not be imported.
        faulty: name of a predictor to why it cannot be used, the plugin's name first.
        taken: entry point name to its predictors that are left out because others have their names.
    """

    found: dict[str, PredictorSpec]
    broken: dict[str, str]
    faulty: dict[str, str]
    taken: dict[str, str]


@cache
def _plugins() -> _Read:
    read = _Read({}, {}, {}, {})
    owners = {spec.name: "a built-in predictor" for spec in BUILTIN}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            specs = _specs_of(entry)
        except Exception as error:  # whatever a plugin raises breaks only the runs that ask for it
            read.broken[entry.name] = f"{type(error).__name__}: {error}"
            continue
        for spec in specs:
            _add(read, owners, entry.name, spec)
    return read


def _add(read: _Read, owners: dict[str, str], plugin: str, spec: PredictorSpec) -> None:
    """A plugin's predictor among those that can be used, or with those that cannot and why."""
    try:
        check_facts(spec)
    except Exception as error:  # facts may be of any type: a bad one breaks only itself
        read.faulty.setdefault(str(spec.name), f"plugin {plugin!r}: {error}")
        return
    if spec.name in owners:
        told = f"its predictor {spec.name!r} is left out: {owners[spec.name]} has that name"
        read.taken[plugin] = f"{read.taken[plugin]}; {told}" if plugin in read.taken else told
        return
    read.found[spec.name] = spec
    owners[spec.name] = f"one of the plugin {plugin!r}"


def _specs_of(entry: EntryPoint) -> list[PredictorSpec]:
    specs = getattr(entry.load(), "SPECS", None)
    if not isinstance(specs, (list, tuple)) or not all(isinstance(s, PredictorSpec) for s in specs):
        raise TypeError(f"{entry.value} needs SPECS, a list of PredictorSpec")
    return list(specs)


def broken_plugins() -> dict[str, str]:
    """Entry point name to the reason for which the plugin could not be imported."""
    return dict(_plugins().broken)


def faulty_predictors() -> dict[str, str]:
    """Name of a plugin's predictor to what is wrong with its facts; it cannot be used."""
    return dict(_plugins().faulty)


def taken_names() -> dict[str, str]:
    """Entry point name to the plugin's predictors that are left out because others have their names."""
    return dict(_plugins().taken)


def plugin_lines() -> list[str]:
    """What is wrong with plugins, a line each."""
    lines = [f"plugin {name!r} cannot be imported: {why}" for name, why in broken_plugins().items()]
    lines += [f"predictor {name!r} is broken: {why}" for name, why in faulty_predictors().items()]
    return lines + [f"plugin {name!r}: {told}" for name, told in taken_names().items()]


class _Predictors(Mapping[str, PredictorSpec]):
    """Name to spec, built-in first; a built-in name wins over a plugin's."""

    def _all(self) -> dict[str, PredictorSpec]:
        builtin = {spec.name: spec for spec in BUILTIN}
        return builtin | {name: spec for name, spec in _plugins().found.items() if name not in builtin}

    def __getitem__(self, name: str) -> PredictorSpec:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


PREDICTORS: Mapping[str, PredictorSpec] = _Predictors()


def describe_predictor(name: str) -> PredictorSpec:
    """A predictor by name; raises UserError with near names if there is none."""
    if name in PREDICTORS:
        return PREDICTORS[name]
    refuse_broken(name)
    missing = unknown("predictor", name, PREDICTORS, "see: intrinsic-bench ls predictors")
    broken = [f"plugin {entry!r} cannot be imported: {why}" for entry, why in broken_plugins().items()]
    raise UserError(missing.asked, missing.wrong, "; ".join([missing.known, *broken]), missing.todo)


def refuse_broken(name: str) -> None:
    """Raise UserError if a plugin, or its predictor, has this name and cannot be used."""
    others = "the other predictors are unaffected: intrinsic-bench ls predictors"
    if name in PREDICTORS:
        return
    if name in faulty_predictors():
        wrong = f"its facts are broken: {faulty_predictors()[name]}"
        raise UserError(f"predictor {name!r}", wrong, others, "mend its PredictorSpec in the plugin")
    if name in broken_plugins():
        raise UserError(
            f"predictor {name!r}",
            f"the plugin of this name cannot be imported: {broken_plugins()[name]}",
            others,
            f"mend or uninstall the package behind the entry point {name!r}",
        )


# What is on this machine.


def _embedded_files(spec: PredictorSpec) -> list[Path]:
    """What decides the maps of a predictor that needs nothing from outside; of a plugin, its module."""
    if spec in BUILTIN:
        return sorted(path for pattern in spec.files for path in HERE.glob(pattern))
    found = importlib.util.find_spec(spec.module.partition(":")[0])
    return [Path(found.origin)] if found is not None and found.origin else []


def _weights(spec: PredictorSpec) -> str:
    """Which weights are on this machine, ABSENT if none, or not all of them."""
    if spec.embedded:
        digests = [file_digest(path) for path in _embedded_files(spec)]
        whole = (
            hashlib.sha256("\n".join(digests).encode()).hexdigest() if len(digests) > 1 else "".join(digests)
        )
        return whole[:12] or ABSENT
    if spec.on_hub:
        return _of_folder(spec)
    from generators.checkpoints.download import local_path, own_path, provenance

    found = local_path(spec.name)
    if found is None or not found.is_file():
        return ABSENT
    said = {} if found == own_path(spec.name) else provenance(found)
    return str(said.get("sha256") or file_digest(found))[:16]


def _of_folder(spec: PredictorSpec) -> str:
    own = own_folder(spec)
    if own is not None:
        return ABSENT if lacking(own, spec.files) else folder_digest(own, spec.files)[:16]
    cached = cached_folder(spec)
    return ABSENT if cached is None else cached.name[:16]  # the hub's cache names a folder by its commit


def identity(name: str) -> str:
    """Which weights, asked in which way, a name stands for here and now; "absent" if they are not here.

    Of a file or folder the hash of its contents, of the hub's cache the commit; then the hash of the
    options that change the maps, where there are some.
    """
    spec = describe_predictor(name)
    weights = _weights(spec)
    if weights == ABSENT or not spec.options:
        return weights
    asked = json.dumps(dict(spec.options), sort_keys=True)
    return f"{weights}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def on_machine(name: str) -> bool:
    """Whether a predictor can be loaded without fetching, as far as names of files tell."""
    spec = describe_predictor(name)
    if spec.embedded:
        return bool(_embedded_files(spec))
    if spec.on_hub:
        own = own_folder(spec)
        return cached_folder(spec) is not None if own is None else not lacking(own, spec.files)
    from generators.checkpoints.download import local_path

    return local_path(spec.name) is not None


def need(name: str) -> Need | None:
    """What a predictor's weights need; None if they come with the package."""
    from benchmarks.needs import Need

    spec = describe_predictor(name)
    if spec.embedded:
        return None
    command = f"intrinsic-bench fetch {name}" + (" --accept-licence" if spec.non_commercial else "")
    return Need(name, "predictor", spec.bytes, spec.licence, on_machine(name), command, spec.note)


def load(name: str, device: str = "cpu") -> Predict:
    """A predictor by name, on a device; raises UserError if its weights are missing or broken."""
    module, _, function = describe_predictor(name).module.partition(":")
    found: Predict = getattr(importlib.import_module(module), function or "load")(device)
    return found


def rows() -> list[tuple[str, ...]]:
    """The table of `intrinsic-bench ls predictors`, its heading first."""
    from benchmarks.needs import size_text

    table: list[tuple[str, ...]] = [
        ("name", "intrinsics", "depth", "input", "size", "state", "licence", "title")
    ]
    for name, spec in PREDICTORS.items():
        size = "-" if spec.embedded else size_text(spec.bytes)
        here = "embedded" if spec.embedded else "not here"
        state = here if spec.embedded or not on_machine(name) else "here"
        listed = " ".join(spec.intrinsics), spec.depth or "-", str(spec.input_size)
        table.append((name, *listed, size, state, spec.licence, spec.title))
    return table
