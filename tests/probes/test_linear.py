"""The closed form: equal to the naive normal equations and never worse than gradient descent."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from probes import linear
from probes.intrinsics import INTRINSICS
from probes.linear import (
    _masked_sums,
    _moments,
    _neighbour_sums,
    _small_sums,
    _split,
    apply,
    columns,
    fit,
    upsampling,
    validation_features,
)
from probes.ridge import Moments
from probes.task import Examples, Task
from tests.probes.tiny import TinyGenerator, examples


@pytest.mark.parametrize(("h", "w", "size"), [(4, 4, 16), (3, 5, 16), (16, 16, 16), (2, 2, 7)])
def test_sums_of_small_activations_are_those_of_upsampled_ones(h: int, w: int, size: int) -> None:
    torch.manual_seed(0)
    f, y = torch.randn(3, 6, h, w, dtype=torch.float64), torch.randn(3, 2, size, size, dtype=torch.float64)
    f, y = f.float(), y.float()
    small = _small_sums(f, y)
    large = _masked_sums(f, y, torch.ones(3, 1, size, size, dtype=torch.bool))
    for a, b in zip(small, large, strict=True):
        assert torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("h", "w", "size"),
    [(4, 4, (16, 16)), (3, 5, (16, 9)), (16, 16, (16, 16)), (1, 2, (7, 7)), (9, 8, (5, 4))],
)
def test_sums_of_neighbours_are_those_of_upsampled_activations(h: int, w: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    f, y = torch.randn(3, 6, h, w), torch.randn(3, 2, *size)
    mask = torch.rand(3, 1, *size) < 0.6
    mask[2] = False
    y[~mask.expand_as(y)] = torch.nan  # what is not valid may be anything
    large, small = _masked_sums(f, y, mask), _neighbour_sums(f, y, mask)
    for a, b in zip(small, large, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(a).double(), torch.as_tensor(b).double(), rtol=1e-4, atol=1e-3
        )


class Largest(TorchDispatchMode):
    """Keeps the bytes of the largest tensor that is made while it is on."""

    found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.found = max(self.found, tensor.numel() * tensor.element_size())
        return made


def test_large_activations_are_not_upsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    f, y = torch.randn(5, 32, 8, 8), torch.randn(5, 3, 64, 64)
    mask = torch.rand(5, 1, 64, 64) < 0.5
    upsampled = 4 * 5 * 32 * 64 * 64
    monkeypatch.setattr(linear, "UPSAMPLED", upsampled)
    with Largest() as before:
        whole = _masked_sums(f, y, mask)
    assert before.found == upsampled
    monkeypatch.setattr(linear, "UPSAMPLED", upsampled - 1)
    with Largest() as after:
        found = _masked_sums(f, y, mask)
    assert after.found <= 4 * y.numel() < upsampled / 10
    for a, b in zip(found, whole, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(a).double(), torch.as_tensor(b).double(), rtol=1e-4, atol=1e-2
        )


def test_what_this_package_ships_is_upsampled_as_ever() -> None:
    """The numbers of its records, all at 64 pixels with at most 160 channels, are those of this way."""
    assert linear.UPSAMPLED >= 4 * linear.BATCH * 160 * 64 * 64


def test_a_probe_of_large_masked_activations_is_that_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    task = _task("depth")
    mask = torch.rand(task.train.mask.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    task.train = replace(task.train, mask=mask)
    whole = fit(task)
    monkeypatch.setattr(linear, "UPSAMPLED", 0)
    found = fit(task)
    assert found.layer == whole.layer
    assert torch.allclose(found.weight, whole.weight, rtol=1e-3, atol=1e-4)


def test_upsampling_matrix_is_bilinear_interpolation() -> None:
    x = torch.randn(1, 1, 5)
    expected = functional.interpolate(x, size=13, mode="linear", align_corners=False)[0, 0]
    assert torch.allclose(upsampling(5, 13) @ x[0, 0], expected, atol=1e-6)


def test_solution_is_ordinary_least_squares_without_ridge() -> None:
    torch.manual_seed(1)
    x, true = torch.randn(500, 7, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    y = x @ true + 0.3
    moments = Moments.empty(7, 3)
    moments.add(x.T @ x, x.T @ y, x.sum(0), y.sum(0), 500.0)
    weight, bias = moments.solve(slice(None), (0.0,))[0]
    assert torch.allclose(weight, true, atol=1e-8) and torch.allclose(
        bias, torch.full((3,), 0.3, dtype=torch.float64)
    )


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    torch.manual_seed(1)
    x = torch.randn(200, 3, dtype=torch.float64)
    x[:, 1] = 5.0
    y = x[:, :1] * 2
    moments = Moments.empty(3, 1)
    moments.add(x.T @ x, x.T @ y, x.sum(0), y.sum(0), 200.0)
    weight, bias = moments.solve(slice(None), (1e-9,))[0]
    assert weight[1] == 0 and torch.isfinite(weight).all() and abs(float(bias)) < 1e-6


def test_mapping_before_upsampling_is_mapping_after() -> None:
    f, weight, bias = torch.randn(2, 4, 3, 3), torch.randn(4, 2).double(), torch.randn(2).double()
    large = functional.interpolate(f, size=(9, 9), mode="bilinear", align_corners=False).double()
    after = torch.einsum("bchw,ct->bthw", large, weight) + bias[None, :, None, None]
    assert torch.allclose(apply(f, weight, bias, (9, 9)), after.float(), atol=1e-5)


def _task(name: str, **options: object) -> Task:
    train, held = examples(40, 0), examples(16, 1)
    defaults = {"layer": "best", "timestep": None, "noise": 0.0, "labels": "true"}
    return Task(TinyGenerator(), INTRINSICS[name], train, held, defaults | options, 0)


@pytest.mark.parametrize("name", ["depth", "albedo"])
def test_no_worse_than_gradient_descent_of_the_same_form(name: str) -> None:
    task = _task(name)
    probe = fit(task)
    generator, train, intrinsic = task.model, task.train, task.intrinsic
    f = generator.features(train.code)[probe.layer]
    truth = train.maps[name]
    large = functional.interpolate(f, size=truth.shape[2:], mode="bilinear", align_corners=False)
    head = torch.nn.Conv2d(f.shape[1], truth.shape[1], 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        loss = (head(large) - truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ours = intrinsic.error(probe.predict(train), truth, train.mask)
    theirs = intrinsic.error(head(large).detach(), truth, train.mask)
    assert ours <= theirs * 1.001


def test_masked_pixels_never_count() -> None:
    task = _task("depth")
    mask = torch.ones_like(task.train.mask)
    mask[:, :, :8] = False
    spoiled = {k: torch.where(mask, v, torch.full_like(v, 1e3)) for k, v in task.train.maps.items()}
    clean = Examples(task.train.pictures, task.train.maps, mask, task.train.code)
    dirty = Examples(task.train.pictures, spoiled, mask, task.train.code)
    task.train = clean
    expected = fit(task).weight
    task.train = dirty
    assert torch.allclose(fit(task).weight, expected)


def test_shuffled_labels_are_worse() -> None:
    true, shuffled = fit(_task("albedo")), fit(_task("albedo", labels="shuffled"))
    assert true.details["validation_error"] < 0.8 * shuffled.details["validation_error"]


def test_the_choice_is_that_of_the_activations_as_they_are() -> None:
    task = _task("depth")
    probe = fit(task)
    moments = _split(_moments(task))
    features, held = validation_features(task.model, task.validation), task.validation
    size = (held.mask.shape[2], held.mask.shape[3])
    for name, moment in moments.items():
        errors = [
            float(task.intrinsic.error(apply(features[name], w, b, size), held.maps["depth"], held.mask))
            for w, b in moment.solve(columns(task.train)["depth"])
        ]
        assert probe.details["validation_by_layer"][name] == min(errors)  # to the last bit


@pytest.mark.parametrize("together", [True, False])
def test_progress_is_told_after_every_portion(monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    task, told = _task("depth"), list[float]()
    task.progress = told.append
    monkeypatch.setattr(linear, "BATCH", 10)

    def parts() -> Iterator[Examples]:
        yield examples(25, 0)
        yield examples(15, 2)

    task.parts = None if together else parts
    fit(task)
    done = [10, 20, 30, 40] if together else [10, 20, 25, 35, 40]
    assert told == pytest.approx([0.7 * count / 40 for count in done] + [0.7])


def test_one_pass_serves_all_intrinsics() -> None:
    seen: list[str] = []
    kept: dict[str, dict[str, torch.Tensor]] = {}

    def remember(key, compute):  # type: ignore[no-untyped-def]
        if key not in kept:
            seen.append(key)
            kept[key] = compute()
        return kept[key]

    for name in INTRINSICS:
        task = _task(name)
        task.remember = remember
        fit(task)
    assert len(seen) == 1


def test_shuffled_maps_bring_their_masks() -> None:
    """Values outside a map's own mask are never fitted, whichever picture it goes to."""
    task = _task("depth", labels="shuffled")
    mask = torch.rand(task.train.mask.shape, generator=torch.Generator().manual_seed(4)) < 0.5
    spoiled = {k: torch.where(mask, v, torch.full_like(v, 1e3)) for k, v in task.train.maps.items()}
    found = []
    for maps in (task.train.maps, spoiled):
        task.train = replace(task.train, maps=maps, mask=mask)
        found.append(fit(task).weight)
    assert torch.allclose(*found)
