"""The CUDA sources compile, link and load wherever nvcc exists, without a GPU and with any torch."""

import pytest
import torch

from generators.ops import build, toolchain

RAW = {"upfirdn2d", "bias_act", "bias_act_grad", "bias_act_grad2", "filtered_lrelu", "filtered_mask"}


@pytest.mark.slow
@pytest.mark.skipif(toolchain.nvcc() is None, reason="no nvcc")
@pytest.mark.skipif(toolchain.cxx() is None, reason="no C++ compiler")
def test_cuda_sources_compile_and_load(monkeypatch: pytest.MonkeyPatch) -> None:
    found = toolchain.nvcc()
    assert found is not None
    known = toolchain.nvcc_archs(found)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0" if "9.0" in known else known[-1])
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-Werror all-warnings")
    module = build.load(build.CUDA)
    assert set(dir(module)) >= RAW
    with pytest.raises(RuntimeError, match="CUDA tensors"):
        module.bias_act(torch.ones(2), None, 0, 0, 0.0, 1.0, -1.0, 0)
