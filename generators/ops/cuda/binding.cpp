// The six raw functions of generators/ops/primitives.py. Only CPU headers of torch: tensors are addresses,
// sizes and a device number here, and the stream comes from Python.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <torch/csrc/utils/pybind.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>

#include "launch.h"

namespace {

using at::Tensor;
using std::optional;

Dtype dtype_of(const Tensor& x) {
    switch (x.scalar_type()) {
        case at::kFloat: return Dtype::float32;
        case at::kHalf: return Dtype::float16;
        case at::kBFloat16: return Dtype::bfloat16;
        case at::kDouble: return Dtype::float64;
        default: TORCH_CHECK(false, "the kernels take float32, float16, bfloat16 and float64, not ", x.scalar_type());
    }
}

void check_place(const Tensor& x) {
    TORCH_CHECK(x.is_contiguous(), "the kernels take contiguous tensors");
#ifndef CUDA_ON_CPU  // where tests run the kernels without a device
    TORCH_CHECK(x.is_cuda(), "the kernels take CUDA tensors; this one is on ", x.device());
#endif
}

void check_like(const Tensor& other, const Tensor& x) {
    check_place(other);
    TORCH_CHECK(other.scalar_type() == x.scalar_type(), "all have one type: ", other.scalar_type(), ", ", x.scalar_type());
    TORCH_CHECK(other.device() == x.device(), "all are on one device");
}

void check_picture(const Tensor& x) {
    check_place(x);
    TORCH_CHECK(x.dim() == 4, "x is (b c h w); this one has ", x.dim(), " axes");
}

void check_filter(const Tensor& f, const Tensor& x) {
    check_place(f);
    TORCH_CHECK(f.scalar_type() == at::kFloat, "filters are float32");
    TORCH_CHECK((f.dim() == 1 || f.dim() == 2) && f.numel() > 0, "a filter is (n) or (h w), and not empty");
    TORCH_CHECK(f.device() == x.device(), "the filter is on ", f.device(), ", x on ", x.device());
}

const void* bias_of(const optional<Tensor>& b, const Tensor& x, int64_t channels) {
    if (!b) return nullptr;
    check_like(*b, x);
    TORCH_CHECK(b->numel() == channels, "b has ", b->numel(), " values for ", channels, " channels");
    return b->const_data_ptr();
}

Place place_of(const Tensor& x, int64_t stream) {
    return {x.is_cuda() ? (int)x.get_device() : -1, reinterpret_cast<void*>(stream)};
}

void raise(const char* error) { TORCH_CHECK(error == nullptr, "CUDA kernel: ", error); }

int small(int64_t size) {
    TORCH_CHECK(std::abs(size) < std::numeric_limits<int>::max() / 4, "a side of ", size, " samples is too large");
    return (int)size;
}

// Samples along an axis after resampling.
int resampled(int64_t size, int64_t up, int64_t down, int64_t p0, int64_t p1, int64_t taps) {
    TORCH_CHECK(up >= 1 && down >= 1, "factors are at least 1");
    const int64_t padded = size * up + p0 + p1;
    TORCH_CHECK(padded >= taps, "the padded picture has ", padded, " samples, fewer than the filter's ", taps);
    small(padded + taps);
    return small((padded - taps + down) / down);
}

bool separable(const Tensor& f) { return f.dim() == 1; }
int taps_x(const Tensor& f) { return small(f.size(-1)); }
int taps_y(const Tensor& f) { return small(f.size(0)); }

float gain_of(const Tensor& f, double gain) { return (float)std::pow(gain, f.dim() / 2.0); }

// The direct kernel knows filters with two axes: a separable one is two passes.
Tensor direct(Upfirdn2dParams p, const Tensor& x, int64_t n, int64_t c, at::ScalarType to, Place place) {
    const auto type = [](at::ScalarType t) { return t == at::kDouble ? at::kDouble : at::kFloat; };
    Tensor y = at::empty({n, c, p.out_h, p.out_w}, x.options().dtype(to));
    if (y.numel() == 0) return y;
    if (!p.separable) {
        p.y = y.mutable_data_ptr();
        raise(upfirdn2d_direct(p, dtype_of(x), dtype_of(y), place));
        return y;
    }
    Tensor half = at::empty({n, c, p.in_h, p.out_w}, x.options().dtype(type(x.scalar_type())));
    Upfirdn2dParams along_x = p, along_y = p;
    along_x.separable = along_y.separable = false;
    along_x.up_y = along_x.down_y = along_x.taps_y = 1, along_x.pad_y = 0;
    along_x.out_h = p.in_h, along_x.y = half.mutable_data_ptr();
    along_y.up_x = along_y.down_x = along_y.taps_x = 1, along_y.pad_x = 0;
    along_y.in_w = p.out_w, along_y.x = half.const_data_ptr(), along_y.y = y.mutable_data_ptr(), along_y.bias = nullptr;
    raise(upfirdn2d_direct(along_x, dtype_of(x), dtype_of(half), place));
    raise(upfirdn2d_direct(along_y, dtype_of(half), dtype_of(y), place));
    return y;
}

Upfirdn2dParams picture(const Tensor& x, const Tensor& f, bool flip, double gain) {
    Upfirdn2dParams p{};
    p.x = x.const_data_ptr(), p.f = f.const_data_ptr<float>();
    p.planes = x.size(0) * x.size(1), p.channels = small(x.size(1));
    p.in_h = small(x.size(2)), p.in_w = small(x.size(3));
    p.taps_x = taps_x(f), p.taps_y = taps_y(f), p.separable = separable(f), p.flip = flip;
    p.gain = gain_of(f, gain);
    return p;
}

Tensor upfirdn2d(const Tensor& x, const Tensor& f, int64_t upx, int64_t upy, int64_t downx, int64_t downy,
                 int64_t padx0, int64_t padx1, int64_t pady0, int64_t pady1, bool flip, double gain, int64_t stream) {
    check_picture(x);
    check_filter(f, x);
    Upfirdn2dParams p = picture(x, f, flip, gain);
    p.up_x = small(upx), p.up_y = small(upy), p.down_x = small(downx), p.down_y = small(downy);
    p.pad_x = small(padx0), p.pad_y = small(pady0);
    p.out_h = resampled(p.in_h, upy, downy, pady0, pady1, p.taps_y);
    p.out_w = resampled(p.in_w, upx, downx, padx0, padx1, p.taps_x);
    Tensor y = at::empty({x.size(0), x.size(1), p.out_h, p.out_w}, x.options());
    if (y.numel() == 0) return y;
    p.y = y.mutable_data_ptr();
    bool fits = false;
    raise(upfirdn2d_tiled(p, dtype_of(x), place_of(x, stream), &fits));
    return fits ? y : direct(p, x, x.size(0), x.size(1), x.scalar_type(), place_of(x, stream));
}

Tensor any_bias_act(const Tensor* dz, const Tensor* dy, const Tensor& x, const optional<Tensor>& b, int64_t dim,
                    int64_t act, double alpha, double gain, double clamp, int64_t stream) {
    check_place(x);
    for (const Tensor* other : {dz, dy})
        if (other) {
            check_like(*other, x);
            TORCH_CHECK(other->sizes() == x.sizes(), "a gradient has the shape of x");
        }
    TORCH_CHECK(act >= 0 && act <= 8, "there are nine activations; ", act, " is none");
    const int64_t axis = b ? (dim < 0 ? dim + x.dim() : dim) : 0;
    TORCH_CHECK(!b || (axis >= 0 && axis < x.dim()), "x has no axis ", dim);
    BiasActParams p{};
    p.channels = b ? small(x.size(axis)) : 1, p.step = 1;
    p.x = x.const_data_ptr(), p.b = bias_of(b, x, p.channels);
    p.dy = dy ? dy->const_data_ptr() : nullptr, p.dz = dz ? dz->const_data_ptr() : nullptr;
    for (int64_t i = axis + 1; b && i < x.dim(); ++i) p.step *= x.size(i);
    p.act = (int)act, p.alpha = alpha, p.gain = gain, p.clamp = clamp, p.size = x.numel();
    Tensor y = at::empty(x.sizes(), x.options());
    p.y = y.mutable_data_ptr();
    if (p.size > 0) raise(bias_act(p, dtype_of(x), place_of(x, stream)));
    return y;
}

Tensor bias_act_0(const Tensor& x, const optional<Tensor>& b, int64_t dim, int64_t act, double alpha, double gain,
                  double clamp, int64_t stream) {
    return any_bias_act(nullptr, nullptr, x, b, dim, act, alpha, gain, clamp, stream);
}

Tensor bias_act_1(const Tensor& dy, const Tensor& x, const optional<Tensor>& b, int64_t dim, int64_t act,
                  double alpha, double gain, double clamp, int64_t stream) {
    return any_bias_act(nullptr, &dy, x, b, dim, act, alpha, gain, clamp, stream);
}

Tensor bias_act_2(const Tensor& dz, const Tensor& dy, const Tensor& x, const optional<Tensor>& b, int64_t dim,
                  int64_t act, double alpha, double gain, double clamp, int64_t stream) {
    return any_bias_act(&dz, &dy, x, b, dim, act, alpha, gain, clamp, stream);
}

// One kernel where a tile fits, else upsample, activate, downsample with the samples in between in memory.
Tensor filtered(FilteredParams p, const Tensor& x, const Tensor& fa, const Tensor& fb, double gain_a, double gain_b,
                Place place) {
    Tensor y = at::empty({x.size(0), x.size(1), p.out_h, p.out_w}, x.options());
    if (x.size(0) * x.size(1) == 0) return y;
    p.y = y.mutable_data_ptr();
    bool fits = y.numel() > 0;
    if (fits) raise(filtered_tiled(p, dtype_of(x), place, &fits));
    if (fits) return y;
    Upfirdn2dParams up = picture(x, fa, p.flip, gain_a);
    up.bias = p.bias, up.out_h = p.mid_h, up.out_w = p.mid_w;
    up.up_x = up.up_y = p.up, up.down_x = up.down_y = 1, up.pad_x = p.pa_x, up.pad_y = p.pa_y;
    const auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    Tensor middle = direct(up, x, x.size(0), x.size(1), type, place);
    if (middle.numel() > 0) raise(activate(p, middle.mutable_data_ptr(), dtype_of(middle), place));
    Upfirdn2dParams down = picture(middle, fb, p.flip, gain_b);
    down.out_h = p.out_h, down.out_w = p.out_w;
    down.up_x = down.up_y = 1, down.down_x = down.down_y = p.down, down.pad_x = p.pb_x, down.pad_y = p.pb_y;
    return direct(down, middle, x.size(0), x.size(1), x.scalar_type(), place);
}

FilteredParams between(const Tensor& x, const Tensor& fa, const Tensor& fb, int64_t up, int64_t down, bool flip) {
    check_picture(x);
    check_filter(fa, x);
    check_filter(fb, x);
    FilteredParams p{};
    p.x = x.const_data_ptr(), p.fa = fa.const_data_ptr<float>(), p.fb = fb.const_data_ptr<float>();
    p.planes = x.size(0) * x.size(1), p.channels = small(x.size(1));
    p.in_h = small(x.size(2)), p.in_w = small(x.size(3)), p.up = small(up), p.down = small(down), p.flip = flip;
    p.a_x = taps_x(fa), p.a_y = taps_y(fa), p.a_separable = separable(fa);
    p.b_x = taps_x(fb), p.b_y = taps_y(fb), p.b_separable = separable(fb);
    return p;
}

// Bytes of a row of the mask; the same as mask_bytes in primitives.py, which allocates for every module.
int64_t row_bytes(int64_t width, int64_t up, int64_t down) {
    const int64_t phases = std::lcm(up, down);
    return phases * 2 * (((width + phases - 1) / phases + 15) / 16);
}

std::tuple<Tensor, Tensor> filtered_lrelu(const Tensor& x, const Tensor& fu, const Tensor& fd,
                                          const optional<Tensor>& b, int64_t up, int64_t down, int64_t padx0,
                                          int64_t padx1, int64_t pady0, int64_t pady1, double gain, double slope,
                                          double clamp, bool flip, bool write_mask, int64_t stream) {
    FilteredParams p = between(x, fu, fd, up, down, flip);
    p.bias = bias_of(b, x, x.size(1));
    p.pa_x = small(padx0), p.pa_y = small(pady0);
    p.mid_h = resampled(p.in_h, up, 1, pady0, pady1, p.a_y), p.mid_w = resampled(p.in_w, up, 1, padx0, padx1, p.a_x);
    p.out_h = resampled(p.mid_h, 1, down, 0, 0, p.b_y), p.out_w = resampled(p.mid_w, 1, down, 0, 0, p.b_x);
    p.gain = gain, p.slope = slope, p.clamp = clamp, p.mode = write_mask ? Mask::write : Mask::none;
    const double squared = (double)(up * up);
    p.gain_a = gain_of(fu, squared), p.gain_b = 1;
    p.row_bytes = row_bytes(p.mid_w, up, down);
    Tensor mask = at::empty({x.size(0), x.size(1), write_mask ? p.mid_h : 0, 2, p.row_bytes}, x.options().dtype(at::kByte));
    p.mask = mask.mutable_data_ptr<uint8_t>();
    return {filtered(p, x, fu, fd, squared, 1, place_of(x, stream)), mask};
}

Tensor filtered_mask(const Tensor& z, const Tensor& mask, const Tensor& fa, const Tensor& fb, int64_t up, int64_t down,
                     int64_t pa_x0, int64_t pa_x1, int64_t pa_y0, int64_t pa_y1, int64_t pb_x0, int64_t pb_x1,
                     int64_t pb_y0, int64_t pb_y1, double gain_a, double gain_b, bool flip, double gain, double slope,
                     int64_t stream) {
    FilteredParams p = between(z, fa, fb, up, down, flip);
    p.pa_x = small(pa_x0), p.pa_y = small(pa_y0), p.pb_x = small(pb_x0), p.pb_y = small(pb_y0);
    p.mid_h = resampled(p.in_h, up, 1, pa_y0, pa_y1, p.a_y), p.mid_w = resampled(p.in_w, up, 1, pa_x0, pa_x1, p.a_x);
    p.out_h = resampled(p.mid_h, 1, down, pb_y0, pb_y1, p.b_y);
    p.out_w = resampled(p.mid_w, 1, down, pb_x0, pb_x1, p.b_x);
    p.gain = gain, p.slope = slope, p.clamp = -1, p.mode = Mask::read;
    p.gain_a = gain_of(fa, gain_a), p.gain_b = gain_of(fb, gain_b);
    check_place(mask);
    TORCH_CHECK(mask.scalar_type() == at::kByte && mask.dim() == 5 && mask.device() == z.device(), "no mask of these kernels");
    p.row_bytes = mask.size(4);
    const bool same = mask.size(0) == z.size(0) && mask.size(1) == z.size(1) && mask.size(2) == p.mid_h && mask.size(3) == 2;
    TORCH_CHECK(same && p.row_bytes * 8 >= p.mid_w, "the mask belongs to another size: ", mask.sizes(), " for ", p.mid_h,
                " x ", p.mid_w);
    p.mask = const_cast<uint8_t*>(mask.const_data_ptr<uint8_t>());  // only read in this mode
    return filtered(p, z, fa, fb, gain_a, gain_b, place_of(z, stream));
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    m.def("upfirdn2d", &upfirdn2d);
    m.def("bias_act", &bias_act_0);
    m.def("bias_act_grad", &bias_act_1);
    m.def("bias_act_grad2", &bias_act_2);
    m.def("filtered_lrelu", &filtered_lrelu);
    m.def("filtered_mask", &filtered_mask);
}
