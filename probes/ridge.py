"""Ridge regression from moments: accumulate once, solve for every target and strength in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative to a standardized feature's variance


@dataclass
class Moments:
    """Sums over pixels of features x (c) and targets y (t), float64.

    Attributes:
        gram: (c, c) sum of x x^T; sum_x: (c,); cross: (c, t) sum of x y^T; sum_y: (t,); count: pixels.
    """

    gram: Tensor
    cross: Tensor
    sum_x: Tensor
    sum_y: Tensor
    count: float

    @staticmethod
    def empty(features: int, targets: int) -> Moments:
        """No pixels yet."""
        kind = {"dtype": torch.float64}
        return Moments(
            torch.zeros(features, features, **kind),  # type: ignore[call-overload]
            torch.zeros(features, targets, **kind),  # type: ignore[call-overload]
            torch.zeros(features, **kind),  # type: ignore[call-overload]
            torch.zeros(targets, **kind),  # type: ignore[call-overload]
            0.0,
        )

    def add(self, gram: Tensor, cross: Tensor, sum_x: Tensor, sum_y: Tensor, count: float) -> None:
        """Add the sums of one batch."""
        self.gram += gram.double()
        self.cross += cross.double()
        self.sum_x += sum_x.double()
        self.sum_y += sum_y.double()
        self.count += count

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, for the cache."""
        count = torch.tensor([self.count], dtype=torch.float64)
        return {
            "gram": self.gram,
            "cross": self.cross,
            "sum_x": self.sum_x,
            "sum_y": self.sum_y,
            "count": count,
        }

    @staticmethod
    def from_tensors(parts: dict[str, Tensor]) -> Moments:
        """Inverse of `tensors`."""
        return Moments(parts["gram"], parts["cross"], parts["sum_x"], parts["sum_y"], float(parts["count"]))

    def solve(self, columns: slice, strengths: tuple[float, ...] = STRENGTHS) -> list[tuple[Tensor, Tensor]]:
        """(weight (c, t), bias (t,)) of the chosen target columns for every ridge strength.

        Features are standardized by their own variance first, so that a strength means the same
        for every layer; one eigendecomposition serves all strengths.
        """
        mean_x, mean_y = self.sum_x / self.count, self.sum_y[columns] / self.count
        covariance = self.gram / self.count - torch.outer(mean_x, mean_x)
        cross = self.cross[:, columns] / self.count - torch.outer(mean_x, mean_y)
        scale = covariance.diagonal().clamp_min(0).sqrt()
        # A feature that never varies carries nothing: it gets no weight.
        inverse = torch.where(scale > 1e-8 * scale.max().clamp_min(1e-30), 1 / scale, 0.0)
        values, vectors = torch.linalg.eigh(covariance * torch.outer(inverse, inverse))
        projected = vectors.T @ (cross * inverse[:, None])
        found = []
        for strength in strengths:
            weight = inverse[:, None] * (vectors @ (projected / (values.clamp_min(0) + strength)[:, None]))
            found.append((weight, mean_y - mean_x @ weight))
        return found
