// From tensors to what the kernels take.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "fir.h"
#include "memory.h"

namespace ops {

// Half types are computed in float32 and rounded once.
inline at::Tensor computable(const at::Tensor& x) {
  TORCH_CHECK(x.is_contiguous(), "the kernels take contiguous tensors");
  return x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16 ? x.to(at::kFloat) : x;
}

template <class Run>
void by_type(const at::Tensor& x, const Run& run) {
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble, "the kernels know float16, bfloat16, ",
              "float32 and float64, not ", x.scalar_type());
  if (x.scalar_type() == at::kFloat) {
    run(0.0f);
  } else {
    run(0.0);
  }
}

inline Axis axis(int64_t size, int64_t up, int64_t down, int64_t p0, int64_t p1, int64_t taps) {
  const int64_t out = floor_div(size * up + p0 + p1 - taps + down, down);
  TORCH_CHECK(out > 0, "the output of the filter is empty: ", size, " samples, padding ", p0, " and ", p1, ", ", taps,
              " taps");
  return {size, out, up, down, p0};
}

template <class T>
Filter<T> filter(const at::Tensor& f, bool flip, double gain) {
  TORCH_CHECK(f.scalar_type() == at::kFloat && f.is_contiguous(), "a filter is a contiguous float32 tensor");
  return Filter<T>(f.const_data_ptr<float>(), static_cast<int>(f.dim()), f.size(0), f.size(-1), flip, gain);
}

}  // namespace ops
