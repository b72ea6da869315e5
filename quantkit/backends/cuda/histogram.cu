// Statistics of the activations of one batch, each value read once: see histogram.py, which launches these kernels.
//
// A tensor's histogram has BINS bins of width 2^exponent. Bin i holds magnitudes in (i, i + 1] * width, and bin 0 zeros
// too: that is index ceil(|x| / width) - 1, exact in float32 since the width is a power of two.

#define BINS 8192
#define LOG2_BINS 13
#define NO_EXPONENT (-1000)  // only zeros were seen
#define SMALLEST_EXPONENT (-126)
#define BLOCK 512

typedef unsigned int u32;
typedef unsigned long long u64;

struct Tensor {
    const void *values;
    u64 first;  // how many values come before it in this batch
    u64 size;
    u32 is_half;
    u32 state;  // index of its State and histogram
};

struct State {
    u32 minimum, maximum;  // as ordered integers
    int exponent;          // of the bin width
    int counted;           // exponent that the first pass of this batch counted with
    u32 has_grown;         // this batch holds values beyond the range of the first pass
    u32 is_non_finite;
};

__device__ u32 ordered(float x) {
    u32 bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ float from_ordered(u32 bits) { return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits); }

__device__ float power_of_two(int exponent) {  // of normal numbers
    return __uint_as_float((u32)(exponent + 127) << 23);
}

__device__ float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}

// What a thread has seen of the tensor that its block is in.
struct Seen {
    float minimum, maximum;
    u32 zeros;  // values of bin 0
    bool is_non_finite;
};

struct Range {
    float below, up_to;  // magnitudes that are counted: (below, up_to]
    float inverse;       // of the width
};

__device__ void count(float x, const Range &range, u32 *histogram, Seen &seen) {
    const float magnitude = fabsf(x);
    seen.minimum = fminf(seen.minimum, x);
    seen.maximum = fmaxf(seen.maximum, x);
    seen.is_non_finite |= !(magnitude <= 3.402823466e38f);
    if (magnitude > range.below && magnitude <= range.up_to) {
        const float place = magnitude * range.inverse;
        if (place <= 1.0f)
            ++seen.zeros;
        else
            atomicAdd(&histogram[(int)ceilf(place) - 1], 1u);
    }
}

__device__ void count_values(const Tensor &t, u64 begin, u64 end, const Range &range, u32 *histogram, Seen &seen) {
    if (t.is_half) {
        const unsigned short *values = (const unsigned short *)t.values;
        for (u64 i = begin + threadIdx.x; i < end; i += BLOCK) count(half_to_float(values[i]), range, histogram, seen);
        return;
    }
    const float *values = (const float *)t.values;
    u64 i = begin;
    const u64 misaligned = ((u64)(values + begin) & 15) / 4;
    if (misaligned) {  // up to an address from which four values are read at once
        const u64 stop = min(end, begin + 4 - misaligned);
        if (begin + threadIdx.x < stop) count(values[begin + threadIdx.x], range, histogram, seen);
        i = stop;
    }
    const float4 *fours = (const float4 *)(values + i);
    const u64 num_fours = (end - i) / 4;
    u64 k = threadIdx.x;
    for (; k + 3 * BLOCK < num_fours; k += 4 * BLOCK) {  // several loads are under way at once
        float4 v[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) v[j] = __ldg(fours + k + j * BLOCK);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            count(v[j].x, range, histogram, seen);
            count(v[j].y, range, histogram, seen);
            count(v[j].z, range, histogram, seen);
            count(v[j].w, range, histogram, seen);
        }
    }
    for (; k < num_fours; k += BLOCK) {
        const float4 v = __ldg(fours + k);
        count(v.x, range, histogram, seen);
        count(v.y, range, histogram, seen);
        count(v.z, range, histogram, seen);
        count(v.w, range, histogram, seen);
    }
    const u64 rest = i + 4 * num_fours + threadIdx.x;
    if (rest < end) count(values[rest], range, histogram, seen);
}

// Counts the values of all tensors of a batch. Each block takes an equal share of them, which may span tensors.
// The first pass counts what lies within the range of each tensor as it is; the second one, where `widen` had to widen
// that range, what lay beyond it.
extern "C" __global__ void __launch_bounds__(BLOCK) count_batch(
    const Tensor *tensors, int num_tensors, u64 num_values, State *states, u64 *histograms, int is_second) {
    __shared__ u32 histogram[BINS];
    const u64 share = ((num_values + gridDim.x - 1) / gridDim.x + 3) & ~(u64)3;
    u64 begin = share * blockIdx.x;
    const u64 end = min(begin + share, num_values);
    int low = 0, high = num_tensors;  // the last tensor that begins at or before `begin`
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (tensors[middle].first <= begin) low = middle; else high = middle;
    }
    for (int n = low; n < num_tensors && begin < end; ++n) {
        const Tensor t = tensors[n];
        const u64 stop = min(end, t.first + t.size);
        if (stop <= begin) continue;
        State *state = &states[t.state];
        const int exponent = state->exponent;
        if (is_second && !state->has_grown) {
            begin = stop;
            continue;
        }
        Range range;
        range.inverse = exponent == NO_EXPONENT ? 0.0f : power_of_two(-exponent);
        // (2^exponent * BINS may be infinite: then no finite value lies beyond it)
        range.up_to = exponent == NO_EXPONENT ? 0.0f
                    : exponent + LOG2_BINS > 127 ? 3.402823466e38f
                                                 : power_of_two(exponent + LOG2_BINS);
        range.below = -1.0f;
        if (is_second) range.below = state->counted == NO_EXPONENT ? 0.0f : power_of_two(state->counted + LOG2_BINS);
        __syncthreads();  // the threads of the tensor before have added up their counts
        for (int i = threadIdx.x; i < BINS; i += BLOCK) histogram[i] = 0;
        __syncthreads();
        Seen seen = {__uint_as_float(0x7f800000u), __uint_as_float(0xff800000u), 0, false};
        count_values(t, begin - t.first, stop - t.first, range, histogram, seen);
        if (seen.zeros) atomicAdd(&histogram[0], seen.zeros);
        if (!is_second) {
            for (int offset = 16; offset; offset /= 2) {
                seen.minimum = fminf(seen.minimum, __shfl_xor_sync(0xffffffffu, seen.minimum, offset));
                seen.maximum = fmaxf(seen.maximum, __shfl_xor_sync(0xffffffffu, seen.maximum, offset));
            }
            if (threadIdx.x % 32 == 0 && seen.minimum <= seen.maximum) {
                atomicMin(&state->minimum, ordered(seen.minimum));
                atomicMax(&state->maximum, ordered(seen.maximum));
            }
            if (seen.is_non_finite) state->is_non_finite = 1;
        }
        __syncthreads();
        u64 *total = histograms + (u64)t.state * BINS;
        for (int i = threadIdx.x; i < BINS; i += BLOCK)
            if (histogram[i]) atomicAdd(&total[i], (u64)histogram[i]);
        begin = stop;
    }
}

// Widens the histogram of each tensor of a batch whose largest magnitude lies beyond it, by adding neighbours.
// A block for each tensor.
extern "C" __global__ void __launch_bounds__(1024) widen(const Tensor *tensors, State *states, u64 *histograms) {
    const int n = tensors[blockIdx.x].state;
    State *state = &states[n];
    u64 *histogram = histograms + (u64)n * BINS;
    const int current = state->exponent;
    const bool is_empty = state->minimum > state->maximum;
    const float amax = is_empty ? 0.0f : fmaxf(fabsf(from_ordered(state->minimum)), fabsf(from_ordered(state->maximum)));
    int wanted = current;
    if (amax > 0.0f && !state->is_non_finite) {
        int exponent;
        const float mantissa = frexpf(amax, &exponent);
        wanted = max(exponent - LOG2_BINS - (mantissa == 0.5f), SMALLEST_EXPONENT);
        if (current != NO_EXPONENT) wanted = max(wanted, current);
    }
    __syncthreads();  // everyone has read the state
    if (threadIdx.x == 0) {
        state->counted = current;
        state->has_grown = wanted != current;
        state->exponent = wanted;
    }
    if (wanted == current || current == NO_EXPONENT) return;
    const int doublings = min(wanted - current, LOG2_BINS);
    u64 sums[BINS / 1024];
    for (int j = 0; j < BINS / 1024; ++j) {
        const int bin = threadIdx.x + j * 1024;
        u64 sum = 0;
        if (bin < BINS >> doublings)
            for (int i = bin << doublings; i < (bin + 1) << doublings; ++i) sum += histogram[i];
        sums[j] = sum;
    }
    __syncthreads();
    for (int j = 0; j < BINS / 1024; ++j) histogram[threadIdx.x + j * 1024] = sums[j];
}
