// filtered_lrelu: Karras et al. 2021, section 3.2. Two polyphase stages with a leaky ReLU on every row between
// them; of the upsampled picture only the rows one output row needs exist, in the first-level cache.
#include <ATen/Parallel.h>

#include <numeric>

#include "fir.h"
#include "kernels.h"
#include "tensors.h"

namespace ops {
namespace {

// What happens to the upsampled rows.
template <class T>
class Bend {
 public:
  T above, below, clamp;  // slopes with the gain in them; clamp is infinite if off
  uint8_t* write = nullptr;
  const uint8_t* read = nullptr;
  ptrdiff_t row_bytes = 0;  // of one of the two planes

  Bend(T above_, T below_, T clamp_) : above(above_), below(below_), clamp(clamp_) {}

  // One phase, `count` samples (a multiple of kBlock), `at` its place in the mask.
  void apply(T* v, ptrdiff_t count, ptrdiff_t at) const {
    if (read) {
      masked(v, count, read + at);
    } else if (write) {
      leaky<true>(v, count, write + at);
    } else {
      leaky<false>(v, count, nullptr);
    }
  }

 private:
  using V = typename Simd<T>::V;
  static constexpr ptrdiff_t L = lanes<T>();

  template <bool writes>
  void leaky(T* v, ptrdiff_t count, uint8_t* mask) const {
    const V zero{}, a = zero + above, b = zero + below, top = zero + clamp, bottom = zero - clamp;
    for (ptrdiff_t i = 0; i < count; i += kBlock) {
      uint32_t sign = 0, outside = 0;
#pragma GCC unroll 4
      for (ptrdiff_t k = 0; k < kBlock; k += L) {
        const V m = load(v + i + k);
        const V value = m * (m > zero ? a : b);
        const V low = value < bottom ? bottom : value;
        store(v + i + k, low > top ? top : low);
        if constexpr (writes) {
          sign |= gather<T>(m <= zero) << k;
          outside |= gather<T>((value < bottom) | (value > top)) << k;
        }
      }
      if constexpr (writes) {
        const uint16_t bits[2] = {static_cast<uint16_t>(sign), static_cast<uint16_t>(outside)};
        std::memcpy(mask + i / 8, &bits[0], 2);
        std::memcpy(mask + row_bytes + i / 8, &bits[1], 2);
      }
    }
  }

  void masked(T* v, ptrdiff_t count, const uint8_t* mask) const {
    const V zero{}, a = zero + above, b = zero + below;
    for (ptrdiff_t i = 0; i < count; i += kBlock) {
      uint16_t sign, outside;
      std::memcpy(&sign, mask + i / 8, 2);
      std::memcpy(&outside, mask + row_bytes + i / 8, 2);
#pragma GCC unroll 4
      for (ptrdiff_t k = 0; k < kBlock; k += L) {
        const V slope = spread<T>(sign >> k) ? b : a;
        store(v + i + k, spread<T>(outside >> k) ? zero : load(v + i + k) * slope);
      }
    }
  }
};

template <class T>
void bend_planes(const Tensor& x, const T* bias, Tensor& y, const Stage<T>& first, const Stage<T>& second,
                 const Bend<T>& bend) {
  const T* src = x.const_data_ptr<T>();
  T* dst = y.mutable_data_ptr<T>();
  const ptrdiff_t channels = x.size(1), h = first.y.size, w = first.x.size, oh = second.y.out, ow = second.x.out;
  const ptrdiff_t mid_h = first.y.out;
  at::parallel_for(0, x.size(0) * channels, 1, [&](int64_t begin, int64_t end) {
    typename Stage<T>::Work work(first), work2(second);
    const ptrdiff_t stride = second.out_phases * second.width, pitch = second.in.pitch;
    Buffer<T> rows(stride * second.band);
    const auto slot = [&](ptrdiff_t i) { return work2.ring.at(i) + second.in.base; };
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* source = src + plane * h * w;
      const T b = bias ? bias[plane % channels] : T(0);
      work.ring.restart();
      work2.ring.restart();
      const auto produce = [&](ptrdiff_t i, ptrdiff_t until) {
        for (; i < until; ++i) split_row(source + i * w, w, b, first.in, work.ring.at(i));
      };
      const auto bent = [&](ptrdiff_t i) {
        const ptrdiff_t at = (plane * mid_h + i) * 2 * bend.row_bytes;
        for (ptrdiff_t r = 0; r < first.out_phases; ++r) {
          T* v = slot(i) + r * pitch;
          bend.apply(v, first.width, at + r * first.width / 8);
          for (ptrdiff_t j = first.count(r); j < first.width; ++j) v[j] = 0;
        }
      };
      const auto middle = [&](ptrdiff_t begin, ptrdiff_t end) {
        for (ptrdiff_t i = begin; i < end; i += first.band) {
          const ptrdiff_t until = std::min(end, i + first.band);
          first.run(i, until, work, produce, slot, pitch);
          for (ptrdiff_t k = i; k < until; ++k) bent(k);
        }
      };
      for (ptrdiff_t i = 0; i < oh; i += second.band) {
        const ptrdiff_t until = std::min(oh, i + second.band);
        second.run(i, until, work2, middle, [&](ptrdiff_t k) { return rows.get() + (k - i) * stride; }, second.width);
        for (ptrdiff_t k = i; k < until; ++k)
          join_row(rows.get() + (k - i) * stride, second.out_phases, second.width, dst + (plane * oh + k) * ow, ow);
      }
    }
  });
}

// Rows that no output needs are never made; the mask says zero there.
template <class T>
void run(const Tensor& x, const Tensor& bias, Tensor& y, const Axis (&axes)[4], const Filter<T>& fa,
         const Filter<T>& fb, int64_t up, int64_t down, Bend<T> bend) {
  const ptrdiff_t phases = std::lcm(up, down);
  const Stage<T> first(axes[0], axes[1], fa, phases), second(axes[2], axes[3], fb, phases / down);
  bend.row_bytes = phases * first.width / 8;
  bend_planes(x, bias.defined() ? bias.const_data_ptr<T>() : nullptr, y, first, second, bend);
}

}  // namespace

std::pair<Tensor, Tensor> filtered_lrelu(const Tensor& input, const Tensor& fu, const Tensor& fd,
                                         const OptionalTensor& b, int64_t up, int64_t down, int64_t padx0,
                                         int64_t padx1, int64_t pady0, int64_t pady1, double gain, double slope,
                                         double clamp, bool flip, bool write_mask) {
  const Tensor x = computable(input);
  const Axis uy = axis(x.size(2), up, 1, pady0, pady1, fu.size(0));
  const Axis ux = axis(x.size(3), up, 1, padx0, padx1, fu.size(-1));
  const Axis axes[4] = {uy, ux, axis(uy.out, 1, down, 0, 0, fd.size(0)), axis(ux.out, 1, down, 0, 0, fd.size(-1))};
  const int64_t phases = std::lcm(up, down);
  const int64_t row_bytes = phases * round_up(ceil_div(ux.out, phases), kBlock) / 8;
  Tensor y = fresh({x.size(0), x.size(1), axes[2].out, axes[3].out}, x.options());
  Tensor mask = fresh({x.size(0), x.size(1), write_mask ? uy.out : 0, 2, row_bytes}, x.options().dtype(at::kByte));
  mask.zero_();
  const Tensor bias = b.has_value() ? b->to(x.scalar_type()).contiguous() : Tensor();
  if (y.numel() > 0) by_type(x, [&](auto zero) {
      using T = decltype(zero);
      Bend<T> bend{static_cast<T>(gain), static_cast<T>(gain * slope),
                   clamp < 0 ? std::numeric_limits<T>::infinity() : static_cast<T>(clamp)};
      bend.write = write_mask ? mask.mutable_data_ptr<uint8_t>() : nullptr;
      const double area = static_cast<double>(up * up);
      run<T>(x, bias, y, axes, filter<T>(fu, flip, area), filter<T>(fd, flip, 1.0), up, down, bend);
    });
  return {y.to(input.scalar_type()), mask};
}

Tensor filtered_mask(const Tensor& input, const Tensor& mask, const Tensor& fa, const Tensor& fb, int64_t up,
                     int64_t down, int64_t pa_x0, int64_t pa_x1, int64_t pa_y0, int64_t pa_y1, int64_t pb_x0,
                     int64_t pb_x1, int64_t pb_y0, int64_t pb_y1, double gain_a, double gain_b, bool flip,
                     double gain, double slope) {
  const Tensor z = computable(input);
  const Axis uy = axis(z.size(2), up, 1, pa_y0, pa_y1, fa.size(0));
  const Axis ux = axis(z.size(3), up, 1, pa_x0, pa_x1, fa.size(-1));
  const Axis axes[4] = {uy, ux, axis(uy.out, 1, down, pb_y0, pb_y1, fb.size(0)),
                        axis(ux.out, 1, down, pb_x0, pb_x1, fb.size(-1))};
  const int64_t phases = std::lcm(up, down);
  TORCH_CHECK(mask.is_contiguous() && mask.size(2) == uy.out &&
                  mask.size(4) == phases * round_up(ceil_div(ux.out, phases), kBlock) / 8 &&
                  mask.size(0) * mask.size(1) == z.size(0) * z.size(1),
              "the mask is not of this picture");
  Tensor y = fresh({z.size(0), z.size(1), axes[2].out, axes[3].out}, z.options());
  if (y.numel() > 0) by_type(z, [&](auto zero) {
      using T = decltype(zero);
      Bend<T> bend{static_cast<T>(gain), static_cast<T>(gain * slope), T(0)};
      bend.read = mask.const_data_ptr<uint8_t>();
      run<T>(z, Tensor(), y, axes, filter<T>(fa, flip, gain_a), filter<T>(fb, flip, gain_b), up, down, bend);
    });
  return y.to(input.scalar_type());
}

}  // namespace ops
