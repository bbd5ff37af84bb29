"""Operations of the StyleGAN generators: a reference in PyTorch, C++ for the CPU, CUDA.

Importing builds nothing; the kernels are compiled when `impl="auto"` or an explicit one first needs them.
"""

from generators.ops.dispatch import bias_act as bias_act
from generators.ops.dispatch import filtered_lrelu as filtered_lrelu
from generators.ops.dispatch import implementation as implementation
from generators.ops.dispatch import set_default as set_default
from generators.ops.dispatch import upfirdn2d as upfirdn2d
from generators.ops.filters import setup_filter as setup_filter
from generators.ops.resample import conv2d_resample as conv2d_resample
from generators.ops.resample import downsample2d as downsample2d
from generators.ops.resample import filter2d as filter2d
from generators.ops.resample import upsample2d as upsample2d
