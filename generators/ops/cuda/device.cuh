// How a kernel is written here, and how it is run.
//
// A kernel is a struct with Params (plain data), Number (the type it computes and shares memory in), `locate`
// (what all threads know about a tile) and phases: between two phases all threads of a block meet. A phase keeps
// nothing in registers for the next one, so a CPU can run phase after phase, thread after thread: the tests
// compile these very sources with a C++ compiler and a header that does so.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

#include "geometry.h"
#include "launch.h"

constexpr int WIDTH = 32, HEIGHT = 8;  // threads of a block: a warp along x

struct Thread {
    int x, y;
};

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

template <class Kernel>
__global__ void __launch_bounds__(WIDTH * HEIGHT) run(const typename Kernel::Params p) {
    extern __shared__ double shared_memory[];
    auto* shared = reinterpret_cast<typename Kernel::Number*>(shared_memory);
    const Thread thread = {(int)threadIdx.x, (int)threadIdx.y};
    for (int64_t index = blockIdx.x; index < p.tiles; index += gridDim.x) {
        const auto tile = Kernel::locate(p, index);
#pragma unroll
        for (int phase = 0; phase < Kernel::phases; ++phase) {
            Kernel::phase(phase, p, tile, shared, thread);
            if (Kernel::phases > 1) __syncthreads();
        }
    }
}

// Makes a device current while it lives. This library has its own copy of the CUDA runtime, which must not rely
// on what torch's copy was told.
class OnDevice {
public:
    explicit OnDevice(int device) {
        cudaGetDevice(&before_);
        if (device != before_) cudaSetDevice(device);
        device_ = device;
    }
    ~OnDevice() {
        if (device_ != before_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;

private:
    int before_ = 0, device_ = 0;
};

// Bytes a block may use: half of a multiprocessor's, so that one block loads while another one computes.
inline size_t shared_limit(Place place) {
    int most = 0, all = 0;
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, place.device);
    cudaDeviceGetAttribute(&all, cudaDevAttrMaxSharedMemoryPerMultiprocessor, place.device);
    return (size_t)std::max(std::min(most, all / 2 - 1024), std::min(most, 48 * 1024));
}

template <class Kernel>
const char* launch(const typename Kernel::Params& p, size_t shared, Place place) {
    if (p.tiles == 0) return nullptr;
    const OnDevice guard(place.device);
    if (shared > 48 * 1024) {  // more is given on demand only; the same to all, or a thread could take another's
        const auto more = cudaFuncAttributeMaxDynamicSharedMemorySize;
        const cudaError_t error = cudaFuncSetAttribute(run<Kernel>, more, (int)shared_limit(place));
        if (error != cudaSuccess) {
            (void)cudaGetLastError();  // or the next launch would tell it again
            return cudaGetErrorString(error);
        }
    }
    const unsigned blocks = (unsigned)std::min<int64_t>(p.tiles, 0x7fffffff);
    run<Kernel><<<blocks, dim3(WIDTH, HEIGHT), shared, (cudaStream_t)place.stream>>>(p);
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#else
#include "cuda_on_cpu.h"
#endif

// Arithmetic is in float32, in float64 for float64.
template <class T>
struct Arithmetic {
    using type = float;
};
template <>
struct Arithmetic<double> {
    using type = double;
};
template <class T>
using arithmetic = typename Arithmetic<T>::type;
template <class T>
constexpr bool is_double = std::is_same<T, double>::value;  // compiled once, for tests, without special cases

HD float number(float value) { return value; }
HD double number(double value) { return value; }
HD float number(__half value) { return __half2float(value); }
HD float number(__nv_bfloat16 value) { return __bfloat162float(value); }

HD void put(float* place, float value) { *place = value; }
HD void put(double* place, double value) { *place = value; }
HD void put(__half* place, float value) { *place = __float2half_rn(value); }
HD void put(__nv_bfloat16* place, float value) { *place = __float2bfloat16_rn(value); }

template <class T>
HD arithmetic<T> get(const void* values, int64_t index) {
    return number(static_cast<const T*>(values)[index]);
}

// Calls `action` with a value of the type that `dtype` names.
template <class Action>
const char* with_type(Dtype dtype, Action action) {
    switch (dtype) {
        case Dtype::float32: return action(float{});
        case Dtype::float16: return action(__half{});
        case Dtype::bfloat16: return action(__nv_bfloat16{});
        case Dtype::float64: return action(double{});
    }
    return "unknown dtype";
}

// The largest tile, of at most 32 x 32 and at least 8 x 8 outputs, for which `bytes(h, w)` is within the limit.
template <class Bytes>
bool fit_tile(int out_h, int out_w, size_t limit, int* tile_h, int* tile_w, Bytes bytes) {
    int h = 32, w = 32;
    while (h > 8 && h / 2 >= out_h) h /= 2;
    while (w > 8 && w / 2 >= out_w) w /= 2;
    while (bytes(h, w) > limit) {
        if (h == 8 && w == 8) return false;
        (h >= w ? h : w) /= 2;
    }
    *tile_h = h, *tile_w = w;
    return true;
}
