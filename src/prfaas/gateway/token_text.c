/* Numbers of a JSON array of token ids, in one pass over its text.

   Part of the compiled wheel; without it `token_ids` does the same by array operations. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && defined(__GNUC__)
#define WORDS 1
#else
#define WORDS 0
#endif

/* The number that begins at `at`; returns where it ends, or NULL where none does that JSON allows
   and that has 32 bits. */
static const unsigned char *number(const unsigned char *at, const unsigned char *end, uint32_t *to)
{
    const unsigned char *begin = at;
    uint64_t value = 0;
#if WORDS
    if (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        word ^= 0x3030303030303030u; /* Digits are 0 to 9 now; of what is none the top bit is set. */
        uint64_t others = ((word + 0x7676767676767676u) | word) & 0x8080808080808080u;
        if (others) {
            int bits = __builtin_ctzll(others) & ~7;
            if (bits == 0 || (bits > 8 && *at == '0'))
                return NULL;
            word <<= 64 - bits;
            word = (word * (1 + (10u << 8)) >> 8) & 0x00FF00FF00FF00FFu;
            word = (word * (1 + (100u << 16)) >> 16) & 0x0000FFFF0000FFFFu;
            *to = (uint32_t)(word * (1 + ((uint64_t)10000 << 32)) >> 32);
            return at + bits / 8;
        }
    }
#endif
    for (; at < end && *at >= '0' && *at <= '9'; at++) {
        value = 10 * value + (*at - '0');
        if (value > UINT32_MAX)
            return NULL;
    }
    if (at == begin || (at - begin > 1 && *begin == '0'))
        return NULL;
    *to = (uint32_t)value;
    return at;
}

static Py_ssize_t read_all(const unsigned char *text, Py_ssize_t size, uint32_t *to, Py_ssize_t room)
{
    const unsigned char *at = text, *end = text + size;
    if (size < 2 || *at != '[' || end[-1] != ']')
        return -1;
    if (size == 2)
        return 0;
    for (Py_ssize_t count = 0; count < room; count++) {
        at = number(at + 1, end, to + count);
        if (at == NULL || at == end)
            return -1;
        if (*at != ',')
            return at == end - 1 ? count + 1 : -1;
    }
    return -1;
}

static PyObject *numbers(PyObject *self, PyObject *args)
{
    Py_buffer text, to;
    if (!PyArg_ParseTuple(args, "y*w*:numbers", &text, &to))
        return NULL;
    Py_ssize_t count = read_all(text.buf, text.len, to.buf, to.len / (Py_ssize_t)sizeof(uint32_t));
    PyBuffer_Release(&text);
    PyBuffer_Release(&to);
    return PyLong_FromSsize_t(count);
}

static PyMethodDef methods[] = {
    {"numbers", numbers, METH_VARARGS,
     "numbers(text, to): how many uint32 of a JSON array without spaces were written to a buffer;\n"
     "-1 where it is none of whole numbers of 32 bits, or has more than there is room for."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "token_text", .m_size = -1, .m_methods = methods,
};

PyMODINIT_FUNC PyInit_token_text(void)
{
    return PyModule_Create(&module);
}
