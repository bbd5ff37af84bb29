// Vectors through the compiler's vector extension: one source for AVX-512, AVX, NEON and SSE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#define OPS_VECTOR_BYTES 64
#elif defined(__AVX__)
#define OPS_VECTOR_BYTES 32
#else
#define OPS_VECTOR_BYTES 16
#endif

namespace ops {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(OPS_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(OPS_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(OPS_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(OPS_VECTOR_BYTES)));
};

template <class T>
constexpr ptrdiff_t lanes() {
  return OPS_VECTOR_BYTES / static_cast<ptrdiff_t>(sizeof(T));
}

// Rows of scratch are a multiple of this long, so that sixteen bits of a mask are always whole vectors.
constexpr ptrdiff_t kBlock = 16;

inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t to) { return (n + to - 1) / to * to; }

inline ptrdiff_t floor_div(ptrdiff_t a, ptrdiff_t b) {
  ptrdiff_t q = a / b;
  return q * b > a ? q - 1 : q;
}

inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) { return -floor_div(-a, b); }

template <class T>
inline typename Simd<T>::V load(const T* p) {
  typename Simd<T>::V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
inline void store(T* p, typename Simd<T>::V v) {
  std::memcpy(p, &v, sizeof v);
}

// Lane i of the result is true where bit i of `bits` is set.
template <class T>
inline typename Simd<T>::I spread(uint32_t bits) {
  typename Simd<T>::I lane;
  for (ptrdiff_t i = 0; i < lanes<T>(); ++i) lane[i] = 1 << i;
  return (lane & bits) != 0;
}

// Bit i of the result is lane i of a comparison.
template <class T>
inline uint32_t gather(typename Simd<T>::I truth) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(T) == 4) return _mm512_movepi32_mask((__m512i)truth);
  if constexpr (sizeof(T) == 8) return _mm512_movepi64_mask((__m512i)truth);
#else
  uint32_t bits = 0;
  for (ptrdiff_t i = 0; i < lanes<T>(); ++i) bits |= (truth[i] & 1u) << i;
  return bits;
#endif
}

// dst[2 j] = even[j], dst[2 j + 1] = odd[j].
template <class T>
inline void interleave2(const T* even, const T* odd, T* dst, ptrdiff_t n) {
  ptrdiff_t j = 0;
#if defined(__GNUC__) && !defined(__clang__)
  constexpr ptrdiff_t L = lanes<T>();
  typename Simd<T>::I low, high;
  for (ptrdiff_t i = 0; i < L; ++i) {
    low[i] = i / 2 + (i % 2) * L;
    high[i] = L / 2 + i / 2 + (i % 2) * L;
  }
  for (; j + L <= n; j += L) {
    const auto a = load(even + j), b = load(odd + j);
    store(dst + 2 * j, __builtin_shuffle(a, b, low));
    store(dst + 2 * j + L, __builtin_shuffle(a, b, high));
  }
#endif
  for (; j < n; ++j) {
    dst[2 * j] = even[j];
    dst[2 * j + 1] = odd[j];
  }
}

// even[j] = src[2 j], odd[j] = src[2 j + 1], for n pairs.
template <class T>
inline void deinterleave2(const T* src, T* even, T* odd, ptrdiff_t n) {
  ptrdiff_t j = 0;
#if defined(__GNUC__) && !defined(__clang__)
  constexpr ptrdiff_t L = lanes<T>();
  typename Simd<T>::I first, second;
  for (ptrdiff_t i = 0; i < L; ++i) {
    first[i] = 2 * i;
    second[i] = 2 * i + 1;
  }
  for (; j + L <= n; j += L) {
    const auto a = load(src + 2 * j), b = load(src + 2 * j + L);
    store(even + j, __builtin_shuffle(a, b, first));
    store(odd + j, __builtin_shuffle(a, b, second));
  }
#endif
  for (; j < n; ++j) {
    even[j] = src[2 * j];
    odd[j] = src[2 * j + 1];
  }
}

// N vectors of sum_i weight[i] * (base + offset[i])[...]: the one inner loop of all filters. S sums run side by
// side over the taps, so that short rows do not wait for the latency of one chain of additions.
template <class T, int N, int S>
inline __attribute__((always_inline)) void weighted_tile(const T* base, const ptrdiff_t* offset, const T* weight,
                                                         int n, T* dst) {
  constexpr ptrdiff_t L = lanes<T>();
  typename Simd<T>::V sum[N * S];
  for (int t = 0; t < N * S; ++t) sum[t] = typename Simd<T>::V{};
  int i = 0;
  for (; i + S <= n; i += S)
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s)
#pragma GCC unroll 12
      for (int t = 0; t < N; ++t) sum[s * N + t] += weight[i + s] * load(base + offset[i + s] + t * L);
  for (; i < n; ++i)
#pragma GCC unroll 12
    for (int t = 0; t < N; ++t) sum[t] += weight[i] * load(base + offset[i] + t * L);
#pragma GCC unroll 12
  for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
    for (int s = 1; s < S; ++s) sum[t] += sum[s * N + t];
    store(dst + t * L, sum[t]);
  }
}

// Rows of output, and where the runs of each are counted from: step apart.
template <class T>
struct Rows {
  const T* base;
  ptrdiff_t step;
  T* const* dst;
  ptrdiff_t count;
};

template <class T, int N, int S>
inline void weighted_column(const Rows<T>& rows, const ptrdiff_t* offset, const T* weight, int n, ptrdiff_t j) {
  for (ptrdiff_t r = 0; r < rows.count; ++r)
    weighted_tile<T, N, S>(rows.base + r * rows.step + j, offset, weight, n, rows.dst[r] + j);
}

// dst[r][j] = sum_i weight[i] * base[r * step + offset[i] + j] for j < count, a multiple of the vector length.
template <class T>
inline void weighted_sum(const Rows<T>& rows, const ptrdiff_t* offset, const T* weight, int n, ptrdiff_t count) {
  constexpr ptrdiff_t L = lanes<T>();
  ptrdiff_t vectors = count / L, j = 0;
  while (vectors > 0) {
    // Even tiles: nine vectors are five and four, not eight and a lonely one.
    const ptrdiff_t tile = vectors <= 8 ? vectors : vectors < 16 ? (vectors + 1) / 2 : 8;
    switch (tile) {
      case 8: weighted_column<T, 8, 1>(rows, offset, weight, n, j); break;
      case 7: weighted_column<T, 7, 1>(rows, offset, weight, n, j); break;
      case 6: weighted_column<T, 6, 1>(rows, offset, weight, n, j); break;
      case 5: weighted_column<T, 5, 1>(rows, offset, weight, n, j); break;
      case 4: weighted_column<T, 4, 2>(rows, offset, weight, n, j); break;
      case 3: weighted_column<T, 3, 2>(rows, offset, weight, n, j); break;
      case 2: weighted_column<T, 2, 4>(rows, offset, weight, n, j); break;
      default: weighted_column<T, 1, 4>(rows, offset, weight, n, j); break;
    }
    vectors -= tile;
    j += tile * L;
  }
}

// dst[j] = a[j] + b[j] for j < count, a multiple of the vector length.
template <class T>
inline void add(const T* a, const T* b, T* dst, ptrdiff_t count) {
  constexpr ptrdiff_t L = lanes<T>();
  for (ptrdiff_t j = 0; j < count; j += L) store(dst + j, load(a + j) + load(b + j));
}

}  // namespace ops
