"""Synthetic paradigms: pictures of albedo times shading plus gloss, drawn without a scene or a data set.

After Forsyth and Rock, "Intrinsic image decomposition using paradigms", TPAMI 2021: albedo is piecewise
constant (Mondrians), shading is smooth or piecewise smooth, gloss is sparse; a network that takes pictures
of such fields apart needs no truth of real scenes. Everything is flat: layers in the picture's plane.

Coordinates run from -1 to 1 over the picture, so a paradigm is the same at any size. The scale of albedo
and shading, which no picture tells, is fixed by WHITE: the brightest shading of a picture is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

WHITE = 0.98  # this quantile of the shading's largest channel is 1; what is brighter saturates
SHAPES = 8  # painted one over the other
CELLS = 16  # of the background
FACETS = 6  # cells of the background with a normal of their own
HELD_OUT = 0x9A7AD165  # upper half of the seeds of held-out paradigms; training has (its seed, step)
_SURFACES = CELLS + SHAPES


@dataclass(frozen=True)
class Paradigms:
    """Float32 fields of b paradigms, with linear picture = clip(albedo * shading + gloss, 0, 1).

    Attributes:
        picture: (b 3 h w) in [-1, 1], sRGB.
        albedo: (b 3 h w) linear RGB in [0, 1], piecewise constant.
        shading: (b 3 h w) linear RGB in [0, 1].
        gloss: (b 3 h w) linear RGB >= 0, zero in most places.
    """

    picture: Tensor
    albedo: Tensor
    shading: Tensor
    gloss: Tensor

    def __len__(self) -> int:
        return len(self.picture)


def to_srgb(linear: Tensor) -> Tensor:
    """Linear RGB to a picture: [0, 1] to [-1, 1] sRGB (IEC 61966-2-1); what lies outside is clipped."""
    light = linear.clamp(0, 1)
    coded = torch.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    )
    return coded * 2 - 1


def to_linear(picture: Tensor) -> Tensor:
    """A picture in [-1, 1] sRGB to linear RGB in [0, 1]: the inverse of `to_srgb`."""
    coded = ((picture + 1) / 2).clamp(0, 1)
    return torch.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


class _Draws:
    """Random parameters of b pictures; drawn on the CPU in a fixed order, then moved."""

    def __init__(self, count: int, generator: torch.Generator, device: torch.device) -> None:
        self.count, self.generator, self.device = count, generator, device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(b, *shape) in [low, high)."""
        drawn = torch.rand((self.count, *shape), generator=self.generator)
        return (low + (high - low) * drawn).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """(b, *shape), standard normal."""
        return torch.randn((self.count, *shape), generator=self.generator).to(self.device)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """(b, *shape) bool."""
        return self.uniform(0, 1, *shape) < probability

    def integers(self, below: int, *shape: int) -> Tensor:
        """(b, *shape) from 0 to below - 1."""
        return torch.randint(below, (self.count, *shape), generator=self.generator).to(self.device)


def _plane(values: Tensor) -> Tensor:
    """(b,) to (b 1 1)."""
    return values[:, None, None]


def _grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x to the right and y downwards of the pixels' centers, each (1 h w) in (-1, 1)."""
    steps = (torch.arange(size, device=device) * 2 + 1 - size) / size
    return steps.expand(1, size, size), steps[:, None].expand(1, size, size)


# Partitions of the plane: (b h w) numbers of cells.


def _voronoi(draws: _Draws, cells: int, x: Tensor, y: Tensor) -> Tensor:
    """The nearest of some points, in a metric stretched along one direction."""
    place, angle = draws.uniform(-1.2, 1.2, cells, 2), draws.uniform(0, torch.pi)
    stretch = torch.exp(draws.uniform(-0.7, 0.7))
    c, s = _plane(angle.cos()), _plane(angle.sin())
    u, v = (c * x + s * y) * _plane(stretch), c * y - s * x
    nearest = torch.full_like(u, torch.inf)
    found = torch.zeros_like(u, dtype=torch.long)
    for cell in range(cells):
        distance = (u - _plane(place[:, cell, 0])) ** 2 + (v - _plane(place[:, cell, 1])) ** 2
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        found = found.masked_fill(closer, cell)
    return found


def _cuts(draws: _Draws, cuts: int, x: Tensor, y: Tensor) -> Tensor:
    """Cells between straight lines: on which side of each line a pixel lies."""
    angle, offset = draws.uniform(0, 2 * torch.pi, cuts), draws.uniform(-0.7, 0.7, cuts)
    found = torch.zeros((draws.count, *x.shape[1:]), dtype=torch.long, device=draws.device)
    for k in range(cuts):
        side = _plane(angle[:, k].cos()) * x + _plane(angle[:, k].sin()) * y > _plane(offset[:, k])
        found = found + (side.long() << k)
    return found


def _lattice(draws: _Draws, x: Tensor, y: Tensor) -> Tensor:
    """Checks, stripes or tiles seen at a slant: (b h w) bool. Straight lines stay straight."""
    angle, scale = draws.uniform(0, 2 * torch.pi), torch.exp(draws.uniform(0.4, 2.5))
    slant, offset = draws.uniform(-0.45, 0.45, 2), draws.uniform(0, 2, 2)
    depth = 1 + _plane(slant[:, 0]) * x + _plane(slant[:, 1]) * y
    c, s = _plane(angle.cos() * scale), _plane(angle.sin() * scale)
    u = (c * x + s * y) / depth + _plane(offset[:, 0])
    v = (c * y - s * x) * _plane(torch.exp(draws.uniform(-0.7, 0.7))) / depth + _plane(offset[:, 1])
    stripes, checks = u.floor() % 2 == 1, (u.floor() + v.floor()) % 2 == 1
    joint = draws.uniform(0.08, 0.3)
    tiles = (u % 1 > _plane(joint)) & (v % 1 > _plane(joint))
    kind = draws.integers(3)
    return torch.where(_plane(kind == 0), stripes, torch.where(_plane(kind == 1), checks, tiles))


# Shapes.


@dataclass(frozen=True)
class _Shapes:
    """k shapes of each picture: center (b k 2), radii (b k 2), angle (b k), outline (b k)."""

    center: Tensor
    radius: Tensor
    angle: Tensor
    outline: Tensor

    def local(self, k: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates in units of the radii, along the shape's own axes: (b h w) each."""
        c, s = _plane(self.angle[:, k].cos()), _plane(self.angle[:, k].sin())
        dx, dy = x - _plane(self.center[:, k, 0]), y - _plane(self.center[:, k, 1])
        return (c * dx + s * dy) / _plane(self.radius[:, k, 0]), (c * dy - s * dx) / _plane(
            self.radius[:, k, 1]
        )

    def level(self, k: int, u: Tensor, v: Tensor) -> Tensor:
        """Below 1 inside, above 1 outside: of a rectangle, ellipse, diamond or triangle."""
        outline, flat, high = _plane(self.outline[:, k]), u.abs(), v.abs()
        rectangle, diamond = torch.maximum(flat, high), flat + high
        triangle = torch.maximum(-2 * v, 3**0.5 * flat + v)
        ellipse = (u * u + v * v).sqrt()
        polygon = torch.where(outline == 2, diamond, triangle)
        return torch.where(outline == 0, rectangle, torch.where(outline == 1, ellipse, polygon))


def _shapes(draws: _Draws, number: int, small: float, large: float) -> _Shapes:
    """Shapes anywhere; in some pictures all are upright rectangles."""
    size = torch.exp(draws.uniform(0, 1, number, 2) * torch.log(torch.tensor(large / small))) * small
    angle, outline = draws.uniform(0, 2 * torch.pi, number), draws.integers(4, number)
    upright = draws.chance(0.25, 1)
    return _Shapes(
        draws.uniform(-1.1, 1.1, number, 2),
        size,
        torch.where(upright, 0.0, angle),
        torch.where(upright, 0, outline),
    )


# Colors.


def _hues(hue: Tensor) -> Tensor:
    """Pure colors (..., 3) of hues in turns."""
    channel = torch.tensor([0.0, 2 / 3, 1 / 3], device=hue.device)
    return ((((hue[..., None] + channel) % 1) * 6 - 3).abs() - 1).clamp(0, 1)


def _palette(draws: _Draws, colors: int) -> Tensor:
    """Reflectances (b, colors, 3): dark ones are more frequent, vivid ones rare, and a picture has a tone."""
    value = 0.03 + 0.92 * draws.uniform(0, 1, colors) ** draws.uniform(0.6, 1.6, 1)
    value = value * draws.uniform(0.5, 1, 1)
    vivid = draws.uniform(0, 1, colors) * draws.uniform(0, 0.95, 1)
    spread = torch.where(draws.chance(0.4, 1), draws.uniform(0.05, 0.25, 1), 1.0)
    hue = draws.uniform(0, 1, 1) + spread * draws.uniform(-0.5, 0.5, colors)
    return value[..., None] * (1 - vivid[..., None] * (1 - _hues(hue % 1)))


def _tint(draws: _Draws, spread: float) -> Tensor:
    """Colors of light (b, 3) with a largest channel of 1: warm or cold, a little green or red."""
    warm = torch.tensor([1.0, 0.1, -1.0], device=draws.device)
    color = torch.exp(spread * draws.normal(1) * warm + 0.25 * spread * draws.normal(3))
    return color / color.amax(1, keepdim=True)


# Layers: which surface a pixel shows, and which way it faces.


def _directions(draws: _Draws, number: int, steep: float) -> Tensor:
    """Unit vectors (b, number, 3) towards the viewer's side; `steep` is how far they may lean."""
    lean = draws.normal(number, 2) * steep
    vector = torch.cat([lean, torch.ones_like(lean[..., :1])], -1)
    return vector / vector.norm(dim=-1, keepdim=True)


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """Rows of tables (b k c) by number (b h w): (b c h w)."""
    b, _, c = table.shape
    rows = index.reshape(b, -1, 1).expand(-1, -1, c)
    return table.gather(1, rows).movedim(1, 2).reshape(b, c, *index.shape[1:])


@dataclass
class _Layers:
    """What a pixel shows: its surface (b h w), its normal (b 3 h w), the light that reaches it (b h w)."""

    surface: Tensor
    normal: Tensor
    reached: Tensor


def _background(draws: _Draws, x: Tensor, y: Tensor) -> _Layers:
    """A partition of color, and another or the same one of direction."""
    facets = torch.where(_plane(draws.chance(0.5)), _voronoi(draws, FACETS, x, y), _cuts(draws, 2, x, y))
    kind = draws.integers(5)
    cells = torch.where(_plane(kind == 0), _voronoi(draws, CELLS, x, y), _cuts(draws, 4, x, y))
    cells = torch.where(_plane(kind == 2), 0, cells)
    cells = torch.where(_plane(kind >= 3), facets, cells)
    direction = _directions(draws, FACETS, 1.0)
    flat = torch.tensor([0.0, 0.0, 1.0], device=draws.device)
    direction = torch.where(draws.chance(0.3, 1, 1), flat, direction)
    return _Layers(cells, _looked_up(direction, facets), torch.ones_like(x).expand(cells.shape))


def _relief(shapes: _Shapes, k: int, u: Tensor, v: Tensor, round_both: Tensor) -> Tensor:
    """Normals (b 3 h w) of a dome, or of a cylinder along the shape's second axis."""
    a, b = u.clamp(-0.98, 0.98), torch.where(_plane(round_both), v, 0).clamp(-0.98, 0.98)
    length = (a * a + b * b).clamp_max(0.98)
    short = (length / (a * a + b * b).clamp_min(1e-9)).sqrt()
    a, b = a * short, b * short
    c, s = _plane(shapes.angle[:, k].cos()), _plane(shapes.angle[:, k].sin())
    return torch.stack([c * a - s * b, s * a + c * b, (1 - length).sqrt()], 1)


def _paint(draws: _Draws, layers: _Layers, x: Tensor, y: Tensor) -> None:
    """Shapes over the background: flat patches of color, or bodies that turn and cast soft shadows."""
    shapes = _shapes(draws, SHAPES, 0.12, 0.9)
    present = draws.uniform(0, 1, SHAPES) < draws.uniform(0, 1.1, 1)
    body = draws.uniform(0, 1, SHAPES) < draws.uniform(-0.7, 1.2, 1)
    facet, both = draws.chance(0.4, SHAPES), draws.chance(0.6, SHAPES)
    direction = _directions(draws, SHAPES, 1.0)
    away = draws.uniform(-1, 1, 1, 2) * 0.4 + draws.uniform(-1, 1, SHAPES, 2) * 0.08
    strength = draws.uniform(0.3, 1, SHAPES) * (present & body)
    soft = torch.exp(draws.uniform(-3.5, -0.4, SHAPES))
    for k in range(SHAPES):
        u, v = shapes.local(k, x, y)
        moved = shapes.local(k, x - _plane(away[:, k, 0]), y - _plane(away[:, k, 1]))
        shadow = ((1 - shapes.level(k, *moved)) / _plane(soft[:, k]) + 0.5).clamp(0, 1)
        lit = layers.reached * (1 - _plane(strength[:, k]) * shadow)
        inside = (shapes.level(k, u, v) < 1) & _plane(present[:, k])
        relief = _relief(shapes, k, u, v, both[:, k])
        turned = torch.where(facet[:, k, None, None, None], direction[:, k, :, None, None], relief)
        bodily = inside & _plane(body[:, k])
        layers.normal = torch.where(bodily[:, None], turned, layers.normal)
        layers.reached = torch.where(bodily, 1, lit)
        layers.surface = layers.surface.masked_fill(inside, CELLS + k)


def _albedo(draws: _Draws, surface: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Each surface has one color, or two in a lattice: (b 3 h w)."""
    first, second = _palette(draws, 2 * _SURFACES).split(_SURFACES, 1)
    lattices = torch.stack([_lattice(draws, x, y), _lattice(draws, x, y)], 1)
    patterned = draws.uniform(0, 1, _SURFACES) < draws.uniform(-0.5, 0.7, 1)
    which = draws.integers(2, _SURFACES)
    other = lattices.gather(1, which.gather(1, surface.flatten(1)).view(surface.shape)[:, None])[:, 0]
    other = other & patterned.gather(1, surface.flatten(1)).view(surface.shape)
    return torch.where(other[:, None], _looked_up(second, surface), _looked_up(first, surface))


# Shading.


def _waves(draws: _Draws, x: Tensor, y: Tensor, number: int = 6) -> Tensor:
    """A smooth random field (b h w) of about unit variance: a sum of cosines of up to 1.5 periods."""
    wave, phase = draws.normal(number, 2) * 2.2, draws.uniform(0, 2 * torch.pi, number)
    field = torch.zeros((draws.count, *x.shape[1:]), device=draws.device)
    for k in range(number):
        field = field + torch.cos(_plane(wave[:, k, 0]) * x + _plane(wave[:, k, 1]) * y + _plane(phase[:, k]))
    return field * (2 / number) ** 0.5


def _cast(draws: _Draws, x: Tensor, y: Tensor, number: int = 3) -> Tensor:
    """Light left by shadows of things outside of the picture, with sharp or soft edges: (b h w)."""
    shapes = _shapes(draws, number, 0.2, 2.0)
    strength = draws.uniform(0.2, 1, number) * draws.chance(0.3, number)
    soft = torch.exp(draws.uniform(-4, 0.3, number))
    left = torch.ones((draws.count, *x.shape[1:]), device=draws.device)
    for k in range(number):
        inside = ((1 - shapes.level(k, *shapes.local(k, x, y))) / _plane(soft[:, k]) + 0.5).clamp(0, 1)
        left = left * (1 - _plane(strength[:, k]) * inside)
    return left


def _received(draws: _Draws, normal: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Lambert's cosine and fall-off of a lamp in front of the picture, near or far: (b h w)."""
    place, height = draws.uniform(-2.2, 2.2, 2), torch.exp(draws.uniform(-0.9, 1.1))
    dx, dy = _plane(place[:, 0]) - x, _plane(place[:, 1]) - y
    square = dx * dx + dy * dy + _plane(height) ** 2
    cosine = normal[:, 0] * dx + normal[:, 1] * dy + normal[:, 2] * _plane(height)
    return cosine.clamp_min(0) * square.rsqrt() / (square + 0.3)


def _normalized(shading: Tensor) -> Tensor:
    """Scaled so that the quantile WHITE of the largest channel is 1; brighter pixels saturate."""
    largest = shading.amax(1).flatten(1)
    rank = max(1, int(largest.shape[1] * WHITE))
    white = largest.kthvalue(rank, dim=1).values
    return (shading / white[:, None, None, None]).clamp(0, 1)


def _shading(draws: _Draws, layers: _Layers, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Linear RGB (b 3 h w) in [0, 1], and the color of the main light (b, 3)."""
    main, second, sky = _tint(draws, 0.12), _tint(draws, 0.12), _tint(draws, 0.12)
    reached = layers.reached * _cast(draws, x, y)
    one = _received(draws, layers.normal, x, y)
    one = one / one.flatten(1).amax(1)[:, None, None].clamp_min(1e-6) * reached
    two = _received(draws, layers.normal, x, y)
    two = two / two.flatten(1).amax(1)[:, None, None].clamp_min(1e-6)
    two = two * _plane(draws.uniform(0.1, 0.8) * draws.chance(0.5))
    ambient = _plane(torch.exp(draws.uniform(-3.5, -0.3)))
    waves = torch.exp(_waves(draws, x, y) * _plane(draws.uniform(-0.4, 0.6).clamp_min(0)))
    color = [c[:, :, None, None] for c in (main, second, sky)]
    light = color[0] * one[:, None] + color[1] * two[:, None] + color[2] * ambient[:, None]
    return _normalized(light * waves[:, None]), main


def _gloss(draws: _Draws, light: Tensor, x: Tensor, y: Tensor, number: int = 4) -> Tensor:
    """A few small bright spots of the light's color, in a third of the pictures: (b 3 h w)."""
    place, angle = draws.uniform(-1, 1, number, 2), draws.uniform(0, torch.pi, number)
    radius = torch.exp(draws.uniform(-3.4, -1.9, number, 2))
    power = draws.uniform(0.15, 1.2, number) * draws.chance(0.6, number) * draws.chance(0.35, 1)
    spots = _Shapes(place, radius, angle, torch.ones_like(angle))
    total = torch.zeros((draws.count, *x.shape[1:]), device=draws.device)
    for k in range(number):
        u, v = spots.local(k, x, y)
        total = total + _plane(power[:, k]) * torch.exp(-(u * u + v * v))
    return light[:, :, None, None] * torch.where(total > 0.01, total, 0)[:, None]


@torch.no_grad()
def paradigms(
    count: int, size: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Paradigms:
    """Draw paradigms.

    Args:
        count: how many, at least 1.
        size: height = width in pixels, at least 4.
        generator: on the CPU; the same state gives the same paradigms at every size.
        device: where the fields are made.

    Raises:
        ValueError: a count or size below that.
    """
    if count < 1 or size < 4:
        raise ValueError(f"paradigms need count >= 1 and size >= 4, got {count} and {size}")
    draws = _Draws(count, generator, torch.device(device))
    x, y = _grid(size, draws.device)
    layers = _background(draws, x, y)
    _paint(draws, layers, x, y)
    albedo = _albedo(draws, layers.surface, x, y)
    shading, light = _shading(draws, layers, x, y)
    gloss = _gloss(draws, light, x, y)
    return Paradigms(to_srgb(albedo * shading + gloss), albedo, shading, gloss)


def held_out(indices: Sequence[int], size: int = 64) -> Paradigms:
    """Paradigms that no training step drew: number n is the same whatever else is drawn with it."""
    drawn = [paradigms(1, size, torch.Generator().manual_seed((HELD_OUT << 32) + index)) for index in indices]
    return Paradigms(*(torch.cat([getattr(one, f.name) for one in drawn]) for f in fields(Paradigms)))
