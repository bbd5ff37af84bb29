// What the binding asks of the kernels. No torch and no CUDA here: the binding is compiled by the C++ compiler
// against any torch, the kernels by nvcc against none.
#pragma once
#include <cstddef>
#include <cstdint>

enum class Dtype : int { float32, float16, bfloat16, float64 };

// Where to run; every function below returns nullptr, or what went wrong.
struct Place {
    int device;
    void* stream;  // cudaStream_t
};

struct Upfirdn2dParams {
    const void* x;  // (planes in_h in_w)
    const float* f;  // (taps_x) if separable, else (taps_y taps_x)
    const void* bias;  // (channels) or nullptr, added before the zeros
    void* y;  // (planes out_h out_w)
    int64_t planes;
    int channels;
    int in_h, in_w, out_h, out_w;
    int up_x, up_y, down_x, down_y, pad_x, pad_y;
    int taps_x, taps_y;
    bool separable, flip;
    float gain;  // of the stored filter
    // set by the launch
    int tile_h, tile_w, region_h, region_w, tiles_y, tiles_x;
    int64_t tiles;
};

// Whole and in one kernel; *fits says whether a tile fits into shared memory, else nothing was done.
const char* upfirdn2d_tiled(Upfirdn2dParams p, Dtype dtype, Place place, bool* fits);
// Any size, one thread per output; not separable (a 1-D pass is a filter with taps_x or taps_y of 1).
const char* upfirdn2d_direct(Upfirdn2dParams p, Dtype from, Dtype to, Place place);

struct BiasActParams {
    const void *x, *b, *dy, *dz;  // b, dy, dz may be nullptr: the order of the derivative is what is given
    void* y;
    int64_t size, step;  // elements; elements between two of the biased axis
    int channels;
    int act;
    double alpha, gain, clamp;  // clamp < 0 is off
    int64_t tiles;  // set by the launch
};

const char* bias_act(BiasActParams p, Dtype dtype, Place place);

enum class Mask : int { none, write, read };

// upfirdn2d by fa with up, leaky ReLU (or the mask of one), upfirdn2d by fb with down.
struct FilteredParams {
    const void* x;  // (planes in_h in_w)
    const void* bias;  // (channels) or nullptr
    const float *fa, *fb;
    uint8_t* mask;  // (planes mid_h 2 row_bytes): a bit per sample "not positive", then a bit "clamped"
    void* y;  // (planes out_h out_w)
    int64_t planes, row_bytes;
    int channels;
    int in_h, in_w, mid_h, mid_w, out_h, out_w;
    int up, down, pa_x, pa_y, pb_x, pb_y;
    int a_x, a_y, b_x, b_y;  // taps
    bool a_separable, b_separable, flip;
    float gain_a, gain_b;  // of the stored filters
    double gain, slope, clamp;
    Mask mode;
    // set by the launch
    int tile_h, tile_w, region_h, region_w, middle_h, middle_w, tiles_y, tiles_x;
    int at_fb, at_input, at_rows, at_middle, at_flags;  // in shared memory, in numbers
    int64_t tiles;
};

const char* filtered_tiled(FilteredParams p, Dtype dtype, Place place, bool* fits);
// In place on the samples between two resamplings, (planes mid_h mid_w) of float32 or float64.
const char* activate(FilteredParams p, void* middle, Dtype dtype, Place place);
