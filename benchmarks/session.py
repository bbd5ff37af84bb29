"""What one worker keeps between cells: the model at hand, and everything frozen that was computed for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from generators import registry
from generators.base import Denoiser, Generator
from generators.errors import UserError
from generators.random_init import blend_noise
from probes.intrinsics import DEPTH_METERS, RELATIVE_DEPTH, Intrinsic, relative_depth
from probes.memory import portions
from probes.methods import RELATIVE, method
from probes.task import Examples, seed_for

from .cache import Cache
from .cell import NO_MODEL, PROTOCOL, Cell
from .data import BLOCK, DATA, describe, own_pictures, samples
from .data.load import Pictures, groups_of, load_pictures
from .labels import predicted, world_of
from .needs import EXACT
from .predictors.registry import describe_predictor

BATCH = 32
CHUNK = 500  # training pictures of a large data set that are in memory together


def split_rows(cell: Cell, split: str) -> range:
    """Scenes of a split a cell uses; only the training pictures depend on the seed."""
    if split == "train":
        return range(cell.seed * BLOCK, cell.seed * BLOCK + cell.train)
    return range(getattr(cell, split))


def _check_world(cell: Cell) -> None:
    """Raise UserError unless data and predictors are what the cell was planned with."""
    found = world_of(cell.data, cell.labels, cell.train_data, cell.train_labels)
    if found != cell.world:
        raise UserError(
            f"data set {cell.data!r}, labels {cell.labels!r}",
            f"what is on this machine is {found} now, the plan was made for {cell.world}",
            "",
            "run the suite again: it plans anew",
        )


def _asked(intrinsic: Intrinsic, pictures: Pictures) -> Examples:
    """Pictures with their truth, as an intrinsic asks for it: depth relative where it has no unit."""
    mask = pictures.mask_of(intrinsic.name)
    maps = dict(pictures.maps)
    if intrinsic is RELATIVE_DEPTH:
        maps["depth"] = relative_depth(maps["depth"], mask)
    return Examples(pictures.pictures, maps, mask, groups=pictures.groups)


def _check_reach(cell: Cell, intrinsic: Intrinsic, train: Examples) -> None:
    """Raise UserError if targets would be cut off where the truth is not: depth beyond DEPTH_METERS.

    What this package brings, and what its networks say of pictures, is taken as it is; the linear probe
    and the controls that look at pictures fit the maps themselves.
    """
    fits = cell.method == "linear" or method(cell.method).needs == "picture"
    if intrinsic.name != "depth" or intrinsic is RELATIVE_DEPTH or fits:
        return
    data, labels, _ = cell.asked_of("train")
    if describe_predictor(labels).embedded if predicted(data, labels) else data in DATA:
        return
    beyond = train.maps["depth"][(train.maps["depth"] > DEPTH_METERS) & train.mask]
    if len(beyond):
        clip = ", or say clip=10 in its name" if data.startswith("diode") and labels == EXACT else ""
        raise UserError(
            f"depth of data set {data!r}, labels {labels!r}, alignment {cell.alignment!r}",
            f"training maps go to {float(beyond.max()):g} m",
            f"a drawn map ends at {DEPTH_METERS:g} m, and is scored against the whole depth",
            f'ask for depth without unit: alignment = "{RELATIVE}"{clip}',
        )


def in_parts(cell: Cell) -> bool:
    """Whether a cell's training pictures are never in memory together: those of large data sets."""
    together = cell.model == NO_MODEL or (cell.method == "linear" and cell.options["labels"] == "shuffled")
    return cell.asked_of("train")[0] not in DATA and not together


SHOWN = ("data", "world", "split", "rows", "size", "drawn by")  # of the keys of what is made of pictures


def _shown(data: str, split: str, rows: range, size: int) -> dict[str, Any]:
    """Which pictures, for a key; of drawn ones what drew them, too, where it was no CPU."""
    from .data.drawn.load import drawn_by

    by = drawn_by() if data.startswith("drawn:") else {}
    key = {"data": data, "world": describe(data).fingerprint, "split": split, "size": size}
    return key | {"rows": [rows.start, rows.stop]} | ({"drawn by": by} if by else {})


def _lean(part: Examples) -> Examples:
    """What is left of pictures whose codes and targets are known: no pixel of theirs."""
    maps = {name: value[:, :, :0, :0].clone() for name, value in part.maps.items()}
    nothing = part.pictures[:, :, :0, :0].clone()
    return replace(part, pictures=nothing, maps=maps, mask=nothing[:, :1].bool(), groups=())


def _together(parts: list[Examples]) -> Examples:
    """Parts that `_lean` gave, as one."""
    outputs = [part.output for part in parts if part.output is not None]
    masks = [
        torch.ones_like(output[:, :1], dtype=torch.bool) if part.valid is None else part.valid
        for part, output in zip(parts, outputs, strict=True)
    ]
    return Examples(
        torch.cat([part.pictures for part in parts]),
        {name: torch.cat([part.maps[name] for part in parts]) for name in parts[0].maps},
        torch.cat([part.mask for part in parts]),
        {name: torch.cat([part.code[name] for part in parts]) for name in parts[0].code},
        torch.cat(outputs),
        None if all(part.valid is None for part in parts) else torch.cat(masks),
    )


def _check_rows(given: object, rows: int, kind: str) -> None:
    """Raise UserError unless a model gave tensors by name, a row for each picture."""
    if isinstance(given, Mapping) and given:
        odd = [n for n, v in given.items() if not (isinstance(v, Tensor) and v.ndim and len(v) == rows)]
        wrong = f"{odd[0]!r} is no tensor with a row for each of {rows} pictures" if odd else ""
    else:
        wrong = f"it is a {type(given).__name__}"
    if wrong:
        known = "tensors by name, the pictures in their first dimension"
        raise UserError(f"{kind} of pictures", wrong, known, "see: intrinsic-bench check MODEL")


def _valid(mask: Tensor, output: Tensor) -> Tensor | None:
    """Where targets (n c h' w') are made of valid pixels (n 1 h w) alone; None if everywhere."""
    if bool(mask.all()):
        return None
    return -functional.adaptive_max_pool2d(-mask.float(), output.shape[2:]) > 0.5


class Session:
    """Models and frozen tensors; the last of each kind stay in memory, all of them on disk."""

    def __init__(self, cache: Cache, device: str = "cpu") -> None:
        self.cache, self.device = cache, device
        self._generator: tuple[Any, Generator] | None = None
        self._memory: dict[str, tuple[str, Any]] = {}

    def kept(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What a network gave, from the cache or computed: never another kind of device's, or protocol's."""
        device = self.device.partition(":")[0]
        where = {"device": device} if device != "cpu" else {}
        protocol = {"protocol": PROTOCOL} if PROTOCOL > 1 else {}
        return self.cache.get({**key, **where, **protocol}, compute)

    def generator(self, cell: Cell) -> Generator | None:
        """The cell's generator, noise blended in and timestep set; None if the cell has no model."""
        if cell.model == NO_MODEL:
            return None
        noise = float(cell.options.get("noise", 0.0))
        timestep = cell.options.get("timestep")
        key = (cell.model, cell.weights, noise, cell.seed if noise else 0, timestep, self.device)
        if self._generator is None or self._generator[0] != key:
            self._generator = None  # free it before the next one is loaded
            self._generator = (key, self._load(cell, noise, timestep))
        generator = self._generator[1]
        if isinstance(generator, Denoiser):
            asks = generator.spec.asks
            generator.ask(**{name: cell.options.get(name, value) for name, value in asks.items()})
        return generator

    def forget_generator(self) -> None:
        """Load the model anew for the next cell: this one may not be as it was."""
        self._generator = None

    def _load(self, cell: Cell, noise: float, timestep: int | None) -> Generator:
        registry.fetch(cell.model)  # on a cluster's node that has not got it
        if registry.identity(cell.model) != cell.weights:
            raise UserError(
                f"model {cell.model}",
                f"its weights are {registry.identity(cell.model)} now, the plan was made for {cell.weights}",
                "",
                "run the suite again: it plans anew",
            )
        generator = registry.load(cell.model, self.device)
        if timestep is not None:
            if not 0 <= timestep < generator.spec.diffusion_steps:
                raise UserError(
                    f"timestep {timestep} of {cell.model}",
                    f"it has {generator.spec.diffusion_steps} timesteps",
                    f"0 to {generator.spec.diffusion_steps - 1}",
                    "leave the option out for the model's own protocol",
                )
            generator.timestep = timestep  # type: ignore[attr-defined]
        if noise:
            blend_noise(generator.network, noise, seed_for(cell.seed, "noise"), generator.spec.head)
        return generator

    def _remembered(self, slot: str, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The last value of a slot if its key is the same, else a new one."""
        name = repr(sorted(key.items()))
        if self._memory.get(slot, ("", None))[0] != name:
            self._memory[slot] = (name, compute())
        return self._memory[slot][1]

    def pictures(self, cell: Cell, split: str, rows: range | None = None) -> Pictures:
        """The cell's pictures of a split, or of some rows of it, with their truth.

        Of data that is not this package's own, with the truth that the cell asks for alone.
        """
        data, labels, size = cell.asked_of(split)
        rows = rows or split_rows(cell, split)
        _check_world(cell)
        key = {"kind": "pictures"} | _shown(data, split, rows, size)
        wanted: tuple[str, ...] | None = None
        if data not in DATA:
            wanted = () if predicted(data, labels) else (cell.intrinsic,)
            key["intrinsics"] = list(wanted)

        def compute() -> Pictures:
            groups = groups_of(data, split, rows)
            return Pictures.from_tensors(
                self.cache.get(key, lambda: load_pictures(data, split, rows, size, wanted).tensors()),
                (),
                groups,
            )

        found: Pictures = self._remembered(f"pictures {split}", key, compute)
        if not predicted(data, labels):
            return found
        return self._predicted(found, labels, cell, split, key)

    def _predicted(
        self, found: Pictures, labels: str, cell: Cell, split: str, key: Mapping[str, Any]
    ) -> Pictures:
        """Pictures with what a predictor says of them for their truth."""
        from .predictors.labeling import label_pictures
        from .predictors.registry import identity

        asked = {"labels": labels, "identity": identity(labels), "intrinsics": [cell.intrinsic]}
        where = {name: value for name, value in key.items() if name in SHOWN}

        def say() -> dict[str, Tensor]:
            return label_pictures(labels, found.pictures, [cell.intrinsic], self.device)

        full = {"kind": "labels"} | asked | where
        maps = self._remembered(f"labels {split}", full, lambda: self.kept(full, say))
        return replace(found, maps=maps, masks={})

    def examples(self, cell: Cell, split: str, intrinsic: Intrinsic) -> Examples:
        """Pictures, truth, codes and encoded targets of a split for the cell's model."""
        if own_pictures(cell.data):
            return self._own(cell, split, intrinsic)
        if split == "train" and in_parts(cell):
            return _together([_lean(part) for part in self.parts(cell, intrinsic)])
        return self._examples(cell, split, intrinsic, split_rows(cell, split))

    def parts(self, cell: Cell, intrinsic: Intrinsic) -> Iterator[Examples]:
        """The training examples, some at a time: their pixels are many."""
        rows = split_rows(cell, "train")
        for start in range(rows.start, rows.stop, CHUNK):
            yield self._examples(cell, "train", intrinsic, range(start, min(start + CHUNK, rows.stop)))

    def _examples(self, cell: Cell, split: str, intrinsic: Intrinsic, rows: range) -> Examples:
        """`examples` of some rows of a split of given pictures."""
        pictures, generator = self.pictures(cell, split, rows), self.generator(cell)
        plain = _asked(intrinsic, pictures)
        if generator is None:
            return plain
        if split == "train":
            _check_reach(cell, intrinsic, plain)
        data, labels, size = cell.asked_of(split)
        frozen = {"model": registry.frozen_identity(cell.model)} | _shown(data, split, rows, size)
        code = self._tensors(f"code {split}", {"kind": "codes"} | frozen, pictures.pictures, generator.embed)
        if split != "train":
            return replace(plain, code=code)

        def encode(maps: Tensor) -> dict[str, Tensor]:
            return {"output": generator.encode(intrinsic.to_picture(maps))}

        key = {"kind": "targets", "intrinsic": intrinsic.name} | frozen
        if labels != EXACT or cell.alignment == RELATIVE:
            key |= {"labels": cell.world if labels != EXACT else labels, "alignment": cell.alignment}
        output = self._tensors("targets", key, plain.maps[intrinsic.name], encode)["output"]
        return replace(plain, code=code, output=output, valid=_valid(plain.mask, output))

    def _own(self, cell: Cell, split: str, intrinsic: Intrinsic) -> Examples:
        """The model's own pictures with their codes, and the predictor's maps for the truth."""
        generator, rows = self.generator(cell), split_rows(cell, split)
        if generator is None:
            raise TypeError(f"data set {cell.data} needs a model")
        _check_world(cell)
        own, labels = describe(cell.data).labels, cell.asked_of(split)[1]
        drawn = {
            "kind": "samples",
            "model": cell.model,
            "weights": cell.weights,
            "split": split,
            "rows": [rows.start, rows.stop],
        }

        def compute() -> dict[str, Tensor]:
            found = samples.draw(generator, split, rows)
            return found | (samples.label(found["pictures"]) if labels in own else {})

        key = drawn | {"labels": labels if labels in own else "", "world": cell.world}
        seen = samples.examples(self._remembered(f"own {split}", key, lambda: self.kept(key, compute)))
        pictures = Pictures(seen.pictures, seen.maps, seen.mask, ())
        if labels not in own:
            place = {"data": f"{cell.data} of {cell.model} {cell.weights}", "size": cell.size} | key
            pictures = self._predicted(pictures, labels, cell, split, place)
        seen = replace(_asked(intrinsic, pictures), code=seen.code)
        if split != "train":
            return seen
        _check_reach(cell, intrinsic, seen)
        maps = seen.maps[intrinsic.name]

        def encode(some: slice) -> Tensor:
            return generator.encode(intrinsic.to_picture(maps[some])).cpu()

        encoded = portions(len(maps), BATCH, encode, "encode maps")
        return replace(seen, output=torch.cat([output for _, output in encoded]))

    def _tensors(
        self,
        slot: str,
        key: Mapping[str, Any],
        inputs: Tensor,
        function: Callable[[Tensor], Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """A function of pictures, in batches that fit memory, from memory, disk, or computed."""

        def some(rows: slice) -> dict[str, Tensor]:
            with torch.no_grad():
                given = function(inputs[rows].to(self.device))
            _check_rows(given, len(inputs[rows]), str(key["kind"]))
            return {name: value.cpu() for name, value in given.items()}

        def compute() -> dict[str, Tensor]:
            asked = f"compute {key['kind']} of pictures"
            parts = [found for _, found in portions(len(inputs), BATCH, some, asked)]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        found: dict[str, Tensor] = self._remembered(slot, key, lambda: self.kept(key, compute))
        return found
