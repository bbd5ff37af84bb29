"""DINOv2 where a GPU's gradients must be deterministic: resizing by two matrices, positions refused."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from generators.errors import UserError
from generators.networks import dinov2
from generators.networks.dinov2 import resize, resize_by_matrices
from tests.generators.small_dinov2 import random_model

ANTIALIASED = {"UpsampleBilinear2DAaBackward0"}


def operations(value: Tensor) -> set[str]:
    """Names of all operations a value's gradient runs through."""
    found, ahead = set(), [value.grad_fn]
    while ahead:
        if (node := ahead.pop()) is not None and node not in found:
            found.add(node)
            ahead += [before for before, _ in node.next_functions]
    return {node.name() for node in found}


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(28, 33), (11, 9), (40, 7), (19, 40), (19, 23)])
def test_two_matrices_resize_as_interpolation_does(size: tuple[int, int], antialias: bool) -> None:
    """Up, down, up and down, one axis alone, none: values and gradient."""
    x = torch.randn(2, 3, 19, 23, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = functional.interpolate(x, size, mode="bilinear", align_corners=False, antialias=antialias)
    found = resize_by_matrices(x, size, antialias)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        torch.autograd.grad(found, x, dy), torch.autograd.grad(expected, x, dy), rtol=0, atol=5e-6
    )


def test_the_matrices_are_in_single_precision_and_give_the_type_back() -> None:
    x = torch.randn(1, 2, 19, 23, generator=torch.Generator().manual_seed(1))
    expected = resize_by_matrices(x.bfloat16().float(), (11, 9), True)
    with torch.autocast("cpu", torch.bfloat16):
        found = resize_by_matrices(x.bfloat16(), (11, 9), True)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_matrices_are_for_deterministic_gradients_on_cuda(
    monkeypatch: pytest.MonkeyPatch, device: str, trained: bool, deterministic: bool
) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    with FakeTensorMode():
        x = torch.empty(1, 3, 518, 518, device=device, requires_grad=trained)
    assert dinov2.refused_backward(x) == (device == "cuda" and trained and deterministic)


def test_what_cuda_refuses_is_not_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """518 to 512, as the published models' maps are resized."""
    x = torch.ones(1, 1, 518, 518, requires_grad=True)
    assert operations(resize(x, (512, 512))) & ANTIALIASED
    monkeypatch.setattr(dinov2, "refused_backward", lambda tensor: tensor.requires_grad)
    assert not operations(resize(x, (512, 512))) & ANTIALIASED
    resize(x, (512, 512)).sum().backward()


def test_positions_that_would_be_interpolated_are_refused_in_four_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where they are trained under deterministic algorithms on CUDA, and only there."""
    model = random_model()
    other, own = (model.embed(torch.zeros(1, 3, side, side)) for side in (56, 42))
    model.network.requires_grad_(True)
    model.forward(other, "albedo")
    monkeypatch.setattr(dinov2, "refused_backward", lambda tensor: tensor.requires_grad)
    model.forward(own, "albedo").sum().backward()
    with pytest.raises(UserError, match="4 x 4 patches") as caught:
        model.forward(other, "albedo")
    assert "42 x 42 pixels" in caught.value.known and "--deterministic" in caught.value.todo
    with torch.no_grad():
        model.forward(other, "albedo")
    model.network.backbone.embeddings.position_embeddings.requires_grad_(False)
    model.forward(other, "albedo")
