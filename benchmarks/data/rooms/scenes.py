"""What is in a room: the parameters of a scene, a pure function of (split, index, version).

Every random number comes from a counter-based generator keyed by the SHA-256 of version, split,
index and purpose, so a scene never depends on the batch it is drawn in, and a new purpose moves
no other draw. World frame: x and z along the floor, y up, meters; the floor is y = 0.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .facts import SPLITS, VERSION

MAX_OBJECTS = 4
MAX_LIGHTS = 3
SHAPES = ("sphere", "box", "cylinder")
PATTERNS = ("plain", "checkered", "striped")
SURFACES = 6 + MAX_OBJECTS  # -x wall, +x wall, floor, ceiling, -z wall, +z wall, then the objects

# Name and linear RGB of the colors a caption may name.
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.70, 0.06, 0.05),
    "green": (0.08, 0.50, 0.10),
    "blue": (0.06, 0.12, 0.65),
    "yellow": (0.80, 0.65, 0.06),
    "orange": (0.80, 0.28, 0.04),
    "purple": (0.38, 0.08, 0.50),
    "teal": (0.05, 0.45, 0.45),
    "pink": (0.80, 0.32, 0.42),
    "brown": (0.26, 0.13, 0.06),
    "grey": (0.32, 0.32, 0.32),
    "white": (0.80, 0.80, 0.80),
}
COLORS = np.array(list(PALETTE.values()))
NAMES = tuple(PALETTE)


def draws(split: str, index: int, purpose: str, count: int, version: str = VERSION) -> np.ndarray:
    """Uniform numbers in [0, 1) of one scene and one purpose, float64 of shape (count,)."""
    text = f"{version}/{split}/{index}/{purpose}".encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(count)


def stack(split: str, indices: Sequence[int], purpose: str, count: int, version: str = VERSION) -> np.ndarray:
    """`draws` of some scenes, (b, count)."""
    return np.stack([draws(split, i, purpose, count, version) for i in indices])


def between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Uniform numbers in [0, 1) as ones in [low, high)."""
    return low + (high - low) * u


@dataclass(frozen=True)
class Scenes:
    """Parameters of b scenes, float64 unless said otherwise (o = MAX_OBJECTS, l = MAX_LIGHTS)."""

    half: np.ndarray  # (b, 3) half width, height, half length of the room
    eye: np.ndarray  # (b, 3) camera position
    axes: np.ndarray  # (b, 3, 3) rows: right, up, backward of the camera in the world
    tangent: np.ndarray  # (b,) tangent of half the vertical field of view
    shape: np.ndarray  # (b, o) int: index into SHAPES, -1 where there is no object
    center: np.ndarray  # (b, o, 3)
    size: np.ndarray  # (b, o, 3) half extents; a sphere's radius is size[0]
    turn: np.ndarray  # (b, o, 2) cosine and sine of a box's yaw
    light: np.ndarray  # (b, l, 3) position
    radius: np.ndarray  # (b, l) of the soft light
    power: np.ndarray  # (b, l, 3) color times intensity, zero where there is no light
    ambient: np.ndarray  # (b, 3)
    exposure: np.ndarray  # (b,) what the 95th percentile of the shading is scaled to
    material: np.ndarray  # (b, SURFACES, 14) pattern, 1/scale, offset 3, axis 3, color 3, color 3
    captions: tuple[str, ...]


def _camera(u: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    yaw, pitch, roll = (
        2 * np.pi * u[:, 0],
        between(u[:, 1], -0.55, 0.22),
        between(u[:, 2], -0.22, 0.22),
    )
    forward_floor = np.stack([np.sin(yaw), -np.cos(yaw)], 1)
    # Step back from the center of the room, against the view, at most to 0.35 m before the wall.
    wall = half[:, [0, 2]] / np.maximum(np.abs(forward_floor), 1e-6)
    back = (wall.min(1) - 0.35) * between(u[:, 3], 0.45, 1.0)
    floor = -forward_floor * back[:, None] + between(u[:, 4:6], -0.4, 0.4)
    limit = half[:, [0, 2]] - 0.3
    floor = np.clip(floor, -limit, limit)
    height = half[:, 1] * between(u[:, 6], 0.22, 0.85)
    eye = np.stack([floor[:, 0], height, floor[:, 1]], 1)
    cp, sp, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    forward = np.stack([np.sin(yaw) * cp, sp, -np.cos(yaw) * cp], 1)
    right = np.stack([np.cos(yaw), np.zeros_like(yaw), np.sin(yaw)], 1)
    up = np.cross(right, forward)
    rolled = cr[:, None] * right + sr[:, None] * up
    axes = np.stack([rolled, cr[:, None] * up - sr[:, None] * right, -forward], 1)
    return eye, axes, np.tan(np.radians(between(u[:, 7], 50.0, 75.0)) / 2)


def _objects(
    u: np.ndarray, half: np.ndarray, eye: np.ndarray, axes: np.ndarray, tangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    b = len(u)
    count = 1 + np.floor(u[:, 0] * MAX_OBJECTS).astype(int)
    u = u[:, 1:].reshape(b, MAX_OBJECTS, 10)
    shape = np.floor(u[..., 0] * len(SHAPES)).astype(int)
    shape = np.where(np.arange(MAX_OBJECTS) < count[:, None], shape, -1)
    size = between(u[..., 1:4], 0.22, 0.62)
    size[..., 1] = np.where(shape == 0, size[..., 0], between(u[..., 2], 0.2, 0.9))
    # One angular sector of the view for each object, shuffled, so that few of them coincide.
    sector = np.argsort(u[..., 4], 1)
    lateral = ((sector + u[..., 5]) / MAX_OBJECTS * 2 - 1) * tangent[:, None]
    forward = -axes[:, 2][:, [0, 2]]
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.stack([-forward[:, 1], forward[:, 0]], 1)
    distance = between(u[..., 6], 1.3, 4.0)[..., None]
    floor = eye[:, None, [0, 2]] + distance * (forward[:, None] + lateral[..., None] * right[:, None])
    limit = half[:, None, [0, 2]] - 0.7
    floor = np.clip(floor, -limit, limit)
    lift = np.where((shape == 0) & (u[..., 7] < 0.4), u[..., 8] * 1.2, 0.0)
    height = np.minimum(size[..., 1] + lift, half[:, 1:2] - size[..., 1])
    center = np.stack([floor[..., 0], height, floor[..., 1]], -1)
    turn = np.stack([np.cos(np.pi * u[..., 9]), np.sin(np.pi * u[..., 9])], -1)
    return shape, center, size, turn


def _hue(u: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """Colors (..., 3) of brightest channel 1 from hue u in [0, 1) and saturation in [0, 1]."""
    wheel = np.abs((u[..., None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return 1 - saturation[..., None] * (1 - np.clip(wheel, 0, 1))


def lights(
    u: np.ndarray, half: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Position, radius, power, ambient and exposure: fields of Scenes."""
    b = len(u)
    count = 1 + np.floor(u[:, 0] * MAX_LIGHTS).astype(int)
    ambient = _hue(u[:, 1], 0.6 * u[:, 2]) * between(u[:, 3], 0.02, 0.10)[:, None]
    exposure = between(u[:, 4], 0.45, 1.0)
    u = u[:, 5:].reshape(b, MAX_LIGHTS, 8)
    place = np.stack(
        [
            between(u[..., 0], -0.8, 0.8) * half[:, None, 0],
            between(u[..., 1], 0.5, 0.9) * half[:, None, 1],
            between(u[..., 2], -0.8, 0.8) * half[:, None, 2],
        ],
        -1,
    )
    strength = between(u[..., 3], 0.5, 1.5) * (np.arange(MAX_LIGHTS) < count[:, None])
    power = _hue(u[..., 4], 0.85 * u[..., 5]) * strength[..., None]
    return place, between(u[..., 6], 0.08, 0.3), power, ambient, exposure


def _materials(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Material table (b, SURFACES, 14), pattern (b, SURFACES) and color name (b, MAX_OBJECTS)."""
    b = len(u)
    share = u[:, 0] < 0.5
    u = u[:, 1:].reshape(b, SURFACES, 16).copy()
    u[share, 1], u[share, 4], u[share, 5] = u[share, 0], u[share, 0], u[share, 0]
    pattern = np.select([u[..., 0] < 0.28, u[..., 0] < 0.62], [0, 1], 2)
    scale = between(u[..., 1], 0.3, 0.9)
    scale[:, 6:] = between(u[:, 6:, 1], 0.15, 0.45)
    axis = u[..., 5:8] - 0.5
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True) + 1e-9
    name = np.floor(u[..., 8] * len(NAMES)).astype(int)
    first = COLORS[name] * between(u[..., 9:12], 0.8, 1.1)
    # Walls and floor take any color, the ceiling is nearly neutral: the cue to the light's color.
    pale = between(u[:, 3:4, 9:10], 0.45, 0.85) * between(u[:, 3:4, 10:13], 0.94, 1.06)
    first[:, 3:4] = pale
    other = COLORS[np.floor(u[..., 12] * len(NAMES)).astype(int)]
    shade = first * between(u[..., 13], 0.25, 0.65)[..., None]
    second = np.where((u[..., 14] < 0.5)[..., None], other, shade)
    second[:, 3:4] = pale * between(u[:, 3:4, 13], 0.45, 0.8)[..., None]
    parts = [pattern[..., None], 1 / scale[..., None], u[..., 2:5], axis, first, second]
    table = np.concatenate(parts, -1)
    table[..., 8:14] = np.clip(table[..., 8:14], 0.03, 0.92)
    return table, pattern, name[:, 6:]


def _caption(shape: np.ndarray, color: np.ndarray, floor: int) -> str:
    things = [
        f"{'an' if NAMES[c][0] in 'aeiou' else 'a'} {NAMES[c]} {SHAPES[s]}"
        for s, c in zip(shape, color, strict=True)
        if s >= 0
    ]
    listed = things[0] if len(things) == 1 else ", ".join(things[:-1]) + " and " + things[-1]
    return f"{listed} in a room with a {PATTERNS[floor]} floor"


def scene_parameters(split: str, indices: Sequence[int]) -> Scenes:
    """Parameters of the scenes `indices` of a split; raises ValueError on an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"rooms split {split!r} does not exist; known splits: {', '.join(SPLITS)}")
    room = stack(split, indices, "room", 3)
    half = np.stack(
        [
            between(room[:, 0], 1.8, 3.4),
            between(room[:, 1], 2.3, 3.5),
            between(room[:, 2], 1.8, 3.4),
        ],
        1,
    )
    eye, axes, tangent = _camera(stack(split, indices, "camera", 8), half)
    objects = stack(split, indices, "objects", 1 + 10 * MAX_OBJECTS)
    shape, center, size, turn = _objects(objects, half, eye, axes, tangent)
    light, radius, power, ambient, exposure = lights(
        stack(split, indices, "lights", 5 + 8 * MAX_LIGHTS), half
    )
    table, pattern, color = _materials(stack(split, indices, "materials", 1 + 16 * SURFACES))
    captions = tuple(_caption(s, c, int(p[2])) for s, c, p in zip(shape, color, pattern, strict=True))
    return Scenes(
        half,
        eye,
        axes,
        tangent,
        shape,
        center,
        size,
        turn,
        light,
        radius,
        power,
        ambient,
        exposure,
        table,
        captions,
    )
