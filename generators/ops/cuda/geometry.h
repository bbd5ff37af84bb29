// Index arithmetic of resampling; plain C++ that host and device share, so that tests run it without a GPU.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
#endif

// Upsampling inserts up - 1 zeros after every sample, so of the taps over an upsampled position t only every
// up-th meets a sample (polyphase). Positions t, t + 1, ... of a tile are counted from the first one:
// with u = offset + shift, the first sample is `input` + u / up and its tap up - 1 - u % up. Nothing is
// negative there, and division by a power of two known at compile time is a shift.
struct Start {
    int input;  // first sample at or after t
    int shift;  // 0 .. up - 1
};

HD int ceil_div(int a, int b) { return a / b + (a % b > 0); }  // b > 0; a may be negative

HD Start start_at(int t, int up) {
    const int input = ceil_div(t, up);
    return {input, up - 1 - (input * up - t)};
}

// Samples that `count` positions `step` apart can meet, wherever they start.
HD int samples_for(int count, int step, int taps, int up) { return ((count - 1) * step + taps - 1) / up + 1; }

// Positions of a filter in correlation form; without flip the operation is a convolution.
HD int tap_of(int k, int taps, bool flip) { return flip ? k : taps - 1 - k; }

// Tiles: outputs are cut into rectangles; `index` counts those of all planes.
struct Tile {
    int64_t plane;
    int y, x;  // first output
};

HD Tile tile_at(int64_t index, int tiles_y, int tiles_x, int tile_h, int tile_w) {
    const int64_t per_plane = (int64_t)tiles_y * tiles_x;
    const int64_t plane = index / per_plane;
    const int rest = (int)(index - plane * per_plane);
    return {plane, rest / tiles_x * tile_h, rest % tiles_x * tile_w};
}
