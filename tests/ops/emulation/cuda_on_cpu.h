// Runs the kernels of generators/ops/cuda on the CPU: tile by tile, phase by phase, thread by thread.
//
// What it can show: wrong indices, wrong sums, reads of shared memory nobody wrote (it starts as NaN), writes
// past its end, threads of a phase that depend on each other (EMULATED_ORDER=reverse runs them backwards).
// What it cannot: speed, and anything about a real device.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

struct __half {
    uint16_t bits;
};
struct __nv_bfloat16 {
    uint16_t bits;
};

inline float as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t as_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __bfloat162float(__nv_bfloat16 value) { return as_float((uint32_t)value.bits << 16); }

inline __nv_bfloat16 __float2bfloat16_rn(float value) {  // round to nearest, ties to even
    const uint32_t bits = as_bits(value);
    if (value != value) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half value) {
    const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
    const float sign = value.bits >> 15 ? -1.0f : 1.0f;
    if (exponent == 31)
        return fraction ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
    return sign * (exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24));
}

inline __half __float2half_rn(float value) {
    const uint16_t sign = (uint16_t)(as_bits(value) >> 16 & 0x8000);
    const float size = std::fabs(value);
    if (value != value) return {0x7fff};
    if (size >= 65520.0f) return {(uint16_t)(sign | 0x7c00)};
    int exponent = 0;
    std::frexp(size, &exponent);
    const int unit = size < 6.103515625e-05f ? -24 : exponent - 11;  // exponent of the last place
    const int places = (int)std::nearbyint(std::ldexp(size, -unit));  // to nearest, ties to even
    const int biased = size < 6.103515625e-05f ? 0 : exponent + 13;
    return {(uint16_t)(sign | (biased * 1024 + places))};
}

inline size_t shared_limit(Place) {
    const char* given = std::getenv("EMULATED_SHARED");
    return given ? (size_t)std::atoll(given) : 48 * 1024;
}

template <class Kernel>
const char* launch(const typename Kernel::Params& p, size_t shared, Place) {
    constexpr int guard = 64, threads = WIDTH * HEIGHT;
    const char* order = std::getenv("EMULATED_ORDER");
    const bool reverse = order && std::string(order) == "reverse";
    std::vector<double> memory((shared + 7) / 8 + guard);
    unsigned char* bytes = reinterpret_cast<unsigned char*>(memory.data());
    const size_t whole = memory.size() * sizeof(double);
    for (int64_t index = 0; index < p.tiles; ++index) {
        std::memset(bytes, 0xff, whole);  // not a number, in all types
        const auto tile = Kernel::locate(p, index);
        for (int phase = 0; phase < Kernel::phases; ++phase)
            for (int i = 0; i < threads; ++i) {
                const int rank = reverse ? threads - 1 - i : i;
                const Thread thread = {rank % WIDTH, rank / WIDTH};
                Kernel::phase(phase, p, tile, reinterpret_cast<typename Kernel::Number*>(bytes), thread);
            }
        for (size_t i = shared; i < whole; ++i)
            if (bytes[i] != 0xff) return "a kernel wrote past its shared memory";
    }
    return nullptr;
}
