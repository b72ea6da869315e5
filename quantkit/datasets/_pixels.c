/* Levels of pixels to values of a model's input: `preprocess.look_up` in one pass over the pixels and without Python's
 * lock, so that threads prepare images side by side. Bit for bit what NumPy gives there, which runs where this was not
 * compiled. */

#if !defined(Py_LIMITED_API) && defined(QUANTKIT_STABLE_ABI)
#define Py_LIMITED_API 0x030b0000 /* the buffer protocol is stable from Python 3.11 on */
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

#define LEVELS 256

typedef struct {
    const uint8_t *pixels; /* [count][channels] */
    Py_ssize_t count, channels;
    int is_planar, is_reversed; /* [channels][count] is written; channels are read from the last to the first */
} Picture;

/* Values are moved, not computed with: one function for each size of theirs. */
#define DEFINE_LOOK_UP(TYPE)                                                                                \
    static void look_up_##TYPE(const Picture *picture, const TYPE *table, TYPE *values) {                   \
        Py_ssize_t channels = picture->channels, step = picture->is_planar ? 1 : channels;                  \
        for (Py_ssize_t c = 0; c < channels; c++) {                                                         \
            const uint8_t *levels = picture->pixels + (picture->is_reversed ? channels - 1 - c : c);        \
            const TYPE *of_channel = table + c * LEVELS;                                                    \
            TYPE *out = values + (picture->is_planar ? c * picture->count : c);                             \
            for (Py_ssize_t i = 0; i < picture->count; i++) out[i * step] = of_channel[levels[i * channels]]; \
        }                                                                                                   \
    }

DEFINE_LOOK_UP(uint8_t)
DEFINE_LOOK_UP(uint16_t)
DEFINE_LOOK_UP(uint32_t)
DEFINE_LOOK_UP(uint64_t)

static PyObject *look_up_buffers(Picture *picture, const Py_buffer *pixels, const Py_buffer *table, const Py_buffer *values) {
    Py_ssize_t size = table->itemsize;
    picture->channels = table->len / (LEVELS * size);
    picture->pixels = pixels->buf;
    picture->count = picture->channels ? pixels->len / picture->channels : 0;
    int fits = picture->channels > 0 && table->len == picture->channels * LEVELS * size;
    fits = fits && pixels->len == picture->count * picture->channels && pixels->itemsize == 1;
    if (!fits || values->itemsize != size || values->len / size != pixels->len) {
        PyErr_SetString(PyExc_ValueError, "pixels, table and values do not fit together");
        return NULL;
    }
    if (size != 1 && size != 2 && size != 4 && size != 8) {
        PyErr_SetString(PyExc_ValueError, "values must have 1, 2, 4 or 8 bytes");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS;
    if (size == 1) look_up_uint8_t(picture, table->buf, values->buf);
    else if (size == 2) look_up_uint16_t(picture, table->buf, values->buf);
    else if (size == 4) look_up_uint32_t(picture, table->buf, values->buf);
    else look_up_uint64_t(picture, table->buf, values->buf);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static PyObject *look_up(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *pixels_object, *table_object, *values_object, *result = NULL;
    Py_buffer pixels, table, values;
    Picture picture;
    if (!PyArg_ParseTuple(arguments, "OOOpp:look_up", &pixels_object, &table_object, &values_object,
                          &picture.is_planar, &picture.is_reversed))
        return NULL;
    if (PyObject_GetBuffer(pixels_object, &pixels, PyBUF_C_CONTIGUOUS) < 0) return NULL;
    if (PyObject_GetBuffer(table_object, &table, PyBUF_C_CONTIGUOUS) == 0) {
        if (PyObject_GetBuffer(values_object, &values, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0) {
            result = look_up_buffers(&picture, &pixels, &table, &values);
            PyBuffer_Release(&values);
        }
        PyBuffer_Release(&table);
    }
    PyBuffer_Release(&pixels);
    return result;
}

static PyMethodDef methods[] = {
    {"look_up", look_up, METH_VARARGS,
     "look_up(pixels, table, values, is_planar, is_reversed)\n\n"
     "Writes the value of each pixel: pixels are bytes [..., C], the table is [C, 256], values [C, ...] or [..., C]."},
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
    .m_name = "_pixels",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__pixels(void) { return PyModuleDef_Init(&definition); }
