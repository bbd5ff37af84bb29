// Bias, activation, gain, clamp, and the first and second derivative, element by element.
#include "device.cuh"

namespace {

enum Act { LINEAR, RELU, LRELU, TANH, SIGMOID, ELU, SELU, SOFTPLUS, SWISH };

// Klambauer et al. 2017, "Self-Normalizing Neural Networks", after theorem 2.
constexpr double SELU_SCALE = 1.0507009873554804934193349852946;
constexpr double SELU_ALPHA = 1.6732632423543772848170429916717;
constexpr double SOFTPLUS_LINEAR = 20;  // torch: above it softplus(u) is u

template <class N>
HD N logistic(N u) {
    return N(1) / (N(1) + exp(-u));
}

template <class N>
HD N value(int act, N u, N alpha) {
    switch (act) {
        case RELU: return u <= 0 ? N(0) : u;  // this way round, not-a-number stays
        case LRELU: return u > 0 ? u : u * alpha;
        case TANH: return tanh(u);
        case SIGMOID: return logistic(u);
        case ELU: return u > 0 ? u : expm1(u);
        case SELU: return u > 0 ? N(SELU_SCALE) * u : N(SELU_SCALE * SELU_ALPHA) * expm1(u);
        case SOFTPLUS: return u > N(SOFTPLUS_LINEAR) ? u : log1p(exp(u));
        case SWISH: return u * logistic(u);
        default: return u;
    }
}

template <class N>
HD N slope(int act, N u, N alpha) {
    const N t = act == TANH ? tanh(u) : N(0), s = act >= SIGMOID ? logistic(u) : N(0);
    switch (act) {
        case RELU: return u > 0 ? N(1) : N(0);
        case LRELU: return u > 0 ? N(1) : alpha;
        case TANH: return N(1) - t * t;
        case SIGMOID: return s * (N(1) - s);
        case ELU: return u > 0 ? N(1) : exp(u);
        case SELU: return u > 0 ? N(SELU_SCALE) : N(SELU_SCALE * SELU_ALPHA) * exp(u);
        case SOFTPLUS: return u > N(SOFTPLUS_LINEAR) ? N(1) : s;
        case SWISH: return s + u * s * (N(1) - s);
        default: return N(1);
    }
}

template <class N>
HD N curvature(int act, N u) {
    const N t = act == TANH ? tanh(u) : N(0), s = act >= SIGMOID ? logistic(u) : N(0);
    switch (act) {
        case TANH: return N(-2) * t * (N(1) - t * t);
        case SIGMOID: return s * (N(1) - s) * (N(1) - N(2) * s);
        case ELU: return u >= 0 ? N(0) : exp(u);  // 0 at 0, and not-a-number stays
        case SELU: return u >= 0 ? N(0) : N(SELU_SCALE * SELU_ALPHA) * exp(u);
        case SOFTPLUS: return u > N(SOFTPLUS_LINEAR) ? N(0) : s * (N(1) - s);
        case SWISH: return s * (N(1) - s) * (N(2) + u * (N(1) - N(2) * s));
        default: return N(0);
    }
}

constexpr int EACH = 4;  // elements per thread, a block apart, so that their loads overlap

template <class T, class Index>
struct BiasAct {
    using Params = BiasActParams;
    using Number = arithmetic<T>;
    static constexpr int phases = 1;

    static HD int64_t locate(const Params&, int64_t index) { return index * (WIDTH * HEIGHT * EACH); }

    static HD void phase(int, const Params& p, int64_t first, Number*, Thread thread) {
        for (int each = 0; each < EACH; ++each) {
            const int64_t index = first + each * (WIDTH * HEIGHT) + thread.y * WIDTH + thread.x;
            if (index < p.size) put(static_cast<T*>(p.y) + index, element(p, index));
        }
    }

    static HD Number element(const Params& p, int64_t index) {
        Number u = get<T>(p.x, index);
        if (p.b) u += get<T>(p.b, (Index)index / (Index)p.step % (Index)p.channels);
        const Number alpha = (Number)p.alpha, gain = (Number)p.gain, clamp = (Number)p.clamp;
        const Number v = gain * value(p.act, u, alpha);
        if (!p.dy) return clamp < 0 ? v : v < -clamp ? -clamp : v > clamp ? clamp : v;
        if (clamp >= 0 && !(v >= -clamp && v <= clamp)) return Number(0);
        const Number dy = get<T>(p.dy, index) * gain;
        return p.dz ? get<T>(p.dz, index) * dy * curvature(p.act, u) : dy * slope(p.act, u, alpha);
    }
};

}  // namespace

const char* bias_act(BiasActParams p, Dtype dtype, Place place) {
    constexpr int64_t tile = WIDTH * HEIGHT * EACH;
    p.tiles = (p.size + tile - 1) / tile;
    const bool small = p.size <= 0x7fffffff && p.step <= 0x7fffffff;  // 64-bit division is slow
    return with_type(dtype, [&](auto type) -> const char* {
        using T = decltype(type);
        return small ? launch<BiasAct<T, uint32_t>>(p, 0, place) : launch<BiasAct<T, uint64_t>>(p, 0, place);
    });
}
