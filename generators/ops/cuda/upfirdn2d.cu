// Upsample, filter, downsample (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", B).
#include "device.cuh"

namespace {

// One tile of outputs: its samples are read once into shared memory; a separable filter then runs along x and
// along y, another one at once. UP and DOWN are of both axes; 0 stands for "as the parameters say".
template <class T, int UP, int DOWN>
struct Tiled {
    using Params = Upfirdn2dParams;
    using Number = arithmetic<T>;
    static constexpr int phases = 3;

    struct Here {
        Tile tile;
        Start y, x;
    };

    static HD int up_x(const Params& p) { return UP ? UP : p.up_x; }
    static HD int up_y(const Params& p) { return UP ? UP : p.up_y; }
    static HD int down_x(const Params& p) { return DOWN ? DOWN : p.down_x; }
    static HD int down_y(const Params& p) { return DOWN ? DOWN : p.down_y; }

    // Shared memory: the filter, the samples, the samples filtered along x.
    static HD int filter_size(const Params& p) { return p.separable ? p.taps_x : p.taps_x * p.taps_y; }
    static HD int at_rows(const Params& p) { return filter_size(p) + p.region_h * p.region_w; }

    static HD Here locate(const Params& p, int64_t index) {
        const Tile tile = tile_at(index, p.tiles_y, p.tiles_x, p.tile_h, p.tile_w);
        return {tile, start_at(tile.y * down_y(p) - p.pad_y, up_y(p)), start_at(tile.x * down_x(p) - p.pad_x, up_x(p))};
    }

    static HD void phase(int phase, const Params& p, const Here& here, Number* shared, Thread thread) {
        if (phase == 0) load(p, here, shared, thread);
        if (phase == 1 && p.separable) along_x(p, here, shared, thread);
        if (phase == 2) store(p, here, shared, thread);
    }

    static HD void load(const Params& p, const Here& here, Number* shared, Thread thread) {
        const int size = filter_size(p);
        for (int k = thread.y * WIDTH + thread.x; k < size; k += WIDTH * HEIGHT)
            shared[k] = p.f[tap_of(k, size, p.flip)] * p.gain;
        const int64_t base = here.tile.plane * p.in_h * (int64_t)p.in_w;
        const Number bias = p.bias ? get<T>(p.bias, here.tile.plane % p.channels) : Number(0);
        for (int row = thread.y; row < p.region_h; row += HEIGHT) {
            const int y = here.y.input + row;
            for (int column = thread.x; column < p.region_w; column += WIDTH) {
                const int x = here.x.input + column;
                const bool inside = y >= 0 && y < p.in_h && x >= 0 && x < p.in_w;
                shared[size + row * p.region_w + column] =
                    inside ? get<T>(p.x, base + (int64_t)y * p.in_w + x) + bias : Number(0);
            }
        }
    }

    static HD void along_x(const Params& p, const Here& here, Number* shared, Thread thread) {
        const int up = up_x(p);
        for (int column = thread.x; column < p.tile_w; column += WIDTH) {
            const int u = column * down_x(p) + here.x.shift;
            const int first = up - 1 - u % up;
            for (int row = thread.y; row < p.region_h; row += HEIGHT) {
                const Number* sample = shared + p.taps_x + row * p.region_w + u / up;
                Number sum = 0;
                for (int k = first; k < p.taps_x; k += up) sum += shared[k] * *sample++;
                shared[at_rows(p) + row * p.tile_w + column] = sum;
            }
        }
    }

    static HD void store(const Params& p, const Here& here, const Number* shared, Thread thread) {
        for (int row = thread.y; row < p.tile_h; row += HEIGHT) {
            const int y = here.tile.y + row, u = row * down_y(p) + here.y.shift;
            for (int column = thread.x; column < p.tile_w; column += WIDTH) {
                const int x = here.tile.x + column;
                if (y >= p.out_h || x >= p.out_w) continue;
                const Number sum = p.separable ? along_y(p, shared, u, column) : both(p, here, shared, u, column);
                put(static_cast<T*>(p.y) + (here.tile.plane * p.out_h + y) * p.out_w + x, sum);
            }
        }
    }

    static HD Number along_y(const Params& p, const Number* shared, int u, int column) {
        const int up = up_y(p);
        const Number* sample = shared + at_rows(p) + u / up * p.tile_w + column;
        Number sum = 0;
        for (int k = up - 1 - u % up; k < p.taps_x; k += up, sample += p.tile_w) sum += shared[k] * *sample;
        return sum;
    }

    static HD Number both(const Params& p, const Here& here, const Number* shared, int uy, int column) {
        const int upx = up_x(p), upy = up_y(p), ux = column * down_x(p) + here.x.shift;
        const Number* line = shared + filter_size(p) + uy / upy * p.region_w + ux / upx;
        Number sum = 0;
        for (int ky = upy - 1 - uy % upy; ky < p.taps_y; ky += upy, line += p.region_w) {
            const Number* sample = line;
            for (int kx = upx - 1 - ux % upx; kx < p.taps_x; kx += upx) sum += shared[ky * p.taps_x + kx] * *sample++;
        }
        return sum;
    }
};

// One output per thread, straight from memory: for filters and factors of any size.
template <class From, class To>
struct Direct {
    using Params = Upfirdn2dParams;
    using Number = arithmetic<To>;
    static constexpr int phases = 1;

    static HD int64_t locate(const Params&, int64_t index) { return index * WIDTH * HEIGHT; }

    static HD void phase(int, const Params& p, int64_t first, Number*, Thread thread) {
        const int64_t index = first + thread.y * WIDTH + thread.x;
        if (index >= p.planes * p.out_h * p.out_w) return;
        const int x = (int)(index % p.out_w), y = (int)(index / p.out_w % p.out_h);
        const int64_t plane = index / p.out_w / p.out_h;
        put(static_cast<To*>(p.y) + index, sum(p, plane, y, x));
    }

    static HD Number sum(const Params& p, int64_t plane, int y, int x) {
        const Start sy = start_at(y * p.down_y - p.pad_y, p.up_y), sx = start_at(x * p.down_x - p.pad_x, p.up_x);
        const Number bias = p.bias ? Number(get<From>(p.bias, plane % p.channels)) : Number(0);
        const int size = p.taps_x * p.taps_y;
        Number total = 0;
        for (int ky = p.up_y - 1 - sy.shift, iy = sy.input; ky < p.taps_y; ky += p.up_y, ++iy) {
            if (iy < 0 || iy >= p.in_h) continue;
            const int64_t line = (plane * p.in_h + iy) * p.in_w;
            for (int kx = p.up_x - 1 - sx.shift, ix = sx.input; kx < p.taps_x; kx += p.up_x, ++ix) {
                if (ix < 0 || ix >= p.in_w) continue;
                const float weight = p.f[tap_of(ky * p.taps_x + kx, size, p.flip)] * p.gain;
                total += Number(weight) * (Number(get<From>(p.x, line + ix)) + bias);
            }
        }
        return total;
    }
};

template <class T, int UP, int DOWN>
const char* launch_tiled(Upfirdn2dParams& p, Place place, bool* fits) {
    const auto bytes = [&](int h, int w) {
        const size_t rows = samples_for(h, p.down_y, p.taps_y, p.up_y);
        const size_t columns = samples_for(w, p.down_x, p.taps_x, p.up_x);
        const size_t filter = p.separable ? p.taps_x : (size_t)p.taps_x * p.taps_y;
        return (filter + rows * columns + (p.separable ? rows * w : 0)) * sizeof(arithmetic<T>);
    };
    *fits = fit_tile(p.out_h, p.out_w, shared_limit(place), &p.tile_h, &p.tile_w, bytes);
    if (!*fits) return nullptr;
    p.region_h = samples_for(p.tile_h, p.down_y, p.taps_y, p.up_y);
    p.region_w = samples_for(p.tile_w, p.down_x, p.taps_x, p.up_x);
    p.tiles_y = ceil_div(p.out_h, p.tile_h), p.tiles_x = ceil_div(p.out_w, p.tile_w);
    p.tiles = p.planes * p.tiles_y * p.tiles_x;
    return launch<Tiled<T, UP, DOWN>>(p, bytes(p.tile_h, p.tile_w), place);
}

}  // namespace

const char* upfirdn2d_tiled(Upfirdn2dParams p, Dtype dtype, Place place, bool* fits) {
    const bool square = p.up_x == p.up_y && p.down_x == p.down_y;
    const int factors = square && p.up_x < 16 && p.down_x < 16 ? p.up_x * 16 + p.down_x : 0;
    return with_type(dtype, [&](auto type) -> const char* {
        using T = decltype(type);
        constexpr bool one = is_double<T>;  // then all branches are the same kernel
        switch (factors) {
            case 0x11: return launch_tiled<T, one ? 0 : 1, one ? 0 : 1>(p, place, fits);
            case 0x21: return launch_tiled<T, one ? 0 : 2, one ? 0 : 1>(p, place, fits);
            case 0x12: return launch_tiled<T, one ? 0 : 1, one ? 0 : 2>(p, place, fits);
            case 0x41: return launch_tiled<T, one ? 0 : 4, one ? 0 : 1>(p, place, fits);
            case 0x14: return launch_tiled<T, one ? 0 : 1, one ? 0 : 4>(p, place, fits);
            default: return launch_tiled<T, 0, 0>(p, place, fits);
        }
    });
}

const char* upfirdn2d_direct(Upfirdn2dParams p, Dtype from, Dtype to, Place place) {
    p.tiles = (p.planes * p.out_h * p.out_w + WIDTH * HEIGHT - 1) / (WIDTH * HEIGHT);
    return with_type(from, [&](auto from_type) -> const char* {
        using From = decltype(from_type);
        using Number = arithmetic<From>;
        if (from == to) return launch<Direct<From, From>>(p, 0, place);
        if (to == (from == Dtype::float64 ? Dtype::float64 : Dtype::float32))
            return launch<Direct<From, Number>>(p, 0, place);
        if (from != Dtype::float32) return "no such pair of types";
        if (to == Dtype::float16) return launch<Direct<float, __half>>(p, 0, place);
        if (to == Dtype::bfloat16) return launch<Direct<float, __nv_bfloat16>>(p, 0, place);
        return "no such pair of types";
    });
}
