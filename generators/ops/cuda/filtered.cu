// Leaky ReLU between an upsampling and a downsampling filter, in one kernel, and its derivative (Karras et al.
// 2021, "Alias-Free Generative Adversarial Networks", section 3.2 and appendix D): the samples in between, four
// to sixteen times as many as the outputs, never leave the multiprocessor.
#include "device.cuh"

namespace {

template <class N>
struct Activated {
    N value;
    bool negative, clamped;
};

template <class N>
HD Activated<N> activated(const FilteredParams& p, N m) {
    const bool negative = !(m > 0);
    const N v = (negative ? m * (N)p.slope : m) * (N)p.gain, clamp = (N)p.clamp;
    if (clamp < 0 || (v >= -clamp && v <= clamp)) return {v, negative, false};
    return {v < -clamp ? -clamp : v > clamp ? clamp : v, negative, true};
}

template <class N>
HD N masked(const FilteredParams& p, N m, bool negative, bool clamped) {
    return clamped ? N(0) : m * (N)p.gain * (negative ? (N)p.slope : N(1));
}

// First byte of a row of the mask; the row of the second bit follows.
HD uint8_t* mask_row(const FilteredParams& p, int64_t plane, int y) {
    return p.mask + (plane * p.mid_h + y) * 2 * p.row_bytes;
}

HD bool mask_bit(const uint8_t* row, int x) { return row[x >> 3] >> (x & 7) & 1; }

// One tile of outputs. Shared memory: both filters, the samples read, those filtered along x (upsampling, later
// downsampling), those in between, two flags for each of these. UP and DOWN as in upfirdn2d.cu.
template <class T, int UP, int DOWN>
struct Fused {
    using Params = FilteredParams;
    using Number = arithmetic<T>;
    static constexpr int phases = 5;

    struct Here {
        Tile tile;
        int y, x;  // first sample in between; may be outside
        Start from_y, from_x;
    };

    static HD int up(const Params& p) { return UP ? UP : p.up; }
    static HD int down(const Params& p) { return DOWN ? DOWN : p.down; }
    static HD uint8_t* flags(const Params& p, Number* shared) {
        return reinterpret_cast<uint8_t*>(shared + p.at_flags);
    }

    static HD Here locate(const Params& p, int64_t index) {
        const Tile tile = tile_at(index, p.tiles_y, p.tiles_x, p.tile_h, p.tile_w);
        const int y = tile.y * down(p) - p.pb_y, x = tile.x * down(p) - p.pb_x;
        return {tile, y, x, start_at(y - p.pa_y, up(p)), start_at(x - p.pa_x, up(p))};
    }

    static HD void phase(int phase, const Params& p, const Here& here, Number* shared, Thread thread) {
        if (phase == 0) load(p, here, shared, thread);
        if (phase == 1 && p.a_separable) up_along_x(p, here, shared, thread);
        if (phase == 2) middle(p, here, shared, thread);
        if (phase == 3) {
            if (p.mode == Mask::write) write_mask(p, here, flags(p, shared), thread);
            if (p.b_separable) down_along_x(p, shared, thread);
        }
        if (phase == 4) store(p, here, shared, thread);
    }

    static HD void load(const Params& p, const Here& here, Number* shared, Thread thread) {
        const int rank = thread.y * WIDTH + thread.x;
        const int size_a = p.at_fb, size_b = p.at_input - p.at_fb;
        for (int k = rank; k < size_a; k += WIDTH * HEIGHT)
            shared[k] = p.fa[tap_of(k, size_a, p.flip)] * p.gain_a;
        for (int k = rank; k < size_b; k += WIDTH * HEIGHT)
            shared[p.at_fb + k] = p.fb[tap_of(k, size_b, p.flip)] * p.gain_b;
        const int64_t base = here.tile.plane * p.in_h * (int64_t)p.in_w;
        const Number bias = p.bias ? get<T>(p.bias, here.tile.plane % p.channels) : Number(0);
        for (int row = thread.y; row < p.region_h; row += HEIGHT) {
            const int y = here.from_y.input + row;
            for (int column = thread.x; column < p.region_w; column += WIDTH) {
                const int x = here.from_x.input + column;
                const bool inside = y >= 0 && y < p.in_h && x >= 0 && x < p.in_w;
                shared[p.at_input + row * p.region_w + column] =
                    inside ? get<T>(p.x, base + (int64_t)y * p.in_w + x) + bias : Number(0);
            }
        }
    }

    static HD void up_along_x(const Params& p, const Here& here, Number* shared, Thread thread) {
        for (int column = thread.x; column < p.middle_w; column += WIDTH) {
            const int u = column + here.from_x.shift, first = up(p) - 1 - u % up(p);
            for (int row = thread.y; row < p.region_h; row += HEIGHT) {
                const Number* sample = shared + p.at_input + row * p.region_w + u / up(p);
                Number sum = 0;
                for (int k = first; k < p.a_x; k += up(p)) sum += shared[k] * *sample++;
                shared[p.at_rows + row * p.middle_w + column] = sum;
            }
        }
    }

    static HD void middle(const Params& p, const Here& here, Number* shared, Thread thread) {
        for (int row = thread.y; row < p.middle_h; row += HEIGHT) {
            const int y = here.y + row;
            for (int column = thread.x; column < p.middle_w; column += WIDTH) {
                const int x = here.x + column, at = row * p.middle_w + column;
                const bool inside = y >= 0 && y < p.mid_h && x >= 0 && x < p.mid_w;
                shared[p.at_middle + at] = Number(0);
                if (p.mode == Mask::write) flags(p, shared)[at] = 0;
                if (inside) one(p, here, shared, at, row, column);
            }
        }
    }

    static HD void one(const Params& p, const Here& here, Number* shared, int at, int row, int column) {
        const Number m = upsampled(p, here, shared, row, column);
        Number& v = shared[p.at_middle + at];
        if (p.mode == Mask::read) {
            const uint8_t* bits = mask_row(p, here.tile.plane, here.y + row);
            v = masked(p, m, mask_bit(bits, here.x + column), mask_bit(bits + p.row_bytes, here.x + column));
            return;
        }
        const Activated<Number> result = activated(p, m);
        v = result.value;
        if (p.mode == Mask::write) flags(p, shared)[at] = (uint8_t)(result.negative | result.clamped << 1);
    }

    static HD Number upsampled(const Params& p, const Here& here, const Number* shared, int row, int column) {
        const int uy = row + here.from_y.shift, first = up(p) - 1 - uy % up(p);
        Number sum = 0;
        if (p.a_separable) {
            const Number* sample = shared + p.at_rows + uy / up(p) * p.middle_w + column;
            for (int k = first; k < p.a_x; k += up(p), sample += p.middle_w) sum += shared[k] * *sample;
            return sum;
        }
        const int ux = column + here.from_x.shift;
        const Number* line = shared + p.at_input + uy / up(p) * p.region_w + ux / up(p);
        for (int ky = first; ky < p.a_y; ky += up(p), line += p.region_w) {
            const Number* sample = line;
            for (int kx = up(p) - 1 - ux % up(p); kx < p.a_x; kx += up(p)) sum += shared[ky * p.a_x + kx] * *sample++;
        }
        return sum;
    }

    // Tiles overlap in between, by the taps of the second filter; each writes the bits that start in it, whole
    // bytes since tiles are 8, 16 or 32 wide, and the last one what is left. Only for pb = 0.
    static HD void write_mask(const Params& p, const Here& here, const uint8_t* flags, Thread thread) {
        const bool last_y = here.tile.y + p.tile_h >= p.out_h, last_x = here.tile.x + p.tile_w >= p.out_w;
        const int end_y = last_y ? p.mid_h : here.y + p.tile_h * down(p);
        const int first = here.x / 8, end = last_x ? (int)p.row_bytes : first + p.tile_w * down(p) / 8;
        for (int y = here.y + thread.y; y < end_y; y += HEIGHT) {
            uint8_t* row = mask_row(p, here.tile.plane, y);
            for (int byte = first + thread.x; byte < end; byte += WIDTH) {
                int negative = 0, clamped = 0;
                for (int bit = 0; bit < 8 && byte * 8 + bit < p.mid_w; ++bit) {
                    const int flag = flags[(y - here.y) * p.middle_w + byte * 8 + bit - here.x];
                    negative |= (flag & 1) << bit;
                    clamped |= flag >> 1 << bit;
                }
                row[byte] = (uint8_t)negative;
                row[p.row_bytes + byte] = (uint8_t)clamped;
            }
        }
    }

    static HD void down_along_x(const Params& p, Number* shared, Thread thread) {
        for (int row = thread.y; row < p.middle_h; row += HEIGHT) {
            for (int column = thread.x; column < p.tile_w; column += WIDTH) {
                const Number* sample = shared + p.at_middle + row * p.middle_w + column * down(p);
                Number sum = 0;
                for (int k = 0; k < p.b_x; ++k) sum += shared[p.at_fb + k] * sample[k];
                shared[p.at_rows + row * p.tile_w + column] = sum;
            }
        }
    }

    static HD void store(const Params& p, const Here& here, const Number* shared, Thread thread) {
        for (int row = thread.y; row < p.tile_h; row += HEIGHT) {
            const int y = here.tile.y + row;
            for (int column = thread.x; column < p.tile_w; column += WIDTH) {
                const int x = here.tile.x + column;
                if (y >= p.out_h || x >= p.out_w) continue;
                const Number sum = downsampled(p, shared, row, column);
                put(static_cast<T*>(p.y) + (here.tile.plane * p.out_h + y) * p.out_w + x, sum);
            }
        }
    }

    static HD Number downsampled(const Params& p, const Number* shared, int row, int column) {
        Number sum = 0;
        if (p.b_separable) {
            const Number* sample = shared + p.at_rows + row * down(p) * p.tile_w + column;
            for (int k = 0; k < p.b_x; ++k, sample += p.tile_w) sum += shared[p.at_fb + k] * *sample;
            return sum;
        }
        const Number* line = shared + p.at_middle + row * down(p) * p.middle_w + column * down(p);
        const Number* weight = shared + p.at_fb;
        for (int ky = 0; ky < p.b_y; ++ky, line += p.middle_w)
            for (int kx = 0; kx < p.b_x; ++kx) sum += *weight++ * line[kx];
        return sum;
    }
};

// Sizes of a tile and of what it needs; returns the bytes of shared memory.
size_t lay_out(FilteredParams& p, int tile_h, int tile_w, size_t number) {
    p.tile_h = tile_h, p.tile_w = tile_w;
    p.middle_h = tile_h * p.down + p.b_y - 1, p.middle_w = tile_w * p.down + p.b_x - 1;
    p.region_h = samples_for(p.middle_h, 1, p.a_y, p.up), p.region_w = samples_for(p.middle_w, 1, p.a_x, p.up);
    const int rows_up = p.a_separable ? p.region_h * p.middle_w : 0;
    const int rows_down = p.b_separable ? p.middle_h * tile_w : 0;
    p.at_fb = p.a_separable ? p.a_x : p.a_x * p.a_y;
    p.at_input = p.at_fb + (p.b_separable ? p.b_x : p.b_x * p.b_y);
    p.at_rows = p.at_input + p.region_h * p.region_w;
    p.at_middle = p.at_rows + std::max(rows_up, rows_down);
    p.at_flags = p.at_middle + p.middle_h * p.middle_w;
    return p.at_flags * number + (p.mode == Mask::write ? p.middle_h * p.middle_w : 0);
}

template <class T, int UP, int DOWN>
const char* launch_fused(FilteredParams& p, Place place, bool* fits) {
    const auto bytes = [&](int h, int w) { return lay_out(p, h, w, sizeof(arithmetic<T>)); };
    int h = 0, w = 0;
    *fits = fit_tile(p.out_h, p.out_w, shared_limit(place), &h, &w, bytes);
    if (!*fits) return nullptr;
    const size_t shared = bytes(h, w);
    p.tiles_y = ceil_div(p.out_h, h), p.tiles_x = ceil_div(p.out_w, w);
    p.tiles = p.planes * p.tiles_y * p.tiles_x;
    return launch<Fused<T, UP, DOWN>>(p, shared, place);
}

// The same between two calls of upfirdn2d, where nothing fits: eight samples per thread, a byte of the mask.
template <class N>
struct Between {
    struct Params : FilteredParams {
        N* middle;
    };
    using Number = N;
    static constexpr int phases = 1;

    static HD int64_t locate(const Params&, int64_t index) { return index * WIDTH * HEIGHT; }

    static HD void phase(int, const Params& p, int64_t first, N*, Thread thread) {
        const int64_t index = first + thread.y * WIDTH + thread.x, row = index / p.row_bytes;
        if (row >= p.planes * p.mid_h) return;
        const int byte = (int)(index - row * p.row_bytes);
        uint8_t* bits = p.mask + row * 2 * p.row_bytes + byte;
        int negative = p.mode == Mask::read ? bits[0] : 0, clamped = p.mode == Mask::read ? bits[p.row_bytes] : 0;
        for (int bit = 0; bit < 8 && byte * 8 + bit < p.mid_w; ++bit) {
            N& sample = p.middle[row * p.mid_w + byte * 8 + bit];
            if (p.mode == Mask::read) {
                sample = masked(p, sample, negative >> bit & 1, clamped >> bit & 1);
                continue;
            }
            const Activated<N> result = activated(p, sample);
            sample = result.value;
            negative |= (int)result.negative << bit;
            clamped |= (int)result.clamped << bit;
        }
        if (p.mode == Mask::write) bits[0] = (uint8_t)negative, bits[p.row_bytes] = (uint8_t)clamped;
    }
};

template <class N>
const char* launch_between(const FilteredParams& given, void* middle, Place place) {
    typename Between<N>::Params p;
    static_cast<FilteredParams&>(p) = given;
    p.middle = static_cast<N*>(middle);
    if (p.mode == Mask::none) p.row_bytes = (p.mid_w + 7) / 8;
    p.tiles = (p.planes * p.mid_h * p.row_bytes + WIDTH * HEIGHT - 1) / (WIDTH * HEIGHT);
    return launch<Between<N>>(p, 0, place);
}

}  // namespace

const char* filtered_tiled(FilteredParams p, Dtype dtype, Place place, bool* fits) {
    const int factors = p.up < 16 && p.down < 16 ? p.up * 16 + p.down : 0;
    return with_type(dtype, [&](auto type) -> const char* {
        using T = decltype(type);
        constexpr bool one = is_double<T>;  // then all branches are the same kernel
        switch (factors) {
            case 0x22: return launch_fused<T, one ? 0 : 2, one ? 0 : 2>(p, place, fits);
            case 0x42: return launch_fused<T, one ? 0 : 4, one ? 0 : 2>(p, place, fits);
            case 0x24: return launch_fused<T, one ? 0 : 2, one ? 0 : 4>(p, place, fits);
            case 0x11: return launch_fused<T, one ? 0 : 1, one ? 0 : 1>(p, place, fits);
            default: return launch_fused<T, 0, 0>(p, place, fits);
        }
    });
}

const char* activate(FilteredParams p, void* middle, Dtype dtype, Place place) {
    return dtype == Dtype::float64 ? launch_between<double>(p, middle, place) : launch_between<float>(p, middle, place);
}
