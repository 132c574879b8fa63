// The forward pass of an exported network, and f with its gradient. No dependency.
//
// An export is one safetensors file: float16 or float32 tensors (8-bit ones with a scale for each
// row) and, as metadata, a description: for each network a list of operations on named values.

const HALF = new Float32Array(65536); // every float16
for (let u = 0; u < 65536; u++) {
  const e = (u >> 10) & 31, m = u & 1023, size = e ? 2 ** (e - 15) * (1 + m / 1024) : m * 2 ** -24;
  HALF[u] = u & 0x8000 ? -size : size;
}
const READ = {
  F16: [2, (view, at) => HALF[view.getUint16(at, true)]],
  F32: [4, (view, at) => view.getFloat32(at, true)],
  I8: [1, (view, at) => view.getInt8(at)],
};

// Uint8Array or DataView of a safetensors file -> {description, tensors: {name: {shape, data}}}
export function readExport(bytes) {
  const { buffer, byteOffset } = bytes;
  const length = Number(new DataView(buffer, byteOffset, 8).getBigUint64(0, true));
  const text = new TextDecoder().decode(new Uint8Array(buffer, byteOffset + 8, length));
  const { __metadata__: meta, ...entries } = JSON.parse(text);
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    const view = new DataView(buffer, byteOffset + 8 + length + from, to - from);
    const [width, read] = READ[dtype], data = new Float32Array((to - from) / width);
    for (let i = 0; i < data.length; i++) data[i] = read(view, i * width);
    tensors[name] = { shape, data };
  }
  for (const [name, { shape: [rows], data }] of Object.entries(tensors)) {
    const scale = tensors[name + ".scale"]?.data, n = data.length / rows;
    if (scale) for (let i = 0; i < data.length; i++) data[i] *= scale[Math.floor(i / n)];
  }
  return { description: JSON.parse(meta.description), tensors };
}

// ---------------------------------------------------------------------------------- activations

function erf(x) { // a Chebyshev fit, relative error of 1 - erf below 1.2e-7
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const p = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398,
    1.48851587, -0.82215223, 0.17087277].reduceRight((s, c) => s * t + c, 0);
  const tail = t * Math.exp(-x * x + p);
  return x >= 0 ? 1 - tail : tail - 1;
}
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const cdf = (x) => 0.5 * (1 + erf(x * Math.SQRT1_2));

// name -> [act(x, slope), its derivative]
const ACTS = {
  none: [(x) => x, () => 1],
  lrelu: [(x, slope) => (x > 0 ? x : slope * x), (x, slope) => (x > 0 ? 1 : slope)],
  tanh: [Math.tanh, (x) => 1 - Math.tanh(x) ** 2],
  silu: [(x) => x * sigmoid(x), (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x)))],
  gelu: [(x) => x * cdf(x), (x) => cdf(x) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI)],
};

// --------------------------------------------------------------------------------- affine maps

// y[start + o stride] = b[o] + W[o] . x for two inputs at once; W is (outputs, n), four rows a turn
function products(W, b, n, outputs, x0, x1, y, start0, start1, stride) {
  let o = 0;
  for (; o + 3 < outputs; o += 4) {
    let a0 = b[o], a1 = b[o + 1], a2 = b[o + 2], a3 = b[o + 3];
    let c0 = a0, c1 = a1, c2 = a2, c3 = a3;
    const r0 = o * n, r1 = r0 + n, r2 = r1 + n, r3 = r2 + n;
    for (let i = 0; i < n; i++) {
      const u = x0[i], v = x1[i], w0 = W[r0 + i], w1 = W[r1 + i], w2 = W[r2 + i], w3 = W[r3 + i];
      a0 += w0 * u; a1 += w1 * u; a2 += w2 * u; a3 += w3 * u;
      c0 += w0 * v; c1 += w1 * v; c2 += w2 * v; c3 += w3 * v;
    }
    const p = start0 + o * stride, q = start1 + o * stride;
    y[p] = a0; y[p + stride] = a1; y[p + 2 * stride] = a2; y[p + 3 * stride] = a3;
    y[q] = c0; y[q + stride] = c1; y[q + 2 * stride] = c2; y[q + 3 * stride] = c3;
  }
  for (; o < outputs; o++) {
    let a = b[o], c = a;
    for (let i = 0, r = o * n; i < n; i++) { a += W[r + i] * x0[i]; c += W[r + i] * x1[i]; }
    y[start0 + o * stride] = a; y[start1 + o * stride] = c;
  }
}

function product(W, b, n, outputs, x, y) {
  let o = 0;
  for (; o + 3 < outputs; o += 4) {
    let a0 = b[o], a1 = b[o + 1], a2 = b[o + 2], a3 = b[o + 3];
    const r0 = o * n, r1 = r0 + n, r2 = r1 + n, r3 = r2 + n;
    for (let i = 0; i < n; i++) {
      const u = x[i];
      a0 += W[r0 + i] * u; a1 += W[r1 + i] * u; a2 += W[r2 + i] * u; a3 += W[r3 + i] * u;
    }
    y[o] = a0; y[o + 1] = a1; y[o + 2] = a2; y[o + 3] = a3;
  }
  for (; o < outputs; o++) {
    let a = b[o];
    for (let i = 0, r = o * n; i < n; i++) a += W[r + i] * x[i];
    y[o] = a;
  }
}

// Both kinds of convolution as matrix products over patches. A convolution is one family of
// outputs; a transposed one of stride s is s x s families, one for each place in the s x s cell,
// each of which sees its own taps of the kernel.
function families(op, [channels, , ], weight) {
  const { stride: s, padding: p } = op, [d0, d1, kh, kw] = weight.shape;
  const transposed = op.op === "convT", outputs = transposed ? d1 : d0, found = [];
  const cell = transposed ? s : 1;
  for (let ry = 0; ry < cell; ry++) for (let rx = 0; rx < cell; rx++) {
    const taps = [];
    for (let ky = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
      const dy = transposed ? (ry + p - ky) / s : ky - p, dx = transposed ? (rx + p - kx) / s : kx - p;
      if (Number.isInteger(dy) && Number.isInteger(dx)) taps.push({ dy, dx, k: ky * kw + kx });
    }
    const n = channels * taps.length, W = new Float32Array(outputs * n);
    for (let o = 0; o < outputs; o++) for (let c = 0; c < channels; c++) taps.forEach(({ k }, t) => {
      const at = transposed ? c * outputs + o : o * channels + c;
      W[o * n + c * taps.length + t] = weight.data[at * kh * kw + k];
    });
    found.push({ ry, rx, taps, n, W });
  }
  return { found, outputs, cell, move: transposed ? 1 : s };
}

function convolution(op, shape, weight, bias) {
  const [channels, h, w] = shape, [, , kh, kw] = weight.shape, { stride: s, padding: p } = op;
  const size = (n, k) => (op.op === "convT" ? (n - 1) * s - 2 * p + k : Math.floor((n + 2 * p - k) / s) + 1);
  const H = size(h, kh), Wd = size(w, kw), { found, outputs, cell, move } = families(op, shape, weight);
  const y = new Float32Array(outputs * H * Wd), longest = Math.max(...found.map((f) => f.n));
  const patches = [new Float64Array(longest), new Float64Array(longest)];

  function gather(x, taps, iy, ix, patch) {
    for (let t = 0, T = taps.length; t < T; t++) {
      const yy = iy + taps[t].dy, xx = ix + taps[t].dx;
      if (yy < 0 || yy >= h || xx < 0 || xx >= w) for (let c = 0, j = t; c < channels; c++, j += T) patch[j] = 0;
      else for (let c = 0, j = t, i = yy * w + xx; c < channels; c++, j += T, i += h * w) patch[j] = x[i];
    }
  }
  const run = (x) => {
    for (const { ry, rx, taps, n, W } of found) {
      let waiting = -1; // two pixels share each pass over the weights
      for (let oy = ry; oy < H; oy += cell) for (let ox = rx; ox < Wd; ox += cell) {
        const iy = (cell > 1 ? (oy - ry) / cell : oy) * move, ix = (cell > 1 ? (ox - rx) / cell : ox) * move;
        gather(x, taps, iy, ix, patches[waiting < 0 ? 0 : 1]);
        if (waiting < 0) { waiting = oy * Wd + ox; continue; }
        products(W, bias, n, outputs, patches[0], patches[1], y, waiting, oy * Wd + ox, H * Wd);
        waiting = -1;
      }
      if (waiting >= 0) products(W, bias, n, outputs, patches[0], patches[0], y, waiting, waiting, H * Wd);
    }
    return y;
  };
  return { shape: [outputs, H, Wd], run };
}

// -------------------------------------------------------------------------------- the programs

// One step of a program: given the shapes of its inputs, {shape, run(...inputs) -> Float32Array}.
const STEPS = {
  linear(op, [shape], weight, bias) {
    const [outputs, n] = weight.shape, y = new Float32Array(outputs);
    return { shape: [outputs], run: (x) => { product(weight.data, bias, n, outputs, x, y); return y; } };
  },
  conv: (op, [shape], weight, bias) => convolution(op, shape, weight, bias),
  convT: (op, [shape], weight, bias) => convolution(op, shape, weight, bias),
  act(op, [shape]) {
    const [act] = ACTS[op.name], slope = op.slope;
    return { shape, run: (x) => { for (let i = 0; i < x.length; i++) x[i] = act(x[i], slope); return x; } };
  },
  reshape: (op, [shape]) => ({
    shape: op.shape ?? [shape.reduce((a, b) => a * b, 1)],
    run: (x) => x,
  }),
  slice: (op) => ({ shape: [op.end - op.start], run: (x) => x.subarray(op.start, op.end) }),
  concat(op, shapes) { // along the first axis: one after the other in memory
    const shape = [shapes.reduce((n, s) => n + s[0], 0), ...shapes[0].slice(1)];
    const y = new Float32Array(shape.reduce((a, b) => a * b, 1));
    return { shape, run: (...xs) => { let at = 0; for (const x of xs) { y.set(x, at); at += x.length; } return y; } };
  },
  add(op, [shape]) {
    const y = new Float32Array(shape.reduce((a, b) => a * b, 1));
    return { shape, run: (a, b) => { for (let i = 0; i < y.length; i++) y[i] = a[i] + b[i]; return y; } };
  },
};

// A program with its tensors -> a function Float32Array -> Float32Array. The result is a buffer
// that the next call overwrites.
export function compile({ shape, ops }, tensors) {
  const shapes = { input: shape }, values = {};
  const steps = ops.map((op) => {
    const weight = tensors[op.weight], bias = tensors[op.bias]?.data;
    const step = STEPS[op.op](op, op.in.map((name) => shapes[name]), weight, bias);
    shapes[op.out] = step.shape;
    return step.run;
  });
  const last = ops[ops.length - 1].out;
  return (x) => {
    values.input = x;
    for (let k = 0; k < ops.length; k++) values[ops[k].out] = steps[k](...ops[k].in.map((name) => values[name]));
    return values[last];
  };
}

// f(z), an MLP to one number, with its gradient written out: a_i = W_i h_{i-1} + b_i, h_i = act(a_i),
// g_n = act'(a_n) w_out, g_i = act'(a_i) (W_{i+1}^T g_{i+1}), grad f = W_1^T g_1. No layers: f = 0.
export class NegativeEnergy {
  constructor({ layers, act, slope }, tensors) {
    this.layers = layers.map(([w, b]) => {
      const { shape: [outputs, n], data } = tensors[w];
      return { outputs, n, W: data, b: tensors[b].data, a: new Float32Array(outputs), h: new Float32Array(outputs), g: new Float32Array(n) };
    });
    [this.act, this.slopeOf] = ACTS[act ?? "none"];
    this.slope = slope;
  }

  value(z) {
    let h = z;
    for (const L of this.layers) {
      product(L.W, L.b, L.n, L.outputs, h, L.a);
      for (let i = 0; i < L.outputs; i++) L.h[i] = this.act(L.a[i], this.slope);
      h = L.h;
    }
    return this.layers.length ? this.layers[this.layers.length - 1].a[0] : 0;
  }

  gradient(z, grad) { // fills grad and returns f(z)
    const value = this.value(z);
    let above = [1];
    for (let k = this.layers.length - 1; k >= 0; k--) {
      const { W, n, outputs, g } = this.layers[k];
      g.fill(0);
      let o = 0;
      for (; o + 3 < outputs; o += 4) {
        const [v0, v1, v2, v3] = [above[o], above[o + 1], above[o + 2], above[o + 3]], r = o * n;
        for (let i = r, j = 0; j < n; i++, j++) g[j] += v0 * W[i] + v1 * W[i + n] + v2 * W[i + 2 * n] + v3 * W[i + 3 * n];
      }
      for (; o < outputs; o++) for (let i = o * n, j = 0; j < n; i++, j++) g[j] += above[o] * W[i];
      if (k) for (let i = 0, { a } = this.layers[k - 1]; i < n; i++) g[i] *= this.slopeOf(a[i], this.slope);
      above = g;
    }
    for (let i = 0; i < z.length; i++) grad[i] = this.layers.length ? above[i] : 0;
    return value;
  }
}
