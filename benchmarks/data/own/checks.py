"""Whether maps are what they are declared to be, asked of the maps themselves.

Each check ends in a finding: it passed, it cannot be known from this data, it looks odd, or it is wrong; what
is wrong is an error. The checks look at a few pictures of every split, at the size they have on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

import numpy as np

from .conventions import OURS, pixel_directions, ray_lengths, say_axes, to_linear
from .read import Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .settings import Settings

PICTURES = 16  # pictures that are looked at
COLUMNS = 128  # finite differences span about a 128th of a picture's width
FIELDS = (40.0, 60.0, 80.0, 100.0)  # degrees tried where no field of view is declared
FLAT = 0.95  # cosine between neighboring normals of a surface that is taken as flat
ENOUGH = 500  # pixels that a verdict needs
MARGIN = 0.05  # mean cosine by which another reading has to fit better to be believed
AGREE = 0.8  # mean cosine below which normals and depth do not agree under any reading
DEPTH, DISPARITY = "depth", "disparity (1 / depth)"
FACING = 0.75  # share of visible normals that face the camera, in wide views too
CLEARLY = 0.3  # by which that share has to be larger along another axis to be believed
COLOR_FACTOR = 1.5  # by which the residual of another color space has to be smaller to be believed
COLOR_RESIDUAL = 0.2  # of log light, beyond which a picture is no albedo times shading
CURVED = 3.0  # times as curved as its reciprocal a map is that looks like disparity
LEVELS = 1000  # different values of a map below which its curvature is that of rounding
DARK = 0.02  # linear light below which 8 bits say nothing about a ratio


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: of settings.CHECKS.
        state: "passed", "unknown", "odd" or "wrong".
        says: the finding in a sentence; todo: what to mend.
    """

    check: str
    state: str
    says: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.state:8}{self.check:10} {self.says}"


@dataclass(frozen=True)
class Declared:
    """What the checks need to know of the conventions.

    Attributes:
        kind: of depth, before it was taken to the view axis.
        fov: degrees between left and right edge; None if nobody said, or it differs.
        axes: (3 3), from the file's normals to ours.
        spaces: of albedo and shading.
    """

    kind: str = "z"
    fov: float | None = None
    axes: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    spaces: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def by(settings: Settings) -> Declared:
        """What data.toml says."""
        axes = np.eye(3) if settings.axes is None else settings.axes
        return Declared(settings.kind or "z", settings.fov, axes, settings.spaces)


def run_checks(scenes: Sequence[Scene], declared: Declared) -> list[Finding]:
    """Every check that applies to the maps of some pictures."""
    maps = set(scenes[0].maps)
    found: list[Finding] = []
    if {"normal", "depth"} <= maps:
        found.append(normals_by_depth(scenes, declared))
    elif "normal" in maps:
        found += normals_alone(scenes, declared)
    if "depth" in maps and "normal" not in maps:
        found.append(depth_alone(scenes))
    if maps & {"albedo", "shading"}:
        found.append(colors(scenes, declared))
    return found


# Normals by depth.


def normals_of(depth: NDArray[Any], fov: float, step: int = 1) -> NDArray[np.float64]:
    """Unit normals (h - 2, w - 2, 3) of depth (h w) in meters, by central differences.

    Cross product of the two tangents of the surface that the pixels' points lie on.

    Args:
        fov: degrees between the left and the right edge of the picture.
        step: pixels of the picture between two of the depths.
    """
    x, y = pixel_directions(depth.shape[0] * step, depth.shape[1] * step, fov)
    points = np.stack(np.broadcast_arrays(x[:, ::step] * depth, y[::step] * depth, -depth), -1)
    right = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normal = np.cross(down, right)
    return normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class _Thinned:
    """Every `step`-th row and column of a scene: so far apart that 8 bits of depth show a slope."""

    depth: NDArray[np.float64]
    normal: NDArray[np.float32]
    both: NDArray[np.bool_]
    step: int

    @staticmethod
    def of(scene: Scene) -> _Thinned:
        height, width = scene.mask.shape
        step = max(1, width // COLUMNS)
        grid = slice(None, height - height % step, step), slice(None, width - width % step, step)
        both = scene.valid["normal"] & scene.valid["depth"]
        depth = scene.maps["depth"][..., 0].astype(np.float64)
        return _Thinned(depth[grid], scene.maps["normal"][grid], both[grid], step)

    def flat(self) -> NDArray[np.bool_]:
        """Where (h - 2, w - 2) a normal and its four neighbors agree and all have a depth."""
        inner, center = slice(1, -1), self.normal[1:-1, 1:-1]
        found = self.both[1:-1, 1:-1].copy()
        before, after = slice(None, -2), slice(2, None)
        for place in ((inner, after), (inner, before), (after, inner), (before, inner)):
            found &= self.both[place] & ((self.normal[place] * center).sum(-1) > FLAT)
        return found


def _agreement(thinned: Sequence[_Thinned], kind: str, ray: bool, fov: float) -> tuple[NDArray[Any], int]:
    """Mean outer product (3 3) of the normals of depth with the declared ones, and the pixels it is over."""
    total, count = np.zeros((3, 3)), 0
    for scene in thinned:
        if min(scene.depth.shape) < 3:
            continue
        where, depth = scene.flat(), scene.depth
        if kind == DISPARITY:
            lengths = ray_lengths(depth.shape[0], depth.shape[1], fov) if ray else 1.0
            depth = 1 / np.maximum(depth * lengths, 1e-9)
        normals = normals_of(depth, fov, scene.step)[where]
        total += normals.T @ scene.normal[1:-1, 1:-1][where]
        count += int(where.sum())
    return total / max(count, 1), count


def _turns() -> Iterator[NDArray[np.float64]]:
    """The 48 ways to name and point three axes, the identity first."""
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            yield matrix


@dataclass(frozen=True)
class _Reading:
    """One way to read the maps, and the mean cosine between normals and the normals of depth under it."""

    cosine: float
    turn: NDArray[np.float64]
    kind: str
    fov: float

    @property
    def as_declared(self) -> bool:
        return bool((self.turn == np.eye(3)).all())


def _readings(scenes: Sequence[Scene], declared: Declared) -> tuple[list[_Reading], int]:
    thinned = [_Thinned.of(scene) for scene in scenes]
    found, count = [], 0
    for kind in (DEPTH, DISPARITY):
        for fov in (declared.fov,) if declared.fov else FIELDS:
            outer, count = _agreement(thinned, kind, declared.kind == "ray", fov)
            found += [_Reading(float((turn * outer).sum()), turn, kind, fov) for turn in _turns()]
    return found, count


def normals_by_depth(scenes: Sequence[Scene], declared: Declared) -> Finding:
    """Normals against those that finite differences of depth give under the field of view.

    All 48 ways to name the axes are tried, and depth read as disparity, which is the same up to scale.
    """
    found, count = _readings(scenes, declared)
    if count < ENOUGH:
        return Finding("axes", "unknown", f"only {count} pixels are flat and have both normal and depth")
    kept = [r for r in found if r.as_declared and r.kind == DEPTH]
    own, best = max(kept, key=lambda r: r.cosine), max(found, key=lambda r: r.cosine)
    if best.cosine - own.cosine > MARGIN and best.cosine > AGREE:
        return _another(own, best, declared)
    if own.cosine < AGREE:
        says = (
            f"normals and depth agree poorly (mean cosine {own.cosine:.2f}), and no other reading is better"
        )
        return Finding("axes", "odd", says, "look at the field of view and at the scale of the depth")
    rivals = [r for r in found if not r.as_declared and r.kind == DEPTH]
    close = max(r.cosine for r in rivals)
    says = f"normals agree with depth: mean cosine {own.cosine:.3f}, next best axes {close:.3f}"
    if own.cosine - close <= MARGIN:
        return Finding("axes", "unknown", f"{says}: the pictures are too flat to tell")
    return Finding("axes", "passed", says + ("" if declared.fov else f", field of view {own.fov:g}° assumed"))


def _another(own: _Reading, best: _Reading, declared: Declared) -> Finding:
    facts = f"mean cosine to the normals of depth is {own.cosine:.2f} as declared, {best.cosine:.2f}"
    if best.kind == DISPARITY and best.as_declared:
        says = f"depth looks like {DISPARITY}: {facts} if it is"
        return Finding("disparity", "wrong", says, "convert it to depth in meters")
    seen = say_axes(best.turn @ declared.axes)
    says = f'axes are declared "{say_axes(declared.axes)}" but look like "{seen}": {facts} then'
    if best.kind == DISPARITY:
        says += f", and depth looks like {DISPARITY}"
    return Finding("axes", "wrong", says, f"declare the axes of the file (ours are {OURS})")


# Normals alone: a surface that is seen faces the camera.


def normals_alone(scenes: Sequence[Scene], declared: Declared) -> list[Finding]:
    """What normals without depth tell: z for certain, up and down by the floors below, left and right not."""
    seen = np.concatenate([s.maps["normal"][s.valid["normal"]] for s in scenes])
    signs = {
        f"{'xyz'[i]} {'+-'[int(s < 0)]}": (s * seen[:, i] > -0.05).mean() for i in range(3) for s in (1, -1)
    }
    own, (best, share) = signs["z +"], max(signs.items(), key=lambda item: item[1])
    facts = f"{own:.0%} of the normals face the camera as declared"
    if share > FACING and share - own > CLEARLY:
        axis, sign = best.split()
        says = f"{facts}; {share:.0%} would if {sign}{axis} of ours pointed towards it"
        todo = "mend axes: one channel points towards the camera, or away from it, on every visible surface"
        return [Finding("axes", "wrong", says, todo)]
    if own < FACING:
        return [Finding("axes", "odd", f"{facts}, and along no other axis do they")]
    return [Finding("axes", "passed", facts), _upright(scenes)]


def _upright(scenes: Sequence[Scene]) -> Finding:
    """Floors are in the lower half of most pictures and face up; ceilings in the upper half face down."""
    votes = []
    for scene in scenes:
        up = np.where(scene.valid["normal"], scene.maps["normal"][..., 1], 0)
        half = len(up) // 2
        votes.append(float(up[half:].mean() - up[:half].mean()))
    mean = float(np.mean(votes))
    facts = f"normals of lower halves point up by {mean:+.2f} more than those of upper halves"
    if mean < -0.1 and np.mean(np.asarray(votes) < 0) > 0.7:
        return Finding("axes", "odd", f"{facts}: is y flipped? Floors face up", "look at the axes")
    return Finding("axes", "unknown", f"{facts}; whether x is flipped cannot be known without depth")


# Depth alone.


def depth_alone(scenes: Sequence[Scene]) -> Finding:
    """Whether a map is depth or disparity: on a plane 1 / depth is linear in the pixel, and depth is not.

    A verdict needs both that the map is flatter than its reciprocal, by far, and that it grows downwards.
    """
    ratios, grows = [], []
    for scene in scenes:
        depth = np.where(scene.valid["depth"], scene.maps["depth"][..., 0], np.nan).astype(np.float64)
        step, half = max(1, depth.shape[1] // COLUMNS), len(depth) // 2
        upper, lower = (part[np.isfinite(part)] for part in (depth[:half], depth[half:]))
        if min(depth.shape) < 4 * step + 1 or min(len(upper), len(lower)) < ENOUGH:
            continue
        if len(np.unique(depth)) < LEVELS:
            continue
        ratios.append(_bent(1 / depth, step) / max(_bent(depth, step), 1e-9))
        grows.append(np.median(lower) > np.median(upper))
    if not ratios:
        return Finding(
            "disparity", "unknown", "no picture has enough depth, and fine enough, to tell it from disparity"
        )
    ratio, share = float(np.median(ratios)), float(np.mean(grows))
    facts = (
        f"it is {ratio:.2g} times as straight as its reciprocal, and larger below in {share:.0%} of pictures"
    )
    if ratio > CURVED and share > 0.6:
        return Finding("disparity", "wrong", f"depth looks like disparity: {facts}", "convert it to depth")
    if ratio > 1 and share > 0.6:
        return Finding("disparity", "odd", f"depth may be disparity: {facts}", "look at it")
    return Finding("disparity", "passed" if ratio < 1 else "unknown", f"depth against disparity: {facts}")


def _bent(values: NDArray[Any], step: int) -> float:
    """Median of the second difference over the first, along rows and columns, where they are no edges."""
    found = []
    for lines in (values, values.T):
        first = (lines[:, 2 * step :] - lines[:, : -2 * step]) / 2
        second = lines[:, 2 * step :] + lines[:, : -2 * step] - 2 * lines[:, step:-step]
        change = np.abs(first) / np.abs(lines[:, step:-step])
        sloped = (change > 1e-3) & (change < 0.2) & (np.abs(second) < np.abs(first))
        found.append((np.abs(second) / np.maximum(np.abs(first), 1e-12))[sloped])
    seen = np.concatenate(found)
    return float(np.median(seen)) if seen.size else 1.0


# Colors.


def colors(scenes: Sequence[Scene], declared: Declared) -> Finding:
    """Whether the picture is albedo times shading in linear light, and in no other reading better.

    The residual is that of log light after one factor for each picture and channel: exposure plays no part.
    """
    if not {"albedo", "shading"} <= set(scenes[0].maps):
        known = " and ".join(sorted({"albedo", "shading"} & set(scenes[0].maps)))
        says = f"with {known} alone, nobody can tell linear from sRGB: it is as declared"
        return Finding("colors", "unknown", says)
    readings = list(product((False, True), repeat=2))
    residuals = {swap: _residual(scenes, declared.spaces, swap) for swap in readings}
    own, best = residuals[False, False], min(residuals, key=residuals.__getitem__)
    if not np.isfinite(own):
        return Finding("colors", "unknown", "no picture is bright enough to tell linear from sRGB")
    facts = f"picture = albedo x shading to {own:.3f} of log light as declared"
    if best != (False, False) and residuals[best] * COLOR_FACTOR < own and residuals[best] < COLOR_RESIDUAL:
        wrong = [n for n, swapped in zip(("albedo", "shading"), best, strict=True) if swapped]
        spaces = {name: declared.spaces.get(name, "linear") for name in wrong}
        said = " and ".join(f"{n} is declared {s} but looks {_OTHER[s]}" for n, s in spaces.items())
        says = f"{said}: {facts}, to {residuals[best]:.3f} then"
        return Finding("colors", "wrong", says, "mend space")
    if own > COLOR_RESIDUAL:
        return Finding("colors", "odd", f"{facts}: the picture is not their product in any color space")
    return Finding("colors", "passed", f"{facts}, next best {sorted(residuals.values())[1]:.3f}")


_OTHER = {"linear": "srgb", "srgb": "linear"}


def _reread(linear: NDArray[Any], space: str) -> NDArray[Any]:
    """What the map would be in linear light if its file were in the other space."""
    from benchmarks.color import srgb

    coded = linear if space == "linear" else srgb(linear)
    return to_linear(coded, _OTHER[space])


def _residual(scenes: Sequence[Scene], spaces: Mapping[str, str], swap: tuple[bool, ...]) -> float:
    """Root mean square over pictures of what log picture - log albedo - log shading varies by."""
    squares = []
    for scene in scenes:
        picture = to_linear(scene.picture, "srgb")
        where = scene.valid["albedo"] & scene.valid["shading"]
        logs, bright = [], where[..., None] & (picture > DARK) & (scene.picture < 0.99)
        for name, swapped in zip(("albedo", "shading"), swap, strict=True):
            found = scene.maps[name]
            bright &= found > DARK
            space = spaces.get(name, "linear")
            logs.append(np.log(np.maximum(_reread(found, space) if swapped else found, 1e-6)))
        rest = np.log(np.maximum(picture, 1e-6)) - logs[0] - logs[1]
        for channel in range(3):
            seen = rest[..., channel][bright[..., channel]]
            if len(seen) >= 50:
                squares.append(float(np.var(seen)))
    return float(np.sqrt(np.mean(squares))) if squares else float("nan")
