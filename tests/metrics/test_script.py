"""TorchScript extractors: what computes is loaded, what does anything else is named and never run."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.features.script import checked, is_script, load_script
from generators.errors import UserError

# What makes the files of these tests; torch prefers other formats by now.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Small(nn.Module):
    """An extractor with convolution, normalization, branches and a loop, called as the published one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.output = nn.Linear(8, 5)
        self.scales = [1.0, 0.5]

    def forward(self, img: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        x = functional.interpolate(img.to(torch.float32), [32, 32], mode="bilinear", align_corners=False)
        x = (x - 128) / 128
        h = self.layers(x).mean([2, 3])
        total = torch.zeros_like(h)
        for scale in self.scales:
            total = total + h * scale
        if return_features:
            return total
        bias = torch.zeros_like(self.output.bias) if no_output_bias else self.output.bias
        return functional.linear(total, self.output.weight, bias).softmax(1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "small.pt"
    torch.jit.script(Small().eval()).save(str(path))
    return path


def noise(seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 3, 40, 36), dtype=torch.uint8, generator=draws)


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy whose entries went through a function; None leaves one out."""
    copy = path.with_name("changed.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return copy


def main_source(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        return next(
            archive.read(n).decode()
            for n in archive.namelist()
            if n.endswith(".py") and b"class Small" in archive.read(n)
        )


def replaced(path: Path, new: str) -> Path:
    """A copy that does something else with the picture first."""
    source = main_source(path)
    line = next(row for row in source.splitlines() if "torch.to(img" in row)
    margin = line[: len(line) - len(line.lstrip())]
    lines = "\n".join(margin + row for row in new.splitlines())

    def change(name: str, data: bytes) -> bytes:
        if data.decode("latin-1") != source.encode().decode("latin-1"):
            return data
        return source.replace(line, f"{lines}\n{line}", 1).encode()

    return rewritten(path, change)


def test_a_checked_script_gives_what_the_file_gives(small: Path) -> None:
    assert is_script(small)
    pictures = noise()
    expected = torch.jit.load(str(small))(pictures, return_features=True)
    with torch.no_grad():
        found = load_script(small)(pictures)
    assert found.shape == (3, 8) and torch.equal(found, expected)


def test_what_is_loaded_is_not_the_file(small: Path) -> None:
    """The archive in memory has the code that was checked and nothing that was not looked at."""
    with zipfile.ZipFile(checked(small)) as archive:
        names = archive.namelist()
    assert any(name.endswith(".py") for name in names) and not any("debug" in name for name in names)


SAVING = 'torch.save(img, "FILE")'


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('y = torch.from_file("x", False, 4)', "aten::from_file"),
        (SAVING, "aten::save"),
        ('img.save("FILE")', "aten::save"),
        ('(img).save("FILE")', "aten::save"),
        ('f = torch.save\nf(img, "FILE")', "aten::save"),
        ('f = img.save\nf("FILE")', "aten::save"),
        ('getattr(img, "save")("FILE")', "aten::save"),
        ('ops.aten.save(img, "FILE")', "aten::save"),
        ("ops.prim.PythonOp(img)", "prim::PythonOp"),
        ('ops.fs.open("FILE")', "fs::open"),
        ("t = torch", "name 'torch'"),
        ("o = ops.aten", "aten"),
        ("y = torch.rand([3])", "aten::rand"),
        ("y = __torch__.torch.classes.quantized.Thing()", "C\\+\\+ class"),
        ("y = annotate(__torch__.torch.classes.a.B, img)", "C\\+\\+ class"),
        ("y = fork(self.layers, img)", "name 'fork'"),
        ('y = open("FILE")', "name 'open'"),
        ("y = ^Operation(3)(img)", "PythonOp"),
        ("while True:\n  pass", "While"),
        ("import os", "Import"),
        ("y = lambda: img", "Lambda"),
        ('y = getattr(img, "sa" + "ve")', "computes"),
        ("torch = img", "another meaning"),
        ("y = CONSTANTS.c0.save", "constant"),
        ("y = [x for x in [1]]", "ListComp"),
        ("y = 'é'", "ASCII"),
    ],
)
def test_what_does_more_than_compute_is_named_and_not_run(
    small: Path, tmp_path: Path, code: str, named: str
) -> None:
    path = replaced(small, code.replace("FILE", str(tmp_path / "written")))
    with pytest.raises(UserError, match=f"not let through: .*{named}"):
        load_script(path)
    assert not (tmp_path / "written").exists()


def test_the_refusals_are_needed(small: Path, tmp_path: Path) -> None:
    """torch itself runs such a program: the same file, unchecked, writes where it likes."""
    written = tmp_path / "written"
    path = replaced(small, SAVING.replace("FILE", str(written)))
    torch.jit.load(str(path))(noise(), return_features=True)
    assert written.exists()


class Reader(nn.Module):
    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        return torch.from_file("/dev/zero", False, 8).reshape(1, 8) + img.sum()


def test_a_genuine_script_that_reads_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reader.pt"
    torch.jit.script(Reader()).save(str(path))
    with pytest.raises(UserError, match="aten::from_file"):
        load_script(path)


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("it ran",)


@pytest.mark.parametrize("entry", ["data.pkl", "constants.pkl"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_names_anything_else_is_refused(
    small: Path, entry: str, protocol: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = pickle.dumps(Runs(), protocol)
    path = rewritten(small, lambda name, data: bad if name.endswith(f"/{entry}") else data)
    with pytest.raises(UserError, match=f"its {entry} names"):
        load_script(path)
    assert "it ran" not in capsys.readouterr().out


def test_a_pickle_of_a_cpp_class_is_refused(small: Path) -> None:
    bad = b"\x80\x02c__torch__.torch.classes.a\nB\n)\x81."
    path = rewritten(small, lambda name, data: bad if name.endswith("/data.pkl") else data)
    with pytest.raises(UserError, match="C\\+\\+ class"):
        load_script(path)


def test_damage_and_strange_archives_are_refused(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: len(whole) // 2])
    assert not is_script(cut)
    with pytest.raises(UserError, match="damaged"):
        load_script(cut)
    with zipfile.ZipFile(small) as archive:
        start = archive.getinfo(next(n for n in archive.namelist() if "/data/0" in n)).header_offset
    flipped = bytearray(whole)
    flipped[start + 200] ^= 0xFF
    cut.write_bytes(bytes(flipped))
    with pytest.raises(UserError, match=r"damaged|torch cannot load"):
        load_script(cut)
    without = rewritten(small, lambda name, data: None if name.endswith("/data.pkl") else data)
    with pytest.raises(UserError, match=r"has no data\.pkl"):
        load_script(without)


def test_two_entries_of_one_name_are_refused(small: Path) -> None:
    copy = rewritten(small, lambda name, data: data)
    with zipfile.ZipFile(copy, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], b"other")
    with pytest.raises(UserError, match="two entries"):
        load_script(copy)


def test_a_large_source_is_refused(small: Path) -> None:
    path = rewritten(small, lambda name, data: b" " * (2 << 20) if name.endswith(".py") else data)
    with pytest.raises(UserError, match="2,097,152 bytes"):
        load_script(path)


class Unlike(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float().mean([2, 3])


class Failing(nn.Module):
    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        assert img.dtype == torch.float32, "only floats"
        return img.mean([2, 3])


def test_another_way_of_calling_is_named(tmp_path: Path) -> None:
    path = tmp_path / "unlike.pt"
    torch.jit.script(Unlike()).save(str(path))
    with pytest.raises(UserError, match="called with pictures"):
        load_script(path)
    torch.jit.script(Failing()).save(str(path))
    with pytest.raises(UserError, match="fails on pictures"):
        load_script(path)(noise())
