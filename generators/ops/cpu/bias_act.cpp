// bias_act with its first and second derivative: one pass over memory each.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define CPU_CAPABILITY AVX512
#define CPU_CAPABILITY_AVX512
#elif defined(__AVX2__) && defined(__FMA__)
#define CPU_CAPABILITY AVX2
#define CPU_CAPABILITY_AVX2
#else
#define CPU_CAPABILITY DEFAULT
#define CPU_CAPABILITY_DEFAULT
#endif

#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>

#include <limits>

#include "kernels.h"
#include "tensors.h"

namespace ops {
namespace {

template <class T>
using Vec = at::vec::Vectorized<T>;

template <class V>
inline V select(const V& condition, const V& yes, const V& no) {
  return V::blendv(no, yes, condition);
}

template <class V>
inline V sigmoid(const V& u) {
  return V(1) / (V(1) + u.neg().exp());
}

// Every activation with its two derivatives; at a kink the slope is the one of the left side,
// the bend the one of the right side (as in torch).
struct Linear {
  template <class V> static V value(const V& u, const V&) { return u; }
  template <class V> static V slope(const V&, const V&) { return V(1); }
  template <class V> static V bend(const V&, const V&) { return V(0); }
};
struct Relu {
  template <class V> static V value(const V& u, const V&) { return at::vec::maximum(u, V(0)); }
  template <class V> static V slope(const V& u, const V&) { return select(u > V(0), V(1), V(0)); }
  template <class V> static V bend(const V&, const V&) { return V(0); }
};
struct Lrelu {
  template <class V> static V value(const V& u, const V& alpha) { return select(u > V(0), u, u * alpha); }
  template <class V> static V slope(const V& u, const V& alpha) { return select(u > V(0), V(1), alpha); }
  template <class V> static V bend(const V&, const V&) { return V(0); }
};
struct Tanh {
  template <class V> static V value(const V& u, const V&) { return u.tanh(); }
  template <class V> static V slope(const V& u, const V&) {
    const V t = u.tanh();
    return V(1) - t * t;
  }
  template <class V> static V bend(const V& u, const V&) {
    const V t = u.tanh();
    return V(-2) * t * (V(1) - t * t);
  }
};
struct Sigmoid {
  template <class V> static V value(const V& u, const V&) { return sigmoid(u); }
  template <class V> static V slope(const V& u, const V&) {
    const V s = sigmoid(u);
    return s * (V(1) - s);
  }
  template <class V> static V bend(const V& u, const V&) {
    const V s = sigmoid(u);
    return s * (V(1) - s) * (V(1) - s - s);
  }
};
struct Elu {
  template <class V> static V value(const V& u, const V&) { return select(u > V(0), u, u.expm1()); }
  template <class V> static V slope(const V& u, const V&) { return select(u > V(0), V(1), u.exp()); }
  template <class V> static V bend(const V& u, const V&) { return select(u < V(0), u.exp(), V(0)); }
};
// Klambauer et al. 2017, "Self-Normalizing Neural Networks", equation 2.
struct Selu {
  static constexpr double kScale = 1.0507009873554804934193349852946, kAlpha = 1.6732632423543772848170429916717;
  template <class V> static V value(const V& u, const V&) {
    return V(kScale) * select(u > V(0), u, V(kAlpha) * u.expm1());
  }
  template <class V> static V slope(const V& u, const V&) {
    return select(u > V(0), V(kScale), V(kScale * kAlpha) * u.exp());
  }
  template <class V> static V bend(const V& u, const V&) {
    return select(u < V(0), V(kScale * kAlpha) * u.exp(), V(0));
  }
};
struct Softplus {
  template <class V> static V value(const V& u, const V&) { return select(u > V(20), u, u.exp().log1p()); }
  template <class V> static V slope(const V& u, const V&) { return select(u > V(20), V(1), sigmoid(u)); }
  template <class V> static V bend(const V& u, const V&) {
    const V s = sigmoid(u);
    return select(u > V(20), V(0), s * (V(1) - s));
  }
};
struct Swish {
  template <class V> static V value(const V& u, const V&) { return u * sigmoid(u); }
  template <class V> static V slope(const V& u, const V&) {
    const V s = sigmoid(u);
    return s * (V(1) + u * (V(1) - s));
  }
  template <class V> static V bend(const V& u, const V&) {
    const V s = sigmoid(u);
    return s * (V(1) - s) * (V(2) + u * (V(1) - s - s));
  }
};

template <class Run>
void by_activation(int64_t act, const Run& run) {
  switch (act) {
    case 0: return run(Linear());
    case 1: return run(Relu());
    case 2: return run(Lrelu());
    case 3: return run(Tanh());
    case 4: return run(Sigmoid());
    case 5: return run(Elu());
    case 6: return run(Selu());
    case 7: return run(Softplus());
    case 8: return run(Swish());
    default: TORCH_CHECK(false, "there is no activation number ", act);
  }
}

template <class T>
struct Constants {
  Vec<T> alpha, gain, clamp, minus;
  bool clamped;
};

template <class A, int order, class T>
inline Vec<T> evaluate(const Vec<T>& u, const Vec<T>& factor, const Constants<T>& c) {
  if constexpr (order == 0) {
    const Vec<T> v = A::value(u, c.alpha) * c.gain;
    return c.clamped ? select(v > c.clamp, c.clamp, select(v < c.minus, c.minus, v)) : v;
  } else {
    const Vec<T> d = factor * c.gain * (order == 1 ? A::slope(u, c.alpha) : A::bend(u, c.alpha));
    if (!c.clamped) return d;
    const Vec<T> v = A::value(u, c.alpha) * c.gain;
    return select((v >= c.minus) & (v <= c.clamp), d, Vec<T>(0));
  }
}

// A run of `n` numbers; the bias is one for all, or one each if `biases` is given.
template <class A, int order, class T>
void run(const T* x, const T* biases, T bias, const T* dy, const T* dz, T* out, int64_t n, const Constants<T>& c) {
  constexpr int64_t L = Vec<T>::size();
  for (int64_t i = 0; i < n; i += L) {
    const int64_t count = std::min(L, n - i);
    const auto get = [&](const T* p) { return count == L ? Vec<T>::loadu(p + i) : Vec<T>::loadu(p + i, count); };
    const Vec<T> u = get(x) + (biases ? get(biases) : Vec<T>(bias));
    Vec<T> factor(1);
    if constexpr (order >= 1) factor = get(dy);
    if constexpr (order == 2) factor = factor * get(dz);
    const Vec<T> y = evaluate<A, order, T>(u, factor, c);
    count == L ? y.store(out + i) : y.store(out + i, static_cast<int>(count));
  }
}

// Short runs of one bias each are joined into rows with a bias per number.
Tensor rows_of_bias(const Tensor& b, int64_t inner) {
  return b.unsqueeze(1).expand({b.size(0), inner}).contiguous().view({-1});
}

template <int order>
Tensor apply(const Tensor* dz_in, const Tensor* dy_in, const Tensor& input, const OptionalTensor& b, int64_t dim,
             int64_t act, double alpha, double gain, double clamp) {
  const Tensor x = computable(input);
  const Tensor dy = dy_in ? computable(dy_in->to(input.scalar_type())) : Tensor();
  const Tensor dz = dz_in ? computable(dz_in->to(input.scalar_type())) : Tensor();
  Tensor out = fresh(x.sizes(), x.options());
  int64_t inner = x.numel();
  Tensor bias;
  bool joined = false;
  if (b.has_value() && x.numel() > 0) {
    inner = 1;
    for (int64_t i = x.dim() - 1; i > (dim + x.dim()) % x.dim(); --i) inner *= x.size(i);
    bias = b->to(x.scalar_type()).contiguous();
    joined = inner < 64;
    if (joined) bias = rows_of_bias(bias, inner), inner = bias.numel();
  }
  if (x.numel() > 0) by_type(x, [&](auto zero) {
      using T = decltype(zero);
      const T limit = static_cast<T>(clamp);
      const Constants<T> c{Vec<T>(static_cast<T>(alpha)), Vec<T>(static_cast<T>(gain)), Vec<T>(limit), Vec<T>(-limit),
                           clamp >= 0};
      const T* px = x.const_data_ptr<T>();
      const T* pb = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
      const T* pdy = dy.defined() ? dy.const_data_ptr<T>() : nullptr;
      const T* pdz = dz.defined() ? dz.const_data_ptr<T>() : nullptr;
      T* po = out.mutable_data_ptr<T>();
      // Without a bias the whole tensor is one row; cut it, so that threads can share it.
      const int64_t length = pb ? inner : std::min<int64_t>(inner, 1 << 14);
      const int64_t rows = (x.numel() + length - 1) / length, channels = pb && !joined ? bias.numel() : 1;
      by_activation(act, [&](auto activation) {
        using A = decltype(activation);
        at::parallel_for(0, rows, std::max<int64_t>(1, (1 << 15) / length), [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            const int64_t at = row * length, n = std::min(length, x.numel() - at);
            run<A, order, T>(px + at, joined ? pb : nullptr, pb && !joined ? pb[row % channels] : T(0),
                             pdy ? pdy + at : nullptr, pdz ? pdz + at : nullptr, po + at, n, c);
          }
        });
      });
    });
  return out.to(input.scalar_type());
}

}  // namespace

Tensor bias_act(const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act, double alpha, double gain,
                double clamp) {
  return apply<0>(nullptr, nullptr, x, b, dim, act, alpha, gain, clamp);
}

Tensor bias_act_grad(const Tensor& dy, const Tensor& x, const OptionalTensor& b, int64_t dim, int64_t act,
                     double alpha, double gain, double clamp) {
  return apply<1>(nullptr, &dy, x, b, dim, act, alpha, gain, clamp);
}

Tensor bias_act_grad2(const Tensor& dz, const Tensor& dy, const Tensor& x, const OptionalTensor& b, int64_t dim,
                      int64_t act, double alpha, double gain, double clamp) {
  return apply<2>(&dz, &dy, x, b, dim, act, alpha, gain, clamp);
}

}  // namespace ops
