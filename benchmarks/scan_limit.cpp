// The selective scan as a plain fused loop: what the processor can do, the limit that `selective_scan.py` measures by.
//
// Layout `(b, l, d)`, channels last. A column is one vector of neighbouring channels. Time is cut into chunks; within
// a chunk each column runs alone, eight states at a time in registers. The backward pass starts each chunk from the
// state that the forward pass kept at its start and recomputes the rest. Threads share out (batch, column).
//
//   g++ -O3 -march=native -ffast-math -std=c++17 -shared -fPIC -pthread scan_limit.cpp -o scan_limit.so

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int CHUNK = 32;  // steps between kept states
constexpr int BLOCK = 8;   // states in registers at once
constexpr int AHEAD = 4;  // columns to prefetch: a row of the next column is on no line that was read

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Half __attribute__((vector_size(2 * LANES)));

static inline Vec load(const float* from, int lanes) {
    Vec x = {};
    if (lanes == LANES) memcpy(&x, from, sizeof x);
    else memcpy(&x, from, 4 * lanes);
    return x;
}
static inline void store(float* to, Vec x, int lanes) {
    if (lanes == LANES) memcpy(to, &x, sizeof x);
    else memcpy(to, &x, 4 * lanes);
}
// bfloat16 travels as 16-bit integers and is rounded to nearest even.
static inline Vec load(const uint16_t* from, int lanes) {
    Half x = {};
    if (lanes == LANES) memcpy(&x, from, sizeof x);
    else memcpy(&x, from, 2 * lanes);
    return (Vec)(__builtin_convertvector(x, Bits) << 16);
}
static inline void store(uint16_t* to, Vec x, int lanes) {
    Bits bits = (Bits)x;
    Half half = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Half);
    if (lanes == LANES) memcpy(to, &half, sizeof half);
    else memcpy(to, &half, 2 * lanes);
}
static inline float widen(float x) { return x; }
static inline float widen(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

// 2^x for x <= 0: whole part into the exponent, the rest, in (-1, 0], by a polynomial that is exact at 0.
static inline Vec exp2_negative(Vec x) {
    const Vec lowest = Vec{} - 125.0f;
    x = x < lowest ? lowest : x;
    Int whole = __builtin_convertvector(x, Int);
    Vec f = x - __builtin_convertvector(whole, Vec), p = f * 1.09023239e-4f + 1.27474832e-3f;
    p = p * f + 9.57917970e-3f;
    p = p * f + 5.54907571e-2f;
    p = p * f + 2.40224368e-1f;
    p = p * f + 6.93147064e-1f;
    p = p * f + 1.0f;
    return (Vec)((Int)p + (whole << 23));
}
constexpr float LOG2E = 1.44269504088896341f;

// softplus(x) and its derivative; log(1 + e) is the series of 2 atanh(e / (2 + e)), exact for small e as well.
static inline Vec softplus(Vec x, Vec& slope) {
    Vec zero = {}, size = x < zero ? -x : x, e = exp2_negative(size * -LOG2E);
    Vec s = e / (e + 2.0f), q = s * s, p = q * 0.0769230769f + 0.0909090909f;
    p = p * q + 0.111111111f;
    p = p * q + 0.142857143f;
    p = p * q + 0.2f;
    p = p * q + 0.333333333f;
    p = p * q + 1.0f;
    Vec one = zero + 1.0f;
    slope = (x < zero ? e : one) / (e + 1.0f);
    return (x < zero ? zero : x) + 2.0f * s * p;
}
static inline Vec sigmoid(Vec x) {
    Vec zero = {}, one = zero + 1.0f, e = exp2_negative((x < zero ? x : -x) * LOG2E);
    return (x < zero ? e : one) / (e + 1.0f);
}

template <class T>
struct Scan {
    const T *u, *delta, *B, *C, *z;        // (b, l, d), but B and C (b, l, n)
    const float *A, *D, *bias;             // (d, n), (d,), (d,)
    float* starts;                         // states at the start of each chunk but the first, or null
    T* y;                                  // what the forward pass writes
    float* end;                            // and the last state, (b, n, d), or null
    const T* grad_y;                       // from here on of the backward pass
    T *grad_u, *grad_delta, *grad_z;
    float *grad_A, *grad_B, *grad_C, *grad_D, *grad_bias;
    long b, l, d, n;

    long columns() const { return (d + LANES - 1) / LANES; }
    long chunks() const { return (l + CHUNK - 1) / CHUNK; }
    long padded() const { return (n + BLOCK - 1) / BLOCK * BLOCK; }
    int lanes(long column) const { return int(std::min<long>(LANES, d - column * LANES)); }
    float* start(long batch, long chunk, long column) const {
        return starts + ((batch * (chunks() - 1) + chunk - 1) * columns() + column) * padded() * LANES;
    }
};

// What one thread keeps: the maps of a batch in float32 and, for each column, decay rates and states.
template <class T>
struct Worker {
    const Scan<T>& s;
    long n, columns;
    std::vector<float> B, C;
    std::vector<Vec> A, state, grad_A, grad_D, grad_bias, sums;

    explicit Worker(const Scan<T>& scan) : s(scan), n(scan.padded()), columns(scan.columns()) {
        B.assign(s.l * n, 0.0f);
        C.assign(s.l * n, 0.0f);
        state.resize(columns * n);
        A.assign(columns * n, Vec{});
        for (long c = 0; c < s.d; c++)
            for (long k = 0; k < s.n; k++) A[c / LANES * n + k][c % LANES] = s.A[c * s.n + k] * LOG2E;
    }
    void enter(long batch) {
        for (long t = 0; t < s.l; t++)
            for (long k = 0; k < s.n; k++) {
                B[t * n + k] = widen(s.B[(batch * s.l + t) * s.n + k]);
                C[t * n + k] = widen(s.C[(batch * s.l + t) * s.n + k]);
            }
        std::fill(state.begin(), state.end(), Vec{});
    }
    Vec read(const float* weights, long column) const { return load(weights + column * LANES, s.lanes(column)); }

    void forward(long batch, long first, long last) {
        enter(batch);
        for (long chunk = 0; chunk < s.chunks(); chunk++)
            for (long column = first; column < last; column++) forward_column(batch, chunk, column);
        if (!s.end) return;
        for (long column = first; column < last; column++)
            for (long k = 0; k < s.n; k++)
                store(s.end + (batch * s.n + k) * s.d + column * LANES, state[column * n + k], s.lanes(column));
    }
    void forward_column(long batch, long chunk, long column) {
        const long t0 = chunk * CHUNK, base = (batch * s.l + t0) * s.d + column * LANES;
        const int steps = int(std::min<long>(CHUNK, s.l - t0)), lanes = s.lanes(column);
        Vec* h = &state[column * n];
        if (chunk && s.starts) memcpy(s.start(batch, chunk, column), h, n * sizeof(Vec));
        Vec step[CHUNK], update[CHUNK], y[CHUNK], slope, bias = read(s.bias, column), D = read(s.D, column);
        for (int t = 0; t < steps; t++) {
            const long at = base + t * s.d;
            __builtin_prefetch(s.u + at + AHEAD * LANES);
            __builtin_prefetch(s.delta + at + AHEAD * LANES);
            __builtin_prefetch(s.z + at + AHEAD * LANES);
            step[t] = softplus(load(s.delta + at, lanes) + bias, slope);
            Vec u = load(s.u + at, lanes);
            update[t] = step[t] * u;
            y[t] = D * u;
        }
        for (long k = 0; k < n; k += BLOCK) forward_block(&A[column * n + k], h + k, t0, k, steps, step, update, y);
        for (int t = 0; t < steps; t++) {
            Vec z = load(s.z + base + t * s.d, lanes);
            store(s.y + base + t * s.d, y[t] * z * sigmoid(z), lanes);
        }
    }
    void forward_block(const Vec* rates, Vec* h, long t0, long k, int steps, const Vec* step, const Vec* update, Vec* y) {
        Vec x[BLOCK];
        for (int i = 0; i < BLOCK; i++) x[i] = h[i];
        for (int t = 0; t < steps; t++) {
            const float *b = &B[(t0 + t) * n + k], *c = &C[(t0 + t) * n + k];
            Vec sum = y[t], odd = {};
#pragma GCC unroll 8
            for (int i = 0; i < BLOCK; i++) {
                x[i] = exp2_negative(step[t] * rates[i]) * x[i] + update[t] * b[i];
                (i % 2 ? odd : sum) += x[i] * c[i];
            }
            y[t] = sum + odd;
        }
        for (int i = 0; i < BLOCK; i++) h[i] = x[i];
    }

    void prepare_backward() {
        grad_A.assign(columns * n, Vec{});
        grad_D.assign(columns, Vec{});
        grad_bias.assign(columns, Vec{});
        sums.resize(2 * CHUNK * n);
    }
    // `grad_B` and `grad_C` are sums over channels: lane by lane over all columns, then once a chunk over the lanes.
    void backward(long batch, long first, long last, float* grad_B, float* grad_C) {
        enter(batch);
        for (long chunk = s.chunks() - 1; chunk >= 0; chunk--) {
            std::fill(sums.begin(), sums.end(), Vec{});
            for (long column = first; column < last; column++) backward_column(batch, chunk, column);
            const long t0 = chunk * CHUNK, steps = std::min<long>(CHUNK, s.l - t0);
            for (long t = 0; t < steps; t++)
                for (long k = 0; k < s.n; k++) {
                    const Vec &b = sums[t * n + k], &c = sums[(CHUNK + t) * n + k];
                    float sum_b = 0, sum_c = 0;
                    for (int i = 0; i < LANES; i++) sum_b += b[i], sum_c += c[i];
                    grad_B[(batch * s.l + t0 + t) * s.n + k] += sum_b;
                    grad_C[(batch * s.l + t0 + t) * s.n + k] += sum_c;
                }
        }
    }
    struct Steps {
        Vec u[CHUNK], step[CHUNK], slope[CHUNK], update[CHUNK], grad[CHUNK], y[CHUNK];
        Vec grad_update[CHUNK], grad_step[CHUNK];
        Vec decay[CHUNK][BLOCK], state[CHUNK + 1][BLOCK];
    };
    void backward_column(long batch, long chunk, long column) {
        const long t0 = chunk * CHUNK, base = (batch * s.l + t0) * s.d + column * LANES;
        const int steps = int(std::min<long>(CHUNK, s.l - t0)), lanes = s.lanes(column);
        const Vec* start = chunk ? (const Vec*)s.start(batch, chunk, column) : nullptr;
        const Vec bias = read(s.bias, column), D = read(s.D, column);
        Steps w;
        for (int t = 0; t < steps; t++) {
            const long at = base + t * s.d;
            for (const T* next : {s.u, s.delta, s.z, s.grad_y}) __builtin_prefetch(next + at + AHEAD * LANES);
            w.u[t] = load(s.u + at, lanes);
            w.step[t] = softplus(load(s.delta + at, lanes) + bias, w.slope[t]);
            w.update[t] = w.step[t] * w.u[t];
            w.y[t] = D * w.u[t];
            Vec z = load(s.z + at, lanes);
            w.grad[t] = load(s.grad_y + at, lanes) * z * sigmoid(z);
            w.grad_update[t] = w.grad_step[t] = Vec{};
        }
        for (long k = 0; k < n; k += BLOCK) backward_block(start ? start + k : nullptr, column, t0, k, steps, w);
        Vec sum_D = {}, sum_bias = {};
        for (int t = 0; t < steps; t++) {
            const long at = base + t * s.d;
            Vec z = load(s.z + at, lanes), gate = sigmoid(z);
            store(s.grad_z + at, load(s.grad_y + at, lanes) * w.y[t] * gate * (1.0f + z * (1.0f - gate)), lanes);
            store(s.grad_u + at, w.grad_update[t] * w.step[t] + w.grad[t] * D, lanes);
            Vec grad_delta = (w.grad_step[t] * (1 / LOG2E) + w.grad_update[t] * w.u[t]) * w.slope[t];
            store(s.grad_delta + at, grad_delta, lanes);
            sum_D += w.grad[t] * w.u[t];
            sum_bias += grad_delta;
        }
        grad_D[column] += sum_D;
        grad_bias[column] += sum_bias;
    }
    void backward_block(const Vec* start, long column, long t0, long k, int steps, Steps& w) {
        const Vec* rates = &A[column * n + k];
        Vec x[BLOCK], g[BLOCK], sum_A[BLOCK];
        for (int i = 0; i < BLOCK; i++) x[i] = w.state[0][i] = start ? start[i] : Vec{};
        for (int t = 0; t < steps; t++) {
            const float *b = &B[(t0 + t) * n + k], *c = &C[(t0 + t) * n + k];
            Vec sum = w.y[t], odd = {};
#pragma GCC unroll 8
            for (int i = 0; i < BLOCK; i++) {
                w.decay[t][i] = exp2_negative(w.step[t] * rates[i]);
                w.state[t + 1][i] = x[i] = w.decay[t][i] * x[i] + w.update[t] * b[i];
                (i % 2 ? odd : sum) += x[i] * c[i];
            }
            w.y[t] = sum + odd;
        }
        Vec* kept = &state[column * n + k];  // the gradient in the state after this chunk
        for (int i = 0; i < BLOCK; i++) g[i] = kept[i], sum_A[i] = Vec{};
        for (int t = steps - 1; t >= 0; t--) {
            const float *b = &B[(t0 + t) * n + k], *c = &C[(t0 + t) * n + k];
            Vec *sum_b = &sums[t * n + k], *sum_c = &sums[(CHUNK + t) * n + k];
            Vec in_update = w.grad_update[t], in_step = w.grad_step[t];
#pragma GCC unroll 8
            for (int i = 0; i < BLOCK; i++) {
                g[i] += w.grad[t] * c[i];
                sum_c[i] += w.grad[t] * w.state[t + 1][i];
                sum_b[i] += g[i] * w.update[t];
                in_update += g[i] * b[i];
                g[i] *= w.decay[t][i];
                Vec in_exponent = g[i] * w.state[t][i];
                in_step += in_exponent * rates[i];
                sum_A[i] += in_exponent * w.step[t];
            }
            w.grad_update[t] = in_update;
            w.grad_step[t] = in_step;
        }
        for (int i = 0; i < BLOCK; i++) kept[i] = g[i], grad_A[column * n + k + i] += sum_A[i];
    }
};

// Give each thread one range of the (batch, column) pairs.
template <class T, class Task>
static void share_out(const Scan<T>& s, int threads, Task task) {
    const long columns = s.columns(), total = s.b * columns;
    std::vector<std::thread> pool;
    auto work = [&](int index) {
        const long first = total * index / threads, last = total * (index + 1) / threads;
        Worker<T> worker(s);
        task(index, worker, [&](auto each) {
            for (long i = first; i < last;) {
                const long batch = i / columns, end = std::min(last, (batch + 1) * columns);
                each(batch, i - batch * columns, end - batch * columns);
                i = end;
            }
        });
    };
    for (int index = 1; index < threads; index++) pool.emplace_back(work, index);
    work(0);
    for (auto& thread : pool) thread.join();
}

template <class T>
static void run_forward(const Scan<T>& s, int threads) {
    share_out(s, threads, [](int, Worker<T>& worker, auto ranges) {
        ranges([&](long batch, long first, long last) { worker.forward(batch, first, last); });
    });
}

template <class T>
static void run_backward(const Scan<T>& s, int threads) {
    std::vector<std::vector<float>> maps(threads), weights(threads);
    share_out(s, threads, [&](int index, Worker<T>& worker, auto ranges) {
        const long size = s.b * s.l * s.n;
        maps[index].assign(2 * size, 0.0f);
        worker.prepare_backward();
        float *grad_B = maps[index].data(), *grad_C = grad_B + size;
        ranges([&](long batch, long first, long last) { worker.backward(batch, first, last, grad_B, grad_C); });
        std::vector<float>& out = weights[index];
        for (long c = 0; c < s.d; c++) {
            for (long k = 0; k < s.n; k++) out.push_back(worker.grad_A[c / LANES * worker.n + k][c % LANES]);
            out.push_back(worker.grad_D[c / LANES][c % LANES]);
            out.push_back(worker.grad_bias[c / LANES][c % LANES]);
        }
    });
    for (int index = 0; index < threads; index++) {
        const float *from = weights[index].data(), *map = maps[index].data();
        for (long c = 0; c < s.d; c++, from += s.n + 2) {
            for (long k = 0; k < s.n; k++) s.grad_A[c * s.n + k] += from[k];
            s.grad_D[c] += from[s.n];
            s.grad_bias[c] += from[s.n + 1];
        }
        const long size = s.b * s.l * s.n;
        for (long i = 0; i < size; i++) s.grad_B[i] += map[i], s.grad_C[i] += map[size + i];
    }
}

#define EXPORT(NAME, T)                                                                    \
    extern "C" void forward_##NAME(const Scan<T>* s, int threads) { run_forward(*s, threads); } \
    extern "C" void backward_##NAME(const Scan<T>* s, int threads) { run_backward(*s, threads); }
EXPORT(float32, float)
EXPORT(bfloat16, uint16_t)

// Floats that the kept states take.
extern "C" long starts_size(long b, long l, long d, long n) {
    Scan<float> s{};
    s.b = b, s.l = l, s.d = d, s.n = n;
    return b * (s.chunks() - 1) * s.columns() * s.padded() * LANES;
}
