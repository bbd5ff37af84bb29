// Memory of outputs, kept for the next output of the same size.
#pragma once

#include <ATen/core/Tensor.h>

namespace ops {

// A new tensor, not initialized. For a large one the first touch of its pages costs more than the arithmetic, so
// blocks that were let go are kept, up to kKept bytes in all, and the operating system is asked for large pages.
at::Tensor fresh(at::IntArrayRef sizes, const at::TensorOptions& options);

constexpr size_t kKept = size_t(256) << 20;

}  // namespace ops
