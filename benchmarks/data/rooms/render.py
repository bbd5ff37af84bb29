"""The vectorized ray-caster: exact normals, depth, albedo, shading and soft shadows of rooms.

Only elementwise float32 arithmetic touches pixels (no matrix product, no sum over pixels), so a
scene's pixels do not depend on the batch it is rendered in. Rays are kept as three planes of
shape (scenes, pixels), small enough for a processor's cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .scenes import MAX_LIGHTS, MAX_OBJECTS, Scenes
from .worlds import WORLDS

Vector = tuple[Tensor, Tensor, Tensor]
_BATCH = 16  # scenes rendered together: three planes of 16 x 64 x 64 floats stay in the cache
_LIFT = 2e-3  # meters a shadow ray starts above its surface, and a texture is read below it
_SAMPLES = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))  # of a soft light, times radius/sqrt 3


@dataclass(frozen=True)
class Rooms:
    """Rendered scenes, float32, with image = albedo * shading.

    Normals are unit vectors in the camera frame: x right, y up, z towards the camera.
    """

    image: Tensor  # (b 3 h w) linear RGB in [0, 1]
    rgb: Tensor  # (b 3 h w) the picture a model sees: sRGB, 8 bit, as floats in [0, 1]
    normal: Tensor  # (b 3 h w)
    depth: Tensor  # (b 1 h w) meters along the view axis
    albedo: Tensor  # (b 3 h w) linear RGB in [0, 1]
    shading: Tensor  # (b 3 h w) linear RGB in [0, 1]
    objects: Tensor  # (b 1 h w) bool: where an object is seen
    captions: tuple[str, ...]


def srgb(linear: Tensor) -> Tensor:
    """Linear RGB in [0, 1] to sRGB in [0, 1] (IEC 61966-2-1)."""
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    )


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _columns(table: Tensor) -> Vector:
    return table[:, 0:1], table[:, 1:2], table[:, 2:3]


def _sphere(o: Vector, d: Vector, size: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _dot(d, d), _dot(o, d)
    root = b * b - a * (_dot(o, o) - size[:, :1] * size[:, :1])
    miss = root <= 0
    root = root.clamp_min(0).sqrt()
    near, far = (-b - root) / a, (-b + root) / a
    return near.masked_fill_(miss, torch.inf), far


def _slab(o: Tensor, d: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    middle, reach = -o * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _turned(v: Vector, turn: Tensor) -> Vector:
    c, s = turn[:, 0:1], turn[:, 1:2]
    return c * v[0] - s * v[2], v[1], s * v[0] + c * v[2]


def _box(o: Vector, d: Vector, size: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    o, d = _turned(o, turn), _turned(d, turn)
    near, far = _slab(o[0], d[0], size[:, 0:1])
    for axis in (1, 2):
        n, f = _slab(o[axis], d[axis], size[:, axis : axis + 1])
        near, far = torch.maximum(near, n), torch.minimum(far, f)
    return near.masked_fill_(near >= far, torch.inf), far


def _cylinder(o: Vector, d: Vector, size: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    radius = size[:, 0:1]
    a = (d[0] * d[0] + d[2] * d[2]).clamp_min(1e-12)
    b = o[0] * d[0] + o[2] * d[2]
    root = b * b - a * (o[0] * o[0] + o[2] * o[2] - radius * radius)
    miss = root <= 0
    root = root.clamp_min(0).sqrt()
    near, far = _slab(o[1], d[1], size[:, 1:2])
    near, far = torch.maximum(near, (-b - root) / a), torch.minimum(far, (-b + root) / a)
    return near.masked_fill_(miss | (near >= far), torch.inf), far


_INTERSECT: tuple[Callable[..., tuple[Tensor, Tensor]], ...] = (_sphere, _box, _cylinder)


def _unit(v: Vector) -> Vector:
    scale = _dot(v, v).clamp_min(1e-20).rsqrt()
    return v[0] * scale, v[1] * scale, v[2] * scale


def _normal_of(shape: int, p: Vector, d: Vector, size: Tensor, turn: Tensor) -> Vector:
    """Outward unit normal at a point p, relative to the center, of the face the ray d came in by."""
    if shape == 0:
        return _unit(p)
    if shape == 2:
        away = p[0] * d[0] + p[2] * d[2] >= 0  # at the rim: the side seen from inside is the cap
        cap = away | ((p[1].abs() / size[:, 1:2] > 1 - 1e-4) & (p[1] * d[1] < 0))
        zero = torch.zeros_like(p[0])
        side = _unit((p[0], zero, p[2]))
        return (
            torch.where(cap, zero, side[0]),
            torch.where(cap, p[1].sign(), zero),
            torch.where(cap, zero, side[2]),
        )
    q, e = _turned(p, turn), _turned(d, turn)
    # Only faces turned towards the ray count, so that rounding at an edge picks none seen from behind.
    ratio = [torch.where(q[i] * e[i] < 0, q[i].abs() / size[:, i : i + 1], -1.0) for i in range(3)]
    x = (ratio[0] >= ratio[1]) & (ratio[0] >= ratio[2])
    y = ~x & (ratio[1] >= ratio[2])
    local = (
        torch.where(x, q[0].sign(), 0.0),
        torch.where(y, q[1].sign(), 0.0),
        torch.where(x | y, 0.0, q[2].sign()),
    )
    return _turned(local, torch.stack([turn[:, 0], -turn[:, 1]], 1))


class _Hit:
    """What each ray sees: depth t, world normal, surface index; planes of shape (b, pixels)."""

    def __init__(self, eye: Vector, d: Vector, half: Tensor) -> None:
        low = (-half[:, 0:1], torch.zeros_like(half[:, 1:2]), -half[:, 2:3])
        high = _columns(half)
        far = [
            (torch.where(d[i] >= 0, high[i], low[i]) - eye[i]) / torch.where(d[i].abs() < 1e-9, 1e-9, d[i])
            for i in range(3)
        ]
        far = [f.masked_fill_(f < 0, torch.inf) for f in far]
        self.t = torch.minimum(torch.minimum(far[0], far[1]), far[2])
        x = far[0] == self.t
        y = ~x & (far[1] == self.t)
        self.n = [
            torch.where(x, -d[0].sign(), 0.0),
            torch.where(y, -d[1].sign(), 0.0),
            torch.where(x | y, 0.0, -d[2].sign()),
        ]
        wall = torch.where(x, d[0] > 0, torch.where(y, 2 + (d[1] > 0).long(), 4 + (d[2] > 0).long()))
        self.surface = wall

    def add(self, rows: Tensor, shape: int, k: int, eye: Vector, d: Vector, scene: "_Planes") -> None:
        center, size, turn = scene.center[rows, k], scene.size[rows, k], scene.turn[rows, k]
        c = _columns(center)
        o = tuple(eye[i][rows] - c[i] for i in range(3))
        ray = tuple(d[i][rows] for i in range(3))
        t = _INTERSECT[shape](o, ray, size, turn)[0]
        best = self.t[rows]
        seen = (t > 1e-3) & (t < best)
        t = torch.where(seen, t, best)
        point = tuple(o[i] + t * ray[i] for i in range(3))
        normal = _normal_of(shape, point, ray, size, turn)  # type: ignore[arg-type]
        self.t[rows] = t
        for i in range(3):
            self.n[i][rows] = torch.where(seen, normal[i], self.n[i][rows])
        self.surface[rows] = torch.where(seen, 6 + k, self.surface[rows])


class _Planes:
    """The parameters of a batch as float32 tensors, one attribute for each field of Scenes."""

    def __init__(self, scenes: Scenes, device: torch.device) -> None:
        for field in fields(scenes):
            if field.name not in ("captions", "shape"):
                value = torch.from_numpy(getattr(scenes, field.name))
                setattr(self, field.name, value.to(device, torch.float32))
        self.shape = torch.from_numpy(scenes.shape).to(device)

    half: Tensor
    eye: Tensor
    axes: Tensor
    tangent: Tensor
    center: Tensor
    size: Tensor
    turn: Tensor
    light: Tensor
    radius: Tensor
    power: Tensor
    ambient: Tensor
    exposure: Tensor
    material: Tensor

    def groups(self) -> list[tuple[int, int, Tensor]]:
        """(slot, shape, scenes) for all objects: those of one slot and shape go together."""
        found = []
        for k in range(MAX_OBJECTS):
            for shape in range(len(_INTERSECT)):
                rows = torch.nonzero(self.shape[:, k] == shape)[:, 0]
                if len(rows):
                    found.append((k, shape, rows))
        return found


def _rays(scene: _Planes, size: int) -> tuple[Vector, Tensor, Tensor]:
    """World directions with unit step along the view axis, and the camera-plane coordinates."""
    steps = (torch.arange(size, device=scene.half.device) * 2 + 1 - size) / size
    x = steps.repeat(size)[None] * scene.tangent[:, None]
    y = -steps.repeat_interleave(size)[None] * scene.tangent[:, None]
    a = scene.axes
    d = tuple(x * a[:, 0, i : i + 1] + y * a[:, 1, i : i + 1] - a[:, 2, i : i + 1] for i in range(3))
    return d, x, y  # type: ignore[return-value]


def _albedo(scene: _Planes, surface: Tensor, p: Vector, n: list[Tensor]) -> Tensor:
    """Solid textures read just below the surface: (b, pixels, 3)."""
    b, pixels = surface.shape
    rows = (surface + torch.arange(b, device=surface.device)[:, None] * scene.material.shape[1]).view(-1)
    m = scene.material.view(-1, scene.material.shape[2])[rows].view(b, pixels, -1)
    q = [(p[i] - 2 * _LIFT * n[i]) * m[..., 1] + m[..., 2 + i] for i in range(3)]
    cells = q[0].floor() + q[1].floor() + q[2].floor()
    along = (q[0] * m[..., 5] + q[1] * m[..., 6] + q[2] * m[..., 7]).floor()
    parity = torch.where(m[..., 0] == 1, cells, along) * 0.5
    odd = (parity != parity.floor()) & (m[..., 0] > 0)
    return torch.where(odd[..., None], m[..., 11:14], m[..., 8:11])


def _shading(scene: _Planes, p: Vector, n: list[Tensor]) -> list[Tensor]:
    """Lambertian shading by soft lights with cast shadows.

    Exposed so that the 95th percentile is `exposure`; what is brighter than 1 saturates.
    """
    groups = scene.groups()
    sky = 0.7 + 0.3 * n[1]  # a little more ambient light from above
    total = [scene.ambient[:, i : i + 1] * sky for i in range(3)]
    for k in range(MAX_LIGHTS):
        lit = torch.nonzero(scene.power[:, k].amax(1) > 0)[:, 0]
        if not len(lit):
            continue
        received = _received(scene, groups, k, lit, tuple(v[lit] for v in p), [v[lit] for v in n])
        for i in range(3):
            total[i][lit] += scene.power[lit, k, i : i + 1] * received
    brightest = torch.maximum(torch.maximum(total[0], total[1]), total[2])
    rank = max(1, int(brightest.shape[1] * 0.95))
    bright = brightest.kthvalue(rank, dim=1, keepdim=True).values
    return [(value * (scene.exposure[:, None] / bright)).clamp_max(1) for value in total]


def _received(
    scene: _Planes,
    groups: list[tuple[int, int, Tensor]],
    k: int,
    lit: Tensor,
    p: tuple[Tensor, ...],
    n: list[Tensor],
) -> Tensor:
    """Light k at the points p of the scenes `lit`: mean over samples of cosine, fall-off, shadow."""
    position = {int(row): place for place, row in enumerate(lit.tolist())}
    chosen = []
    for slot, shape, rows in groups:
        kept = [int(r) for r in rows.tolist() if int(r) in position]
        if kept:
            local = torch.tensor([position[r] for r in kept], device=lit.device)
            chosen.append((slot, shape, torch.tensor(kept, device=lit.device), local))
    start = tuple(p[i] + _LIFT * n[i] for i in range(3))
    result = torch.zeros_like(p[0])
    for sample in _SAMPLES:
        spread = scene.radius[lit, k, None] * 0.57735026
        d = tuple(scene.light[lit, k, i, None] + sample[i] * spread - start[i] for i in range(3))
        square = _dot(d, d)  # type: ignore[arg-type]
        value = _dot((n[0], n[1], n[2]), d).clamp_min(0) * square.rsqrt() / (square + 0.6)  # type: ignore[arg-type]
        for slot, shape, rows, local in chosen:
            c, size, turn = scene.center[rows, slot], scene.size[rows, slot], scene.turn[rows, slot]
            o = tuple(start[i][local] - c[:, i : i + 1] for i in range(3))
            near, far = _INTERSECT[shape](o, tuple(v[local] for v in d), size, turn)
            value[local] = value[local].masked_fill((near < 1) & (far > 1e-3), 0.0)
        result += value
    return result / len(_SAMPLES)


def _render(scenes: Scenes, size: int, device: torch.device) -> dict[str, Tensor]:
    scene = _Planes(scenes, device)
    eye = _columns(scene.eye)
    d = _rays(scene, size)[0]
    hit = _Hit(eye, d, scene.half)
    for k, shape, rows in scene.groups():
        hit.add(rows, shape, k, eye, d, scene)
    p = (eye[0] + hit.t * d[0], eye[1] + hit.t * d[1], eye[2] + hit.t * d[2])
    albedo = _albedo(scene, hit.surface, p, hit.n).movedim(-1, 1)
    shading = torch.stack(_shading(scene, p, hit.n), 1)
    a = scene.axes
    normal = [sum(hit.n[i] * a[:, j, i : i + 1] for i in range(3)) for j in range(3)]
    square = (-1, 3, size, size)
    image = albedo * shading
    return {
        "image": image.reshape(square),
        "rgb": (torch.round(srgb(image) * 255) / 255).reshape(square),
        "normal": torch.stack(_unit((normal[0], normal[1], normal[2])), 1).reshape(square),  # type: ignore[arg-type]
        "depth": hit.t.reshape(-1, 1, size, size),
        "albedo": albedo.reshape(square),
        "shading": shading.reshape(square),
        "objects": (hit.surface >= 6).reshape(-1, 1, size, size),
    }


@torch.no_grad()
def render(
    split: str,
    indices: Sequence[int],
    size: int = 64,
    device: str | torch.device = "cpu",
    world: str = "rooms",
) -> Rooms:
    """Render scenes of a split.

    Args:
        split: one of SPLITS; scene n of a split is the same whatever else is rendered with it.
        indices: scene numbers, any order, each >= 0.
        size: height = width in pixels, at least 1.
        device: where to render; CPU and GPU agree to rounding only.
        world: a name of WORLDS.

    Raises:
        ValueError: an unknown split, a negative index, a size below 1, or no indices.
    """
    if size < 1 or not len(indices) or min(indices) < 0:
        raise ValueError(f"rooms need size >= 1 and indices >= 0, got size {size}, {list(indices)[:5]}")
    parts: list[dict[str, Tensor]] = []
    captions: list[str] = []
    for start in range(0, len(indices), _BATCH):
        scenes = WORLDS[world](split, indices[start : start + _BATCH])
        parts.append(_render(scenes, size, torch.device(device)))
        captions.extend(scenes.captions)
    merged = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Rooms(**merged, captions=tuple(captions))
