"""Scores of maps: values worked out by hand, invariances, masks, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.metrics.maps import MINIMUM_DEPTH, angles, masked_median, score, unit_vectors
from generators.errors import UserError

INTRINSICS = ("normal", "depth", "albedo", "shading")


def everywhere(values: Tensor) -> Tensor:
    return torch.ones_like(values[:, :1], dtype=torch.bool)


def row(*pixels: float) -> Tensor:
    """One picture of one channel and one row, (1 1 1 w)."""
    return torch.tensor(pixels, dtype=torch.float64)[None, None, None]


def tilted(*degrees: float) -> Tensor:
    """Normals (1 3 1 w) turned by these angles away from the camera's axis."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()])[None, :, None]


def values(scores: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}


def maps(intrinsic: str, seed: int, b: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, truth and a mask of about two thirds, (b c 6 5)."""
    draw = torch.Generator().manual_seed(seed)
    shape = (b, 1 if intrinsic == "depth" else 3, 6, 5)
    prediction, truth = (torch.rand(shape, generator=draw, dtype=torch.float64) + 0.2 for _ in range(2))
    mask = torch.rand(b, 1, 6, 5, generator=draw) < 0.66
    mask[:, :, 0, 0] = True
    return prediction, unit_vectors(truth - 0.7) if intrinsic == "normal" else truth, mask


def test_angles_by_hand() -> None:
    truth = tilted(0, 0, 0, 0, 0)
    found = values(score("normal", tilted(0, 10, 20, 29, 91), truth, everywhere(truth)))
    assert found["mean_angular_error"] == pytest.approx(30, rel=1e-12)
    assert found["median_angular_error"] == pytest.approx(20, rel=1e-12)
    assert [found[f"below_{t}"] for t in ("11_25", "22_5", "30")] == pytest.approx([40, 60, 80])


def test_l1_of_normals_is_over_pixels_and_channels_of_unit_vectors() -> None:
    """(1, 0, 0) against (0, 0, 1) differs by 1 + 0 + 1 over three channels: 66.7."""
    truth = tilted(0)
    found = values(score("normal", 7 * tilted(90), truth, everywhere(truth)))
    assert found["l1_x100"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-5, 11.25, 90.0, 179.99999, 180.0])
def test_angles_keep_their_digits_at_both_ends(degrees: float) -> None:
    assert float(angles(tilted(degrees), tilted(0))) == pytest.approx(degrees, rel=1e-9, abs=1e-14)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.floats(-300, 300), st.integers(0, 5))
def test_length_of_predicted_normals_does_not_matter(exponent: float, seed: int) -> None:
    prediction, truth, mask = maps("normal", seed)
    expected = score("normal", prediction, truth, mask)
    for name, value in score("normal", prediction * 10**exponent, truth, mask).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)


def test_a_zero_normal_counts_as_ninety_degrees() -> None:
    truth = tilted(0, 30)
    found = values(score("normal", torch.zeros_like(truth), truth, everywhere(truth)))
    assert found["mean_angular_error"] == pytest.approx(90)
    assert found["below_30"] == 0


def test_rotating_both_leaves_angles_alone() -> None:
    prediction, truth, mask = maps("normal", 1)
    draw = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.rand(3, 3, generator=draw, dtype=torch.float64))[0]
    p, t = (torch.einsum("ij,bjhw->bihw", turn, x) for x in (prediction, truth))
    expected = score("normal", prediction, truth, mask)["mean_angular_error"]
    torch.testing.assert_close(score("normal", p, t, mask)["mean_angular_error"], expected)


def test_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    pixels = torch.cat([row(1, 9, 2, 4), row(5, 7, 100, 100)])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)[:, None, None]
    assert masked_median(pixels, mask).tolist() == [3, 6]


def test_depth_by_hand() -> None:
    """Predictions 1.2, 3, 2, 8 of 1, 2, 2, 4: ratios 1.2, 1.5, 1, 2."""
    prediction, truth = row(1.2, 3, 2, 8), row(1, 2, 2, 4)
    found = values(score("depth", prediction, truth, everywhere(truth)))
    assert found["rms"] == pytest.approx(math.sqrt((0.04 + 1 + 0 + 16) / 4))
    assert [found[f"delta{k}"] for k in (1, 2, 3)] == [50, 75, 75]
    assert found["abs_rel"] == pytest.approx((0.2 + 0.5 + 0 + 1) / 4)
    logs = [math.log(r) for r in (1.2, 1.5, 1, 2)]
    variance = sum(x**2 for x in logs) / 4 - (sum(logs) / 4) ** 2
    assert found["silog"] == pytest.approx(100 * math.sqrt(variance))


def test_delta_thresholds_are_strict_and_symmetric() -> None:
    truth = row(1, 1.25, 1, 1)
    found = values(score("depth", row(1.25, 1, 1.2499, 1 / 1.2499), truth, everywhere(truth)))
    assert (found["delta1"], found["delta2"]) == (50, 100)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 5))
def test_alignment_removes_what_it_says(scale: float, shift: float, seed: int) -> None:
    _, truth, mask = maps("depth", seed)
    aligned = score("depth", truth * scale, truth, mask, "scale")
    assert float(aligned["rms"].max()) < 1e-12 and float(aligned["delta1"].min()) == 100
    assert float(score("depth", truth * scale + shift, truth, mask, "scale-shift")["rms"].max()) < 1e-10


def test_scale_is_the_least_squares_factor_and_not_the_ratio_of_medians() -> None:
    """s = (1*2 + 2*2 + 4*12) / (1 + 4 + 16) = 54 / 21; the ratio of medians would be 1."""
    prediction, truth = row(1, 2, 4), row(2, 2, 12)
    found = values(score("depth", prediction, truth, everywhere(truth), "scale"))
    s = 54 / 21
    assert found["rms"] == pytest.approx(math.sqrt(((s - 2) ** 2 + (2 * s - 2) ** 2 + (4 * s - 12) ** 2) / 3))


def test_scale_shift_is_the_line_of_linear_regression() -> None:
    """Through (0, 1), (1, 1), (2, 4): slope 1.5, offset 0.5, residuals 0.5, -1, 0.5."""
    prediction, truth = row(0, 1, 2), row(1, 1, 4)
    found = values(score("depth", prediction, truth, everywhere(truth), "scale-shift"))
    assert found["rms"] == pytest.approx(math.sqrt(1.5 / 3))


def test_alignments_order_the_errors_and_none_is_the_default() -> None:
    prediction, truth, mask = maps("depth", 3, b=8)
    rms = [score("depth", prediction, truth, mask, a)["rms"] for a in ("none", "scale", "scale-shift")]
    assert bool((rms[0] >= rms[1]).all()) and bool((rms[1] >= rms[2]).all())
    torch.testing.assert_close(score("depth", prediction, truth, mask)["rms"], rms[0])


def test_a_constant_prediction_is_aligned_to_the_mean_and_zero_to_the_clamp() -> None:
    truth = row(1, 2, 6)
    found = values(score("depth", row(5, 5, 5), truth, everywhere(truth), "scale-shift"))
    assert found["rms"] == pytest.approx(math.sqrt((4 + 1 + 9) / 3))
    found = values(score("depth", row(0, 0, 0), truth, everywhere(truth), "scale"))
    assert found["abs_rel"] == pytest.approx(1 - MINIMUM_DEPTH * (1 + 1 / 2 + 1 / 6) / 3)


def test_depth_behind_the_camera_is_clamped() -> None:
    truth = row(1, 1)
    behind, clamped = (
        values(score("depth", row(p, 1), truth, everywhere(truth))) for p in (-3.0, MINIMUM_DEPTH)
    )
    assert behind == clamped and math.isfinite(behind["silog"])


def test_color_by_hand() -> None:
    """One pixel (1, 2, 2) of (2, 2, 6): RMS sqrt(17 / 3); s = (2 + 4 + 12) / 9 = 2, residuals 0, 2, 2."""
    prediction, truth = (torch.tensor(x).reshape(1, 3, 1, 1) for x in ([1.0, 2, 2], [2.0, 2, 6]))
    found = values(score("albedo", prediction, truth, everywhere(truth)))
    assert found == pytest.approx({"rms": math.sqrt(17 / 3), "si_rms": math.sqrt(8 / 3)})
    black = values(score("shading", torch.zeros_like(truth), truth, everywhere(truth)))
    assert black["si_rms"] == black["rms"] == pytest.approx(math.sqrt(44 / 3))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.floats(0.01, 100), st.integers(0, 5), st.sampled_from(["albedo", "shading"]))
def test_scale_invariant_rms_is(factor: float, seed: int, intrinsic: str) -> None:
    prediction, truth, mask = maps(intrinsic, seed)
    found, scaled = (score(intrinsic, p, truth, mask) for p in (prediction, factor * prediction))
    torch.testing.assert_close(scaled["si_rms"], found["si_rms"])
    assert bool((found["si_rms"] <= found["rms"]).all())


@pytest.mark.parametrize("intrinsic", INTRINSICS)
def test_a_perfect_prediction(intrinsic: str) -> None:
    _, truth, mask = maps(intrinsic, 0)
    for name, value in score(intrinsic, truth, truth, mask).items():
        best = 100 if name.startswith(("below", "delta")) else 0
        torch.testing.assert_close(value, torch.full_like(value, best), atol=1e-6, rtol=0)


@pytest.mark.parametrize("alignment", ["none", "scale", "scale-shift"])
@pytest.mark.parametrize("intrinsic", INTRINSICS)
def test_pixels_outside_the_mask_never_count(intrinsic: str, alignment: str) -> None:
    alignment = alignment if intrinsic == "depth" else "none"
    prediction, truth, mask = maps(intrinsic, 4)
    expected = score(intrinsic, prediction, truth, mask, alignment)
    junk = torch.where(mask, prediction, 1e6)
    for hidden in (torch.nan, torch.inf, 0.0, -5.0):
        found = score(intrinsic, junk, torch.where(mask, truth, hidden), mask, alignment)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("intrinsic", INTRINSICS)
def test_cropping_is_the_same_as_masking_and_each_picture_stands_alone(intrinsic: str) -> None:
    prediction, truth, _ = maps(intrinsic, 5)
    mask = everywhere(truth)
    mask[..., 3:] = False
    together = score(intrinsic, prediction, truth, mask)
    for i in range(3):
        p, t = prediction[i : i + 1, ..., :3], truth[i : i + 1, ..., :3]
        alone = score(intrinsic, p, t, everywhere(t))
        for name in alone:
            torch.testing.assert_close(alone[name][0], together[name][i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("intrinsic", INTRINSICS)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_scored_in_float64_and_inputs_stay(intrinsic: str, kind: torch.dtype) -> None:
    prediction, truth, mask = maps(intrinsic, 6)
    prediction = prediction.to(kind).requires_grad_()
    kept = prediction.detach().clone()
    found = score(intrinsic, prediction, truth, mask)
    expected = score(intrinsic, kept.double(), truth, mask)
    for name in expected:
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
    torch.testing.assert_close(prediction.detach(), kept, rtol=0, atol=0)


@pytest.mark.parametrize("intrinsic", INTRINSICS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("inside", [True, False])
def test_a_prediction_that_is_not_finite_raises(intrinsic: str, poison: float, inside: bool) -> None:
    prediction, truth, mask = maps(intrinsic, 7)
    mask[1, :, 2, 2] = inside
    prediction[1, -1, 2, 2] = poison
    with pytest.raises(UserError, match="NaN or Inf in picture 1"):
        score(intrinsic, prediction, truth, mask)


def test_what_to_do_about_nan_is_what_the_caller_says() -> None:
    prediction, truth, mask = maps("albedo", 7)
    prediction[0, 0, 0, 0] = torch.nan
    with pytest.raises(UserError) as told:
        score("albedo", prediction, truth, mask, cure="ask another oracle")
    assert told.value.todo == "ask another oracle"
    with pytest.raises(UserError) as told:
        score("albedo", prediction, truth, mask)
    assert "rate" not in told.value.todo


@pytest.mark.parametrize("intrinsic", INTRINSICS)
def test_an_empty_mask_raises_and_names_the_picture(intrinsic: str) -> None:
    prediction, truth, mask = maps(intrinsic, 8)
    mask[2] = False
    with pytest.raises(UserError, match="no pixel is in the mask in picture 2"):
        score(intrinsic, prediction, truth, mask)
    with pytest.raises(UserError, match="in picture 0 and 2 more"):
        score(intrinsic, prediction, truth, torch.zeros_like(mask))


@pytest.mark.parametrize(
    ("intrinsic", "value", "message"),
    [
        ("depth", 0.0, "not above zero"),
        ("depth", torch.nan, "truth has NaN"),
        ("normal", 3.0, "not of length 1"),
        ("normal", 0.0, "not of length 1"),
        ("albedo", torch.inf, "truth has NaN or Inf"),
    ],
)
def test_a_truth_that_cannot_be_one_raises(intrinsic: str, value: float, message: str) -> None:
    prediction, truth, mask = maps(intrinsic, 9)
    truth[0, :, 0, 0] = value
    with pytest.raises(UserError, match=message):
        score(intrinsic, prediction, truth, mask)


def test_names_are_checked() -> None:
    prediction, truth, mask = maps("normal", 10)
    with pytest.raises(UserError, match="did you mean 'normal'"):
        score("normals", prediction, truth, mask)
    with pytest.raises(UserError, match="only depth is aligned"):
        score("normal", prediction, truth, mask, "scale")
    with pytest.raises(UserError, match="did you mean 'scale-shift'"):
        score("depth", *maps("depth", 10), "scale_shift")


@pytest.mark.parametrize("part", range(3))
def test_shapes_are_checked(part: int) -> None:
    for wrong in (slice(0, 2), slice(0, 1)):
        given_maps = list(maps("normal", 11))
        given_maps[part] = given_maps[part][wrong]
        with pytest.raises(ValueError, match="got"):
            score("normal", given_maps[0], given_maps[1], given_maps[2])
    with pytest.raises(ValueError, match="b 1 h w"):
        score("depth", *maps("normal", 11))
    prediction, truth, mask = maps("normal", 11)
    with pytest.raises(ValueError, match="bool"):
        score("normal", prediction, truth, mask.float())
