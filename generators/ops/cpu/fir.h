// Polyphase filtering, row by row: one stage of upsampling, filtering and downsampling.
//
// A row with S phases keeps its column c at phase c % S, index c / S, each phase contiguous and surrounded by
// zeros. With S chosen so that the columns an output phase reads move by one index per output, every filter is
// a weighted sum of shifted contiguous runs, zeros that were never inserted are never multiplied, and rows
// between two stages need no shuffling. Vertical passes are weighted sums of rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "simd.h"

namespace ops {

// Zeroed memory on a cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(ptrdiff_t count) {
    const size_t bytes = static_cast<size_t>(round_up(std::max<ptrdiff_t>(count, 1) * sizeof(T), 64));
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_.get(), 0, bytes);
  }
  T* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
};

// A band of rows stays in the first-level cache.
constexpr ptrdiff_t kBandRows = 8, kBandNumbers = 1600;

constexpr double kRounding = 1.5e-7;  // of float32 filters, relative to the largest tap

// One axis of a stage: `size` samples in, `out` samples out, padding before the first sample.
struct Axis {
  ptrdiff_t size, out, up, down, pad;
};

// Taps in correlation order with the gain in them: rows x columns, or one column and one row if separable.
template <class T>
struct Filter {
  bool separable;
  std::vector<T> y, x;   // separable
  std::vector<T> plane;  // otherwise, (rows columns)
  ptrdiff_t rows, columns;

  Filter(const float* taps, int dims, ptrdiff_t rows_, ptrdiff_t columns_, bool flip, double gain)
      : separable(dims == 1), rows(rows_), columns(columns_) {
    const float scale = static_cast<float>(dims == 1 ? std::sqrt(gain) : gain);
    const ptrdiff_t count = dims == 1 ? columns : rows * columns;
    std::vector<T> w(count);
    for (ptrdiff_t i = 0; i < count; ++i) w[i] = static_cast<T>(taps[flip ? i : count - 1 - i] * scale);
    if (separable) {
      y = x = w;
    } else {
      plane = w;
      if (sizeof(T) == sizeof(float)) factor();
    }
  }

  // Is the plane an outer product, to the rounding of float32? Then two short passes do.
  void factor() {
    ptrdiff_t top = 0;
    for (ptrdiff_t i = 0; i < rows * columns; ++i)
      if (std::abs(plane[i]) > std::abs(plane[top])) top = i;
    const double peak = plane[top];
    if (!std::isfinite(peak) || peak == 0 || (rows == 1 && columns == 1)) return;
    const ptrdiff_t row = top / columns, column = top % columns;
    for (ptrdiff_t i = 0; i < rows; ++i)
      for (ptrdiff_t j = 0; j < columns; ++j) {
        const double product = static_cast<double>(plane[i * columns + column]) * plane[row * columns + j] / peak;
        if (!(std::abs(product - plane[i * columns + j]) <= kRounding * std::abs(peak))) return;
      }
    for (ptrdiff_t i = 0; i < rows; ++i) y.push_back(plane[i * columns + column]);
    for (ptrdiff_t j = 0; j < columns; ++j) x.push_back(static_cast<T>(plane[row * columns + j] / peak));
    separable = true;
  }

  // Rows equal from both ends, to rounding: they can be added before they are multiplied.
  bool mirrored() const {
    T peak = 0;
    for (T w : plane) peak = std::max(peak, std::abs(w));
    for (ptrdiff_t i = 0; i < rows / 2; ++i)
      for (ptrdiff_t j = 0; j < columns; ++j) {
        const T difference = plane[i * columns + j] - plane[(rows - 1 - i) * columns + j];
        if (!(std::abs(difference) <= T(kRounding) * peak)) return false;
      }
    return true;
  }
};

// The weighted, shifted runs one output phase is made of.
template <class T>
struct Runs {
  std::vector<ptrdiff_t> offset;
  std::vector<T> weight;
  int size() const { return static_cast<int>(offset.size()); }
};

// What a stage reads: rows of `phases` runs of `pitch` numbers, the first sample of each at `base`.
struct Layout {
  ptrdiff_t phases, pitch, base;
  ptrdiff_t stride() const { return phases * pitch; }
};

// The last rows a stage needs, made on demand in order, `produce(begin, end)`; slot `capacity` is zeros.
template <class T>
class Ring {
 public:
  Ring(ptrdiff_t rows, ptrdiff_t stride) : stride_(stride), buffer_((power_of_two(rows) + 1) * stride) {
    capacity_ = power_of_two(rows);
  }
  void restart() { next_ = 0; }
  template <class Produce>
  void need(ptrdiff_t low, ptrdiff_t high, const Produce& produce) {
    next_ = std::max(next_, low);
    if (next_ > high) return;
    produce(next_, high + 1);
    next_ = high + 1;
  }
  T* at(ptrdiff_t row) { return buffer_.get() + slot(row); }
  ptrdiff_t slot(ptrdiff_t row) const { return (row & (capacity_ - 1)) * stride_; }
  ptrdiff_t zeros() const { return capacity_ * stride_; }
  const T* get() const { return buffer_.get(); }

 private:
  static ptrdiff_t power_of_two(ptrdiff_t n) {
    ptrdiff_t p = 1;
    while (p < n) p *= 2;
    return p;
  }
  ptrdiff_t capacity_, stride_, next_ = 0;
  Buffer<T> buffer_;
};

template <class T>
class Stage {
 public:
  // Scratch of one thread.
  struct Work {
    explicit Work(const Stage& s)
        : ring(s.window_, s.in.stride()), rows(s.in.stride() * s.folded_rows_ * s.band) {
      runs.offset.resize(s.filter_.rows * s.filter_.columns);
      runs.weight.resize(s.filter_.rows * s.filter_.columns);
    }
    Ring<T> ring;
    Buffer<T> rows;
    Runs<T> runs;
  };

  Axis y, x;
  ptrdiff_t out_phases, width;  // width of an output phase, rounded up
  ptrdiff_t band;               // rows made together: what was just stored is not read at once with a shift
  Layout in;

  Stage(Axis y_, Axis x_, Filter<T> filter, ptrdiff_t out_phases_)
      : y(y_), x(x_), out_phases(out_phases_), filter_(std::move(filter)) {
    width = round_up(ceil_div(x.out, out_phases), kBlock);
    in.phases = out_phases * x.down / x.up;
    fold_ = !filter_.separable && y.up == 1 && filter_.rows > 1 && filter_.mirrored();
    folded_rows_ = fold_ ? (filter_.rows + 1) / 2 : 1;
    arrange();
    band = std::clamp<ptrdiff_t>(kBandNumbers / (in.stride() * folded_rows_), 1, kBandRows);
    window_ = ceil_div((band - 1) * y.down + filter_.rows, y.up) + 1;
    for (ptrdiff_t phase = 0; phase < out_phases; ++phase) columns_.push_back(column_runs(phase));
    for (ptrdiff_t row = 0; row < y.out; ++row) {
      first_.push_back(std::max<ptrdiff_t>(0, ceil_div(start(row), y.up)));
      last_.push_back(std::min(y.size - 1, floor_div(start(row) + filter_.rows - 1, y.up)));
    }
  }

  ptrdiff_t count(ptrdiff_t phase) const { return ceil_div(x.out - phase, out_phases); }

  // Output rows [begin, end), at most `band`; phase r of row i at target(i) + r * pitch.
  // `produce(begin, end)` makes input rows in the ring.
  template <class Produce, class Target>
  void run(ptrdiff_t begin, ptrdiff_t end, Work& work, const Produce& produce, const Target& target,
           ptrdiff_t pitch) const {
    work.ring.need(first_[begin], last_[end - 1], produce);
    for (ptrdiff_t i = begin; i < end; ++i) {
      T* rows = work.rows.get() + (i - begin) * folded_rows_ * in.stride();
      if (filter_.separable) combine(i, work, rows);
      if (fold_) fold(i, work, rows);
    }
    for (ptrdiff_t phase = 0; phase < out_phases; ++phase) {
      T* dst[kBandRows];
      for (ptrdiff_t i = begin; i < end; ++i) dst[i - begin] = target(i) + phase * pitch;
      if (filter_.separable || fold_) {
        const Runs<T>& runs = columns_[phase];
        const Rows<T> rows{work.rows.get(), folded_rows_ * in.stride(), dst, end - begin};
        weighted_sum(rows, runs.offset.data(), runs.weight.data(), runs.size(), width);
      } else {
        for (ptrdiff_t i = begin; i < end; ++i) planar(i, phase, work, dst[i - begin]);
      }
    }
  }

 private:
  Filter<T> filter_;
  ptrdiff_t window_, folded_rows_;
  bool fold_;
  // Separable: of the combined row. Folded: of all folded rows. Planar: one row of taps after the other.
  std::vector<Runs<T>> columns_;
  std::vector<ptrdiff_t> first_, last_;       // the rows of the source that an output row needs
  std::vector<std::vector<ptrdiff_t>> taps_;  // planar: which column of the filter each run is

  // Source index of tap k for the first output of a phase, if a sample lies there: phase and shift.
  bool locate(ptrdiff_t phase, ptrdiff_t k, ptrdiff_t* source_phase, ptrdiff_t* shift) const {
    const ptrdiff_t position = phase * x.down + k - x.pad;
    const ptrdiff_t index = floor_div(position, x.up);
    if (index * x.up != position) return false;
    *shift = floor_div(index, in.phases);
    *source_phase = index - *shift * in.phases;
    return true;
  }

  void arrange() {
    ptrdiff_t least = 0, most = 0, q, shift;
    for (ptrdiff_t phase = 0; phase < out_phases; ++phase)
      for (ptrdiff_t k = 0; k < filter_.columns; ++k)
        if (locate(phase, k, &q, &shift)) {
          least = std::min(least, shift);
          most = std::max(most, shift);
        }
    in.base = -least;
    in.pitch = in.base + std::max(round_up(ceil_div(x.size, in.phases), kBlock), width + most);
    in.pitch = round_up(in.pitch, kBlock);
  }

  Runs<T> column_runs(ptrdiff_t phase) {
    Runs<T> runs;
    std::vector<ptrdiff_t> taps;
    ptrdiff_t q, shift;
    for (ptrdiff_t i = 0; i < folded_rows_; ++i)
      for (ptrdiff_t k = 0; k < filter_.columns; ++k)
        if (locate(phase, k, &q, &shift)) {
          runs.offset.push_back(i * in.stride() + q * in.pitch + in.base + shift);
          runs.weight.push_back(filter_.separable ? filter_.x[k] : filter_.plane[i * filter_.columns + k]);
          taps.push_back(k);
        }
    taps_.push_back(taps);
    return runs;
  }

  void sum(const Work& work, int n, T* dst, ptrdiff_t count) const {
    weighted_sum(Rows<T>{work.ring.get(), 0, &dst, 1}, work.runs.offset.data(), work.runs.weight.data(), n, count);
  }

  ptrdiff_t start(ptrdiff_t row) const { return row * y.down - y.pad; }

  void combine(ptrdiff_t row, Work& work, T* dst) const {
    int n = 0;
    for (ptrdiff_t i = first_[row]; i <= last_[row]; ++i, ++n) {
      work.runs.offset[n] = work.ring.slot(i);
      work.runs.weight[n] = filter_.y[i * y.up - start(row)];
    }
    sum(work, n, dst, in.stride());
  }

  void fold(ptrdiff_t row, Work& work, T* dst) const {
    const auto source = [&](ptrdiff_t i) {
      return work.ring.get() + (i < 0 || i >= y.size ? work.ring.zeros() : work.ring.slot(i));
    };
    for (ptrdiff_t k = 0; k < folded_rows_; ++k) {
      const ptrdiff_t first = start(row) + k, last = start(row) + filter_.rows - 1 - k;
      add(source(first), first == last ? work.ring.get() + work.ring.zeros() : source(last), dst + k * in.stride(),
          in.stride());
    }
  }

  void planar(ptrdiff_t row, ptrdiff_t phase, Work& work, T* dst) const {
    const std::vector<ptrdiff_t>& taps = taps_[phase];
    int n = 0;
    for (ptrdiff_t i = first_[row]; i <= last_[row]; ++i)
      for (size_t k = 0; k < taps.size(); ++k, ++n) {
        work.runs.offset[n] = work.ring.slot(i) + columns_[phase].offset[k];
        work.runs.weight[n] = filter_.plane[(i * y.up - start(row)) * filter_.columns + taps[k]];
      }
    sum(work, n, dst, width);
  }
};

// A row of a picture into the phases a stage reads.
template <class T>
inline void split_row(const T* src, ptrdiff_t size, T bias, const Layout& in, T* dst) {
  const ptrdiff_t phases = in.phases;
  dst += in.base;
  if (phases == 1) {
    for (ptrdiff_t i = 0; i < size; ++i) dst[i] = src[i] + bias;
    return;
  }
  if (phases == 2 && bias == T(0)) {
    deinterleave2(src, dst, dst + in.pitch, size / 2);
    if (size % 2) dst[size / 2] = src[size - 1];
    return;
  }
  for (ptrdiff_t q = 0; q < phases; ++q)
    for (ptrdiff_t i = 0; i * phases + q < size; ++i) dst[q * in.pitch + i] = src[i * phases + q] + bias;
}

// The phases of an output row back into a row of a picture.
template <class T>
inline void join_row(const T* src, ptrdiff_t phases, ptrdiff_t pitch, T* dst, ptrdiff_t size) {
  if (phases == 1) {
    std::memcpy(dst, src, size * sizeof(T));
  } else if (phases == 2) {
    interleave2(src, src + pitch, dst, size / 2);
    if (size % 2) dst[size - 1] = src[size / 2];
  } else {
    for (ptrdiff_t r = 0; r < phases; ++r)
      for (ptrdiff_t j = 0; j * phases + r < size; ++j) dst[j * phases + r] = src[r * pitch + j];
  }
}

}  // namespace ops
