"""The closed form: equal to the naive normal equations and never worse than gradient descent."""

import pytest
import torch
from torch.nn import functional

from probes.intrinsics import INTRINSICS
from probes.linear import (
    _masked_sums,
    _moments,
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
