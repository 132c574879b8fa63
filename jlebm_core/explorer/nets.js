// The forward pass of an exported network, and f with its gradient. No dependency.
//
// An export is one safetensors file: float16 or float32 tensors (8-bit ones with a scale for each
// row) and, as metadata, a description: for each network a list of operations on named values.
import { convolution, product } from "./maps.js";

const HALF = new Float32Array(65536); // every float16
for (let u = 0; u < 65536; u++) {
  const e = (u >> 10) & 31,
    m = u & 1023,
    size = e ? 2 ** (e - 15) * (1 + m / 1024) : m * 2 ** -24;
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
  for (const [
    name,
    {
      dtype,
      shape,
      data_offsets: [from, to],
    },
  ] of Object.entries(entries)) {
    const view = new DataView(buffer, byteOffset + 8 + length + from, to - from);
    const [width, read] = READ[dtype],
      data = new Float32Array((to - from) / width);
    for (let i = 0; i < data.length; i++) data[i] = read(view, i * width);
    tensors[name] = { shape, data };
  }
  for (const [
    name,
    {
      shape: [rows],
      data,
    },
  ] of Object.entries(tensors)) {
    const scale = tensors[name + ".scale"]?.data,
      n = data.length / rows;
    if (scale) for (let i = 0; i < data.length; i++) data[i] *= scale[Math.floor(i / n)];
  }
  return { description: JSON.parse(meta.description), tensors };
}

// ---------------------------------------------------------------------------------- activations

function erf(x) {
  // a Chebyshev fit, relative error of 1 - erf below 1.2e-7
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const p = [
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398,
    1.48851587, -0.82215223, 0.17087277,
  ].reduceRight((s, c) => s * t + c, 0);
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

// -------------------------------------------------------------------------------- the programs

// One step of a program: given the shapes of its inputs, {shape, run(...inputs) -> Float32Array}.
const STEPS = {
  linear(op, [shape], weight, bias) {
    const [outputs, n] = weight.shape,
      y = new Float32Array(outputs);
    return {
      shape: [outputs],
      run: (x) => {
        product(weight.data, bias, n, outputs, x, y);
        return y;
      },
    };
  },
  conv: (op, [shape], weight, bias) => convolution(op, shape, weight, bias),
  convT: (op, [shape], weight, bias) => convolution(op, shape, weight, bias),
  act(op, [shape]) {
    const [act] = ACTS[op.name],
      slope = op.slope;
    return {
      shape,
      run: (x) => {
        for (let i = 0; i < x.length; i++) x[i] = act(x[i], slope);
        return x;
      },
    };
  },
  reshape: (op, [shape]) => ({
    shape: op.shape ?? [shape.reduce((a, b) => a * b, 1)],
    run: (x) => x,
  }),
  slice: (op) => ({ shape: [op.end - op.start], run: (x) => x.subarray(op.start, op.end) }),
  concat(op, shapes) {
    // along the first axis: one after the other in memory
    const shape = [shapes.reduce((n, s) => n + s[0], 0), ...shapes[0].slice(1)];
    const y = new Float32Array(shape.reduce((a, b) => a * b, 1));
    return {
      shape,
      run: (...xs) => {
        let at = 0;
        for (const x of xs) {
          y.set(x, at);
          at += x.length;
        }
        return y;
      },
    };
  },
  // mu + (floor + exp(min(s, most))) eps: a layer of a Gaussian chain, from its noise
  draw(op, [shape]) {
    const y = new Float32Array(shape[0]);
    const run = (mu, s, eps) => {
      for (let i = 0; i < y.length; i++)
        y[i] = mu[i] + (op.floor + Math.exp(Math.min(s[i], op.most))) * eps[i];
      return y;
    };
    return { shape, run };
  },
  add(op, [shape]) {
    const y = new Float32Array(shape.reduce((a, b) => a * b, 1));
    return {
      shape,
      run: (a, b) => {
        for (let i = 0; i < y.length; i++) y[i] = a[i] + b[i];
        return y;
      },
    };
  },
};

// A program with its tensors -> a function Float32Array -> Float32Array. The result is a buffer
// that the next call overwrites.
export function compile({ shape, ops }, tensors) {
  const shapes = { input: shape },
    values = {};
  const steps = ops.map((op) => {
    const weight = tensors[op.weight],
      bias = tensors[op.bias]?.data;
    const step = STEPS[op.op](
      op,
      op.in.map((name) => shapes[name]),
      weight,
      bias,
    );
    shapes[op.out] = step.shape;
    return step.run;
  });
  const last = ops[ops.length - 1].out;
  return (x) => {
    values.input = x;
    for (let k = 0; k < ops.length; k++)
      values[ops[k].out] = steps[k](...ops[k].in.map((name) => values[name]));
    return values[last];
  };
}

// f(z), an MLP to one number, with its gradient written out; without layers f = 0.
// a_i = W_i h_{i-1} + b_i,  h_i = act(a_i),  g_n = act'(a_n) w_out,
// g_i = act'(a_i) (W_{i+1}^T g_{i+1}),  grad f = W_1^T g_1.
export class NegativeEnergy {
  constructor({ layers, act, slope }, tensors) {
    this.layers = layers.map(([w, b]) => {
      const {
        shape: [outputs, n],
        data,
      } = tensors[w];
      return {
        outputs,
        n,
        W: data,
        b: tensors[b].data,
        a: new Float32Array(outputs),
        h: new Float32Array(outputs),
        g: new Float32Array(n),
      };
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

  gradient(z, grad) {
    // fills grad and returns f(z)
    const value = this.value(z);
    let above = [1];
    for (let k = this.layers.length - 1; k >= 0; k--) {
      const { W, n, outputs, g } = this.layers[k];
      g.fill(0);
      let o = 0;
      for (; o + 3 < outputs; o += 4) {
        const [v0, v1, v2, v3] = [above[o], above[o + 1], above[o + 2], above[o + 3]],
          r = o * n;
        for (let i = r, j = 0; j < n; i++, j++)
          g[j] += v0 * W[i] + v1 * W[i + n] + v2 * W[i + 2 * n] + v3 * W[i + 3 * n];
      }
      for (; o < outputs; o++) for (let i = o * n, j = 0; j < n; i++, j++) g[j] += above[o] * W[i];
      if (k)
        for (let i = 0, { a } = this.layers[k - 1]; i < n; i++)
          g[i] *= this.slopeOf(a[i], this.slope);
      above = g;
    }
    for (let i = 0; i < z.length; i++) grad[i] = this.layers.length ? above[i] : 0;
    return value;
  }
}
