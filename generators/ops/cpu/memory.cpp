#include "memory.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstdlib>
#include <list>
#include <mutex>
#include <new>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ops {
namespace {

constexpr size_t kPage = size_t(1) << 21, kLarge = size_t(1) << 20;

void* allocate(size_t bytes) {
  void* block = std::aligned_alloc(bytes < kPage ? size_t(4096) : kPage, bytes);
  if (!block) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes >= kPage) (void)madvise(block, bytes, MADV_HUGEPAGE);  // a wish: without large pages all is well
#endif
  return block;
}

// Blocks nobody uses, the one let go last at the end.
class Pool {
 public:
  void* take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      for (auto i = blocks_.rbegin(); i != blocks_.rend(); ++i)
        if (i->first == bytes) {
          void* block = i->second;
          blocks_.erase(std::next(i).base());
          kept_ -= bytes;
          return block;
        }
    }
    return allocate(bytes);
  }

  void give(void* block, size_t bytes) {
    const std::lock_guard<std::mutex> guard(mutex_);
    blocks_.emplace_back(bytes, block);
    kept_ += bytes;
    while (kept_ > kKept) {
      kept_ -= blocks_.front().first;
      std::free(blocks_.front().second);
      blocks_.pop_front();
    }
  }

 private:
  std::mutex mutex_;
  std::list<std::pair<size_t, void*>> blocks_;
  size_t kept_ = 0;
};

// Never destroyed: tensors may outlive every static.
Pool& pool() {
  static Pool* const made = new Pool;
  return *made;
}

}  // namespace

at::Tensor fresh(at::IntArrayRef sizes, const at::TensorOptions& options) {
  size_t bytes = options.dtype().itemsize();
  for (const int64_t n : sizes) bytes *= static_cast<size_t>(n);
  if (bytes < kLarge) return at::empty(sizes, options);
  const size_t step = bytes < kPage ? size_t(4096) : kPage, rounded = (bytes + step - 1) / step * step;
  void* const block = pool().take(rounded);
  return at::from_blob(block, sizes, [rounded](void* p) { pool().give(p, rounded); }, options);
}

}  // namespace ops
