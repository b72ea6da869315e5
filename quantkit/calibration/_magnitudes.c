/* The exact histogram of `statistics.py` in one pass over memory: extremes, finiteness and counts of a chunk while it is
 * in the first cache. Bit for bit what NumPy gives there, which remains the definition and what runs where this was not
 * compiled. Counts are kept apart until the end, so that a value that is not finite leaves no trace.
 *
 * Plain C that compilers vectorize with what every x86-64 and ARM processor has. AVX2 and AVX-512 gain a tenth. */

#if !defined(Py_LIMITED_API) && defined(QUANTKIT_STABLE_ABI)
#define Py_LIMITED_API 0x030b0000 /* the buffer protocol is stable from Python 3.11 on */
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 4096 /* values: with their indices they fill the first cache */
#define LANES 4    /* histograms side by side: an addition need not wait for the one before it, to the same bin */
#define MOST_BINS (1 << 16)
#define SMALLEST_EXPONENT (-126) /* as in statistics.py */
#define LARGEST_EXPONENT 126
#define MOST_PENDING ((Py_ssize_t)LANES * (UINT16_MAX - LANES)) /* values before a lane's counter could overflow */

/* Floats in the order of their values as integers, -NaN < -infinity < numbers < infinity < NaN: integer minimum and
 * maximum are vectorized without -ffast-math, and see what is not finite. */
#define KEY_INFINITY 0x7f800000
#define KEY_MINUS_INFINITY (-0x7f800000 - 1)

typedef struct {
    Py_ssize_t bins;
    double width;     /* of a bin: a power of two; 0 as long as every value was 0 */
    int64_t *counts;  /* [bins + 1] by ceil(|x| / width): zeros apart from the first bin */
    uint16_t *lanes;  /* [LANES][bins + 1], not yet in counts */
    Py_ssize_t pending; /* values in lanes */
    int32_t low, high;  /* keys of the extremes */
} Counter;

static int32_t key_of(const float *value) {
    int32_t bits;
    memcpy(&bits, value, sizeof bits);
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

static double value_of(int32_t key) {
    int32_t bits = key ^ ((key >> 31) & 0x7fffffff);
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value + 0.0; /* which zero comes first must not decide the sign */
}

static void find_extremes(const float *values, Py_ssize_t size, int32_t *low, int32_t *high) {
    int32_t smallest = key_of(values), largest = smallest;
    for (Py_ssize_t i = 0; i < size; i++) {
        int32_t key = key_of(values + i);
        smallest = key < smallest ? key : smallest;
        largest = key > largest ? key : largest;
    }
    *low = smallest;
    *high = largest;
}

static void find_indices(const float *values, Py_ssize_t size, float inverse, int32_t *indices) {
    for (Py_ssize_t i = 0; i < size; i++) {
        float scaled = fabsf(values[i] * inverse);
        int32_t floored = (int32_t)scaled;
        indices[i] = floored + ((float)floored < scaled);
    }
}

static void count_indices(const int32_t *indices, Py_ssize_t size, uint16_t *lanes, Py_ssize_t stride) {
    Py_ssize_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        lanes[indices[i]]++;
        lanes[stride + indices[i + 1]]++;
        lanes[2 * stride + indices[i + 2]]++;
        lanes[3 * stride + indices[i + 3]]++;
    }
    for (; i < size; i++) lanes[indices[i]]++;
}

static void flush(Counter *counter) {
    Py_ssize_t stride = counter->bins + 1;
    if (counter->pending == 0) return;
    for (int lane = 0; lane < LANES; lane++)
        for (Py_ssize_t i = 0; i < stride; i++) counter->counts[i] += counter->lanes[lane * stride + i];
    memset(counter->lanes, 0, (size_t)(LANES * stride) * sizeof *counter->lanes);
    counter->pending = 0;
}

/* Sums wrap as NumPy's do: statistics may come from a file. */
static int64_t add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }

/* Makes bins wide enough for `largest`. */
static void widen(Counter *counter, double largest) {
    Py_ssize_t bins = counter->bins;
    flush(counter);
    if (counter->width == 0) {
        int exponent;
        double mantissa = frexp(largest / (double)bins, &exponent);
        exponent -= mantissa == 0.5;
        counter->width = ldexp(1.0, exponent < SMALLEST_EXPONENT ? SMALLEST_EXPONENT : exponent);
        return;
    }
    while (largest > counter->width * (double)bins) {
        for (Py_ssize_t i = 1; i <= bins / 2; i++) counter->counts[i] = counter->counts[2 * i - 1] + counter->counts[2 * i];
        memset(counter->counts + bins / 2 + 1, 0, (size_t)(bins / 2) * sizeof *counter->counts);
        counter->width *= 2;
    }
}

/* Returns 0, or -1 at a value that is not finite. */
static int count_values(Counter *counter, const float *values, Py_ssize_t size) {
    int32_t indices[CHUNK];
    for (Py_ssize_t start = 0; start < size; start += CHUNK) {
        const float *chunk = values + start;
        Py_ssize_t length = size - start < CHUNK ? size - start : CHUNK;
        int32_t low, high;
        find_extremes(chunk, length, &low, &high);
        if (low <= KEY_MINUS_INFINITY || high >= KEY_INFINITY) return -1;
        counter->low = low < counter->low ? low : counter->low;
        counter->high = high > counter->high ? high : counter->high;
        double below = -value_of(low), above = value_of(high), largest = below > above ? below : above;
        if (largest == 0) {
            counter->counts[0] += length;
            continue;
        }
        if (largest > counter->width * (double)counter->bins) widen(counter, largest);
        if (counter->pending + length > MOST_PENDING) flush(counter);
        find_indices(chunk, length, (float)(1 / counter->width), indices); /* at most bins: no value exceeds the range */
        count_indices(indices, length, counter->lanes, counter->bins + 1);
        counter->pending += length;
    }
    flush(counter);
    return 0;
}

/* Adds what was counted to a histogram of bins of `width`. */
static void commit(const Counter *counter, int64_t *histogram, double width) {
    Py_ssize_t half = counter->bins / 2;
    for (; 0 < width && width < counter->width; width *= 2) {
        for (Py_ssize_t i = 0; i < half; i++) histogram[i] = add(histogram[2 * i], histogram[2 * i + 1]);
        memset(histogram + half, 0, (size_t)half * sizeof *histogram);
    }
    histogram[0] = add(histogram[0], counter->counts[0]);
    for (Py_ssize_t i = 0; i < counter->bins; i++) histogram[i] = add(histogram[i], counter->counts[i + 1]);
}

static int is_width(double width) {
    int exponent;
    if (width == 0) return 1;
    if (!(width > 0) || isinf(width) || frexp(width, &exponent) != 0.5) return 0;
    return SMALLEST_EXPONENT <= exponent - 1 && exponent - 1 <= LARGEST_EXPONENT;
}

static int has_type(const Py_buffer *buffer, const char *formats, Py_ssize_t itemsize) {
    return buffer->itemsize == itemsize && buffer->format != NULL && buffer->format[0] != 0 && buffer->format[1] == 0 &&
           strchr(formats, buffer->format[0]) != NULL && (uintptr_t)buffer->buf % (uintptr_t)itemsize == 0;
}

static PyObject *count_buffers(const Py_buffer *histogram, double width, const Py_buffer *values) {
    Counter counter = {.bins = histogram->len / 8, .width = width, .low = INT32_MAX, .high = INT32_MIN};
    Py_ssize_t size = values->len / 4;
    if (!has_type(histogram, "lq", 8) || !has_type(values, "f", 4)) {
        PyErr_SetString(PyExc_TypeError, "expected aligned buffers: int64 histogram, float32 values");
        return NULL;
    }
    if (counter.bins < 2 || counter.bins > MOST_BINS || counter.bins & (counter.bins - 1) || !is_width(width) || !size) {
        PyErr_SetString(PyExc_ValueError, "expected 2 to 65536 bins and a width that are powers of two, and a value");
        return NULL;
    }
    counter.counts = calloc((size_t)counter.bins + 1, sizeof *counter.counts);
    counter.lanes = calloc((size_t)(LANES * (counter.bins + 1)), sizeof *counter.lanes);
    int failed = counter.counts == NULL || counter.lanes == NULL;
    if (failed) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS;
        failed = count_values(&counter, values->buf, size);
        if (!failed) commit(&counter, histogram->buf, width);
        Py_END_ALLOW_THREADS;
        if (failed) PyErr_SetString(PyExc_FloatingPointError, "NaN or infinity");
    }
    free(counter.counts);
    free(counter.lanes);
    return failed ? NULL : Py_BuildValue("ddd", counter.width, value_of(counter.low), value_of(counter.high));
}

static PyObject *add_magnitudes(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *histogram_object, *values_object, *result = NULL;
    Py_buffer histogram, values;
    double width;
    if (!PyArg_ParseTuple(arguments, "OdO:add_magnitudes", &histogram_object, &width, &values_object)) return NULL;
    if (PyObject_GetBuffer(histogram_object, &histogram, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) < 0) return NULL;
    if (PyObject_GetBuffer(values_object, &values, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0) {
        result = count_buffers(&histogram, width, &values);
        PyBuffer_Release(&values);
    }
    PyBuffer_Release(&histogram);
    return result;
}

static PyMethodDef methods[] = {
    {"add_magnitudes", add_magnitudes, METH_VARARGS,
     "add_magnitudes(histogram, bin_width, values) -> (bin_width, minimum, maximum)\n\n"
     "Adds float32 values to an exact int64 histogram, in place. FloatingPointError: one is not finite; nothing was added."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_magnitudes",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__magnitudes(void) { return PyModuleDef_Init(&definition); }
