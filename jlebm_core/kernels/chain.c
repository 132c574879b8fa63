/* All steps of Langevin chains on f(z) + log N(z; 0, I), for an MLP f with LeakyReLU or ReLU.

   z <- (1 - s^2/2) z + (s^2/2) grad f(z) + eps, with eps already scaled by s. A block of LANES
   chains lies in the cache as features x chains: every operation of a step is then a small matrix
   product whose result is bent by the activation while it is still in registers. native.py compiles
   this file and calls it; the arithmetic is that of langevin.langevin_mlp. */

#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define WIDTH 16 /* floats in a vector register */
#define NVEC 3   /* vectors side by side, so that NVEC x ROWS sums fill the registers */
#define ROWS 8
#elif defined(__AVX__)
#define WIDTH 8
#define NVEC 2
#define ROWS 6
#else
#define WIDTH 4
#define NVEC 3
#define ROWS 6
#endif
#define LANES (WIDTH * NVEC)

typedef float vec __attribute__((vector_size(4 * WIDTH)));
typedef int mask __attribute__((vector_size(4 * WIDTH)));

enum mode { FORWARD, TOP, BACKWARD, STEP };

typedef struct {
  const float *weight, *bias; /* weight: rows x columns */
  int rows, columns;
} layer;

typedef struct {
  const float *packed, *bias; /* packed: blocks of rows; in each, input by input, its weights */
  int rows, columns;
} matrix;

static int blocks_of(int rows) { return (rows + ROWS - 1) / ROWS; }

/* Rows of block b: all blocks are about equal, so that none is too thin to keep the units busy. */
static int rows_in(int b, int rows) {
  return rows / blocks_of(rows) + (b < rows % blocks_of(rows));
}

/* A layer's matrix or its transpose, times `scale`, packed at *to, which moves on. */
static matrix pack(const layer *l, int transposed, float scale, float **to) {
  matrix m = {*to, l->bias, l->rows, l->columns};
  if (transposed) m.rows = l->columns, m.columns = l->rows;
  for (int b = 0, row = 0; b < blocks_of(m.rows); row += rows_in(b++, m.rows))
    for (int k = 0; k < m.columns; k++)
      for (int r = row; r < row + rows_in(b, m.rows); r++)
        *(*to)++ = scale * l->weight[transposed ? k * l->columns + r : r * l->columns + k];
  return m;
}

static inline vec bend(vec value, vec sign, float slope) {
  mask positive = sign > 0;
  return (vec)((positive & (mask)value) | (~positive & (mask)(value * slope)));
}

/* `count` rows of y = matrix x, each finished by what `mode` asks for. */
static inline __attribute__((always_inline)) void rows_of(
    int count, enum mode mode, const float *w, const float *bias, const float *out, int columns,
    const vec *x, const vec *eps, vec *y, float slope, float keep) {
  vec sum[ROWS][NVEC];
#pragma GCC unroll 8
  for (int r = 0; r < count; r++)
#pragma GCC unroll 3
    for (int v = 0; v < NVEC; v++)
      sum[r][v] = mode == FORWARD || mode == TOP ? (vec){} + bias[r] : (vec){};
  for (int k = 0; k < columns; k++, x += NVEC, w += count)
#pragma GCC unroll 8
    for (int r = 0; r < count; r++)
#pragma GCC unroll 3
      for (int v = 0; v < NVEC; v++) sum[r][v] += w[r] * x[v];
#pragma GCC unroll 8
  for (int r = 0; r < count; r++)
#pragma GCC unroll 3
    for (int v = 0; v < NVEC; v++) {
      vec *to = y + r * NVEC + v;
      if (mode == FORWARD) *to = bend(sum[r][v], sum[r][v], slope);
      if (mode == TOP) *to = bend((vec){} + out[r], sum[r][v], slope);
      if (mode == BACKWARD) *to = bend(sum[r][v], *to, slope); /* y holds act(a): a's sign */
      if (mode == STEP) *to = keep * *to + (eps[r * NVEC + v] + sum[r][v]);
    }
}

static inline __attribute__((always_inline)) void product(
    const matrix *m, enum mode mode, const float *out, const vec *x, const vec *eps, vec *y,
    float slope, float keep) {
  int row = 0;
  const float *w = m->packed;
  for (int b = 0; b < blocks_of(m->rows); b++) {
    int count = rows_in(b, m->rows);
    const float *bias = m->bias + row, *top = out + row;
    const vec *e = eps + row * NVEC;
    vec *to = y + row * NVEC;
#define CASE(n) \
  case n: \
    rows_of(n, mode, w, bias, top, m->columns, x, e, to, slope, keep); \
    break;
    switch (count) {
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if ROWS > 6
      CASE(7) CASE(8)
#endif
    }
    w += count * m->columns;
    row += count;
  }
}

int lanes(void) { return LANES; }

/* Chains `from` .. `to` - 1 of z (batch, dim): `steps` steps with eps (steps, batch, dim), scaled.
   f has the n hidden layers l and the weights `out` to its one output. 1: no memory. */
int run(float *z, const float *eps, const layer *l, const float *out, int n, int batch, int dim,
        int steps, float drift, float slope, int from, int to) {
  size_t units = 2 * dim, weights = 0;
  for (int i = 0; i < n; i++) units += l[i].rows, weights += 2 * (size_t)l[i].rows * l[i].columns;
  vec *buffer = NULL;
  size_t size = units * NVEC * sizeof(vec) + weights * sizeof(float);
  if (posix_memalign((void **)&buffer, sizeof(vec), size)) return 1;
  vec *state = buffer, *noise = state + dim * NVEC, *hidden[n];
  hidden[0] = noise + dim * NVEC;
  for (int i = 1; i < n; i++) hidden[i] = hidden[i - 1] + l[i - 1].rows * NVEC;
  float *free_place = (float *)(buffer + units * NVEC), keep = 1 - drift;
  matrix up[n], down[n];
  for (int i = 0; i < n; i++) {
    up[i] = pack(l + i, 0, 1, &free_place);
    down[i] = pack(l + i, 1, i ? 1 : drift, &free_place);
  }
  for (int first = from; first < to; first += LANES) {
    int count = to - first < LANES ? to - first : LANES;
    memset(state, 0, 2 * dim * NVEC * sizeof(vec));
    for (int c = 0; c < count; c++)
      for (int d = 0; d < dim; d++) ((float *)state)[d * LANES + c] = z[(first + c) * (size_t)dim + d];
    for (int k = 0; k < steps; k++) {
      const float *e = eps + (k * (size_t)batch + first) * dim;
      for (int c = 0; c < count; c++)
        for (int d = 0; d < dim; d++) ((float *)noise)[d * LANES + c] = e[c * dim + d];
      const vec *x = state;
      for (int i = 0; i < n - 1; i++, x = hidden[i - 1])
        product(up + i, FORWARD, out, x, noise, hidden[i], slope, keep);
      product(up + n - 1, TOP, out, x, noise, hidden[n - 1], slope, keep);
      for (int i = n - 1; i > 0; i--)
        product(down + i, BACKWARD, out, hidden[i], noise, hidden[i - 1], slope, keep);
      product(down, STEP, out, hidden[0], noise, state, slope, keep);
    }
    for (int c = 0; c < count; c++)
      for (int d = 0; d < dim; d++) z[(first + c) * (size_t)dim + d] = ((float *)state)[d * LANES + c];
  }
  free(buffer);
  return 0;
}
