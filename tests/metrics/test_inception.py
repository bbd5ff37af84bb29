"""Inception v3 of FID: its shape, its resize, and two ways to its weights that must agree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.features.extractors import load_inception_file
from benchmarks.features.inception import (
    BLOCKS,
    EPS,
    SIDE,
    Inception,
    Mixed,
    load_inception,
    resize_as_tensorflow1,
)
from generators.errors import UserError

# What makes the files of these tests; torch prefers other formats by now.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def random_inception(seed: int) -> Inception:
    """Full size, with weights that keep activations of size one through all layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Inception()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return network.eval().requires_grad_(False)


class Convention(nn.Module):
    """A network called as the published TorchScript is, with a resize of its own."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, img: Tensor, return_features: bool = False, use_fp16: bool = False) -> Tensor:
        b, c, h, w = img.shape
        assert c == 3
        theta = torch.eye(2, 3, device=img.device)
        theta[0, 2] += 1 / w - 1 / 299
        theta[1, 2] += 1 / h - 1 / 299
        theta = theta.to(torch.float16 if use_fp16 else torch.float32).unsqueeze(0).repeat([b, 1, 1])
        grid = functional.affine_grid(theta, [b, c, 299, 299], align_corners=False)
        x = functional.grid_sample(
            img.to(grid.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        x -= 128
        x /= 128
        features = self.layers(x).reshape(-1, 2048)
        if return_features:
            return features
        return features.softmax(1)


class Trunk(nn.Module):
    """A network without its own resize."""

    def __init__(self, network: Inception) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x * 128 + 128)


@pytest.fixture(scope="module")
def network() -> Inception:
    return random_inception(3)


@pytest.fixture(scope="module")
def state_file(network: Inception, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As torch-fidelity publishes it: with the classifier, without counters."""
    path = tmp_path_factory.mktemp("inception") / "weights-inception.pth"
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return path


def noise(count: int, height: int, width: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=draws)


def test_it_has_the_parameters_of_inception_v3() -> None:
    # torchvision documents 27,161,264 for 1,000 classes: less the auxiliary head and the last layer.
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 769_000
    with torch.device("meta"):
        counted = sum(p.numel() for p in Inception().parameters())
    assert counted == 27_161_264 - auxiliary - 2_049_000


def test_its_names_are_those_of_the_published_state() -> None:
    with torch.device("meta"):
        state = Inception().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert len({name.rpartition(".conv")[0] for name in shapes if ".conv." in name}) == 94
    assert shapes["Conv2d_4a_3x3.conv.weight"] == (192, 80, 3, 3)
    assert shapes["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert shapes["Mixed_5d.branch5x5_2.bn.running_var"] == (64,)
    assert shapes["Mixed_6a.branch3x3.conv.weight"] == (384, 288, 3, 3)
    assert shapes["Mixed_6b.branch7x7dbl_2.conv.weight"] == (128, 128, 7, 1)
    assert shapes["Mixed_6e.branch7x7_2.conv.weight"] == (192, 192, 1, 7)
    assert shapes["Mixed_7a.branch7x7x3_4.conv.weight"] == (192, 192, 3, 3)
    assert shapes["Mixed_7c.branch3x3dbl_3b.conv.weight"] == (384, 384, 3, 1)
    assert shapes["Mixed_7c.branch1x1.conv.weight"] == (320, 2048, 1, 1)


@pytest.mark.parametrize(("height", "width"), [(32, 40), (299, 299), (512, 300)])
def test_the_resize_is_tensorflows(height: int, width: int) -> None:
    """Pixel i looks at i * size / 299, and the last pixels at the border."""
    ramp = torch.arange(width, dtype=torch.float32).expand(1, 3, height, width)
    expected = np.minimum(np.arange(SIDE) * (width / SIDE), width - 1)
    assert np.abs(resize_as_tensorflow1(ramp)[0, 0, 7].numpy() - expected).max() < 1e-4
    turned = resize_as_tensorflow1(ramp.transpose(2, 3))
    assert np.abs(turned[0, 1, :, 5].numpy() - expected).max() < 1e-4


def plain_block(index: int, inputs: int) -> Mixed:
    """A mixed block whose path behind the pool adds up its input."""
    block = Mixed(inputs, BLOCKS[index]).eval()
    last = block.get_submodule("branch_pool")
    with torch.no_grad():
        last.conv.weight.fill_(1 / inputs)
        last.bn.running_var.fill_(1 - EPS)
    return block


def test_averages_leave_the_padding_out() -> None:
    with torch.no_grad():
        pooled = plain_block(0, 192)(torch.ones(1, 192, 5, 5))[:, -32:]
    assert (pooled - 1).abs().max() < 1e-5, "with zeros averaged in, the corners would be 4/9"


def test_the_last_block_pools_by_maximum_and_the_one_before_it_by_mean() -> None:
    spike = torch.zeros(1, 2048, 5, 5)
    spike[:, :, 2, 2] = 9
    with torch.no_grad():
        last, before = (plain_block(index, 2048)(spike)[0, -1] for index in (-1, -2))
    around = functional.pad(torch.ones(3, 3), (1, 1, 1, 1))
    assert torch.allclose(last, around * 9, atol=1e-4) and torch.allclose(before, around, atol=1e-4)


@pytest.mark.slow
def test_script_and_state_dict_give_the_same_features(
    network: Inception, state_file: Path, tmp_path: Path
) -> None:
    traced = torch.jit.trace(Trunk(network), torch.zeros(1, 3, SIDE, SIDE), check_trace=False)
    script = tmp_path / "inception.pt"
    torch.jit.script(Convention(traced)).eval().save(str(script))
    ours, theirs = load_inception_file(state_file), load_inception_file(script)
    assert ours.weights != theirs.weights
    for pictures in (noise(2, 64, 48, 0), noise(2, 320, 320, 1)):
        a, b = ours(pictures), theirs(pictures)
        assert a.shape == (2, 2048) and a.std() > 0.05, "features of random weights must not vanish"
        assert (a - b).abs().max() < 1e-3 * a.abs().max()
        assert (a[0] - a[1]).abs().max() > 10 * (a - b).abs().max()


def test_floats_and_bytes_are_the_same_pictures(network: Inception) -> None:
    pictures = noise(1, 20, 20, 2)
    with torch.no_grad():
        assert torch.equal(network(pictures), network(pictures.float()))


def test_another_hash_is_refused(state_file: Path) -> None:
    with pytest.raises(UserError, match="its sha256 is") as error:
        load_inception_file(state_file, "0" * 64)
    assert "0" * 64 in error.value.known
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        load_inception_file(state_file, "6726825d")


def test_a_truncated_file_is_refused(state_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(state_file.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="cannot be read"):
        load_inception(cut)


def test_other_tensors_are_refused(state_file: Path, tmp_path: Path) -> None:
    state = torch.load(state_file, weights_only=True)
    path = tmp_path / "other.pth"
    for change, said in (
        ({"Mixed_5b.branch1x1.bn.bias": None}, "Missing key"),
        ({"AuxLogits.fc.bias": torch.zeros(3)}, "Unexpected key"),
        ({"Mixed_5b.branch1x1.bn.bias": torch.zeros(63)}, "size mismatch"),
        ({"Mixed_5b.branch1x1.bn.bias": torch.full((64,), torch.nan)}, "NaN"),
    ):
        torch.save({k: v for k, v in (state | change).items() if v is not None}, path)
        with pytest.raises(UserError, match=said):
            load_inception(path)
    torch.save([torch.zeros(3)], path)
    with pytest.raises(UserError, match="no mapping"):
        load_inception(path)


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("it ran",)


def test_a_state_dict_with_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"Conv2d_1a_3x3.conv.weight": Runs()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        load_inception(path)
    assert "it ran" not in capsys.readouterr().out
    path.write_bytes(b"no file of torch at all")
    with pytest.raises(UserError, match="cannot be read"):
        load_inception(path)
