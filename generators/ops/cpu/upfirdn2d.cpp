// upfirdn2d: Karras et al. 2020, appendix B, as one polyphase stage per plane.
#include <ATen/Parallel.h>

#include <numeric>

#include "fir.h"
#include "kernels.h"
#include "tensors.h"

namespace ops {
namespace {

template <class T>
void filter_planes(const Tensor& x, Tensor& y, const Stage<T>& stage) {
  const T* src = x.const_data_ptr<T>();
  T* dst = y.mutable_data_ptr<T>();
  const ptrdiff_t h = stage.y.size, w = stage.x.size, oh = stage.y.out, ow = stage.x.out;
  at::parallel_for(0, x.size(0) * x.size(1), 1, [&](int64_t begin, int64_t end) {
    typename Stage<T>::Work work(stage);
    const ptrdiff_t stride = stage.out_phases * stage.width;
    Buffer<T> rows(stride * stage.band);
    for (int64_t plane = begin; plane < end; ++plane) {
      const T* source = src + plane * h * w;
      T* target = dst + plane * oh * ow;
      work.ring.restart();
      const auto produce = [&](ptrdiff_t i, ptrdiff_t until) {
        for (; i < until; ++i) split_row(source + i * w, w, T(0), stage.in, work.ring.at(i));
      };
      for (ptrdiff_t i = 0; i < oh; i += stage.band) {
        const ptrdiff_t until = std::min(oh, i + stage.band);
        stage.run(i, until, work, produce, [&](ptrdiff_t k) { return rows.get() + (k - i) * stride; }, stage.width);
        for (ptrdiff_t k = i; k < until; ++k)
          join_row(rows.get() + (k - i) * stride, stage.out_phases, stage.width, target + k * ow, ow);
      }
    }
  });
}

}  // namespace

Tensor upfirdn2d(const Tensor& input, const Tensor& f, int64_t upx, int64_t upy, int64_t downx, int64_t downy,
                 int64_t padx0, int64_t padx1, int64_t pady0, int64_t pady1, bool flip, double gain) {
  const Tensor x = computable(input);
  const Axis ay = axis(x.size(2), upy, downy, pady0, pady1, f.size(0));
  const Axis ax = axis(x.size(3), upx, downx, padx0, padx1, f.size(-1));
  Tensor y = fresh({x.size(0), x.size(1), ay.out, ax.out}, x.options());
  if (y.numel() > 0) by_type(x, [&](auto zero) {
      using T = decltype(zero);
      filter_planes(x, y, Stage<T>(ay, ax, filter<T>(f, flip, gain), upx / std::gcd(upx, downx)));
    });
  return y.to(input.scalar_type());
}

}  // namespace ops
