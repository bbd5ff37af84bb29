// The raw functions of the module; generators/ops/primitives.py says what they compute.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <utility>

namespace ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Tensor upfirdn2d(const Tensor& x, const Tensor& f, int64_t upx, int64_t upy, int64_t downx, int64_t downy,
                 int64_t padx0, int64_t padx1, int64_t pady0, int64_t pady1, bool flip, double gain);

Tensor bias_act(const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act, double alpha, double gain,
                double clamp);
Tensor bias_act_grad(const Tensor& dy, const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act,
                     double alpha, double gain, double clamp);
Tensor bias_act_grad2(const Tensor& dz, const Tensor& dy, const Tensor& x, const OptionalTensor& b, int64_t dim,
                      int64_t act, double alpha, double gain, double clamp);

std::pair<Tensor, Tensor> filtered_lrelu(const Tensor& x, const Tensor& fu, const Tensor& fd,
                                         const OptionalTensor& b, int64_t up, int64_t down, int64_t padx0,
                                         int64_t padx1, int64_t pady0, int64_t pady1, double gain, double slope,
                                         double clamp, bool flip, bool write_mask);
Tensor filtered_mask(const Tensor& z, const Tensor& mask, const Tensor& fa, const Tensor& fb, int64_t up,
                     int64_t down, int64_t pa_x0, int64_t pa_x1, int64_t pa_y0, int64_t pa_y1, int64_t pb_x0,
                     int64_t pb_x1, int64_t pb_y0, int64_t pb_y1, double gain_a, double gain_b, bool flip,
                     double gain, double slope);

}  // namespace ops
