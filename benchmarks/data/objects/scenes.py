"""What is in a scene: one object in a studio whose floor, walls and ceiling are plain.

A pure function of (split, index, version), as that of rooms, in the same frame and the same kind of
`Scenes`. The camera looks down at the object from 1.5 to 3 m away; nothing else has a pattern.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.data.rooms.facts import SPLITS
from benchmarks.data.rooms.scenes import (
    COLORS,
    MAX_LIGHTS,
    MAX_OBJECTS,
    NAMES,
    PATTERNS,
    SHAPES,
    SURFACES,
    Scenes,
    between,
    lights,
    stack,
)

from .facts import VERSION

OBJECT = 6  # row of the object in a material table: after walls, floor and ceiling


def _object(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shape, center, size and turn: fields of Scenes; only the first slot is used."""
    b = len(u)
    shape = np.full((b, MAX_OBJECTS), -1)
    shape[:, 0] = np.floor(u[:, 0] * len(SHAPES)).astype(int)
    size = np.full((b, MAX_OBJECTS, 3), 0.5)
    size[:, 0] = between(u[:, 1:4], 0.35, 0.75)
    size[:, 0, 1] = np.where(shape[:, 0] == 0, size[:, 0, 0], size[:, 0, 1])
    center = np.zeros((b, MAX_OBJECTS, 3))
    center[:, 0] = np.stack([between(u[:, 4], -0.2, 0.2), size[:, 0, 1], between(u[:, 5], -0.2, 0.2)], 1)
    angle = np.pi * u[:, 6]
    turn = np.zeros((b, MAX_OBJECTS, 2))
    turn[..., 0] = 1.0
    turn[:, 0] = np.stack([np.cos(angle), np.sin(angle)], 1)
    return shape, center, size, turn


def _camera(u: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eye, axes and tangent: fields of Scenes. It looks at a point near the object's center."""
    yaw, pitch = 2 * np.pi * u[:, 0], between(u[:, 1], -0.75, -0.15)
    distance = between(u[:, 2], 1.9, 3.0)
    cp, sp = np.cos(pitch), np.sin(pitch)
    forward = np.stack([np.sin(yaw) * cp, sp, -np.cos(yaw) * cp], 1)
    aim = center + between(u[:, 3:6], -0.25, 0.25)
    eye = aim - distance[:, None] * forward
    eye[:, 1] = np.maximum(eye[:, 1], 0.3)
    right = np.stack([np.cos(yaw), np.zeros_like(yaw), np.sin(yaw)], 1)
    axes = np.stack([right, np.cross(right, forward), -forward], 1)
    return eye, axes, np.tan(np.radians(between(u[:, 6], 40.0, 58.0)) / 2)


def _materials(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Material table (b, SURFACES, 14), the object's pattern (b,) and its color name (b,)."""
    b = len(u)
    table = np.zeros((b, SURFACES, 14))
    table[:, :, 1] = 1.0
    table[:, :, 5] = 1.0
    ground, walls = u[:, 0:3], u[:, 3:6]
    shade = between(u[:, 6:8], 0.25, 0.85)
    table[:, :, 8:11] = (shade[:, 1:] * between(walls, 0.85, 1.1))[:, None]
    table[:, 2, 8:11] = shade[:, :1] * between(ground, 0.85, 1.1)
    pattern = np.select([u[:, 8] < 0.2, u[:, 8] < 0.6], [0, 1], 2)
    axis = u[:, 9:12] - 0.5
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True) + 1e-9
    name = np.floor(u[:, 12] * len(NAMES)).astype(int)
    first = COLORS[name] * between(u[:, 13:16], 0.8, 1.1)
    other = COLORS[np.floor(u[:, 16] * len(NAMES)).astype(int)]
    second = np.where((u[:, 17] < 0.6)[:, None], other, first * between(u[:, 18:19], 0.25, 0.65))
    scale = 1 / between(u[:, 19], 0.15, 0.4)
    parts = [pattern[:, None], scale[:, None], u[:, 20:23], axis, first, second]
    table[:, OBJECT] = np.concatenate(parts, 1)
    table[..., 8:14] = np.clip(table[..., 8:14], 0.03, 0.92)
    return table, pattern, name


def _caption(shape: int, pattern: int, color: int) -> str:
    words = f"{PATTERNS[pattern]} " * bool(pattern) + f"{NAMES[color]} {SHAPES[shape]}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def scene_parameters(split: str, indices: Sequence[int]) -> Scenes:
    """Parameters of the scenes `indices` of a split; raises ValueError on an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"objects split {split!r} does not exist; known splits: {', '.join(SPLITS)}")

    def drawn(purpose: str, count: int) -> np.ndarray:
        return stack(split, indices, purpose, count, VERSION)

    room = drawn("room", 3)
    half = np.stack(
        [between(room[:, 0], 3.4, 4.6), between(room[:, 1], 3.2, 4.0), between(room[:, 2], 3.4, 4.6)], 1
    )
    shape, center, size, turn = _object(drawn("object", 7))
    eye, axes, tangent = _camera(drawn("camera", 7), center[:, 0])
    light, radius, power, ambient, exposure = lights(drawn("lights", 5 + 8 * MAX_LIGHTS), half)
    table, pattern, color = _materials(drawn("materials", 23))
    captions = tuple(
        _caption(int(s), int(p), int(c)) for s, p, c in zip(shape[:, 0], pattern, color, strict=True)
    )
    return Scenes(
        half=half, eye=eye, axes=axes, tangent=tangent, shape=shape, center=center, size=size, turn=turn,
        light=light, radius=radius, power=power, ambient=ambient, exposure=exposure, material=table,
        captions=captions,
    )  # fmt: skip
