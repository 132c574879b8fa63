// Affine maps: matrix-vector products, and both kinds of convolution as such products over patches.

// y[start + o stride] = b[o] + W[o] . x for two inputs at once; W is (outputs, n), four rows a turn
function products(W, b, n, outputs, x0, x1, y, start0, start1, stride) {
  let o = 0;
  for (; o + 3 < outputs; o += 4) {
    let a0 = b[o],
      a1 = b[o + 1],
      a2 = b[o + 2],
      a3 = b[o + 3];
    let c0 = a0,
      c1 = a1,
      c2 = a2,
      c3 = a3;
    const r0 = o * n,
      r1 = r0 + n,
      r2 = r1 + n,
      r3 = r2 + n;
    for (let i = 0; i < n; i++) {
      const u = x0[i],
        v = x1[i],
        w0 = W[r0 + i],
        w1 = W[r1 + i],
        w2 = W[r2 + i],
        w3 = W[r3 + i];
      a0 += w0 * u;
      a1 += w1 * u;
      a2 += w2 * u;
      a3 += w3 * u;
      c0 += w0 * v;
      c1 += w1 * v;
      c2 += w2 * v;
      c3 += w3 * v;
    }
    const p = start0 + o * stride,
      q = start1 + o * stride;
    y[p] = a0;
    y[p + stride] = a1;
    y[p + 2 * stride] = a2;
    y[p + 3 * stride] = a3;
    y[q] = c0;
    y[q + stride] = c1;
    y[q + 2 * stride] = c2;
    y[q + 3 * stride] = c3;
  }
  for (; o < outputs; o++) {
    let a = b[o],
      c = a;
    for (let i = 0, r = o * n; i < n; i++) {
      a += W[r + i] * x0[i];
      c += W[r + i] * x1[i];
    }
    y[start0 + o * stride] = a;
    y[start1 + o * stride] = c;
  }
}

export function product(W, b, n, outputs, x, y) {
  let o = 0;
  for (; o + 3 < outputs; o += 4) {
    let a0 = b[o],
      a1 = b[o + 1],
      a2 = b[o + 2],
      a3 = b[o + 3];
    const r0 = o * n,
      r1 = r0 + n,
      r2 = r1 + n,
      r3 = r2 + n;
    for (let i = 0; i < n; i++) {
      const u = x[i];
      a0 += W[r0 + i] * u;
      a1 += W[r1 + i] * u;
      a2 += W[r2 + i] * u;
      a3 += W[r3 + i] * u;
    }
    y[o] = a0;
    y[o + 1] = a1;
    y[o + 2] = a2;
    y[o + 3] = a3;
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
function families(op, [channels, ,], weight) {
  const { stride: s, padding: p } = op,
    [d0, d1, kh, kw] = weight.shape;
  const transposed = op.op === "convT",
    outputs = transposed ? d1 : d0,
    found = [];
  const cell = transposed ? s : 1;
  for (let ry = 0; ry < cell; ry++)
    for (let rx = 0; rx < cell; rx++) {
      const taps = [];
      for (let ky = 0; ky < kh; ky++)
        for (let kx = 0; kx < kw; kx++) {
          const dy = transposed ? (ry + p - ky) / s : ky - p,
            dx = transposed ? (rx + p - kx) / s : kx - p;
          if (Number.isInteger(dy) && Number.isInteger(dx)) taps.push({ dy, dx, k: ky * kw + kx });
        }
      const n = channels * taps.length,
        W = new Float32Array(outputs * n);
      for (let o = 0; o < outputs; o++)
        for (let c = 0; c < channels; c++)
          taps.forEach(({ k }, t) => {
            const at = transposed ? c * outputs + o : o * channels + c;
            W[o * n + c * taps.length + t] = weight.data[at * kh * kw + k];
          });
      found.push({ ry, rx, taps, n, W });
    }
  return { found, outputs, cell, move: transposed ? 1 : s };
}

export function convolution(op, shape, weight, bias) {
  const [channels, h, w] = shape,
    [, , kh, kw] = weight.shape,
    { stride: s, padding: p } = op;
  const size = (n, k) =>
    op.op === "convT" ? (n - 1) * s - 2 * p + k : Math.floor((n + 2 * p - k) / s) + 1;
  const H = size(h, kh),
    Wd = size(w, kw),
    { found, outputs, cell, move } = families(op, shape, weight);
  const y = new Float32Array(outputs * H * Wd),
    longest = Math.max(...found.map((f) => f.n));
  const patches = [new Float64Array(longest), new Float64Array(longest)];

  function gather(x, taps, iy, ix, patch) {
    for (let t = 0, T = taps.length; t < T; t++) {
      const yy = iy + taps[t].dy,
        xx = ix + taps[t].dx;
      if (yy < 0 || yy >= h || xx < 0 || xx >= w)
        for (let c = 0, j = t; c < channels; c++, j += T) patch[j] = 0;
      else
        for (let c = 0, j = t, i = yy * w + xx; c < channels; c++, j += T, i += h * w)
          patch[j] = x[i];
    }
  }
  const run = (x) => {
    for (const { ry, rx, taps, n, W } of found) {
      let waiting = -1; // two pixels share each pass over the weights
      for (let oy = ry; oy < H; oy += cell)
        for (let ox = rx; ox < Wd; ox += cell) {
          const iy = (cell > 1 ? (oy - ry) / cell : oy) * move,
            ix = (cell > 1 ? (ox - rx) / cell : ox) * move;
          gather(x, taps, iy, ix, patches[waiting < 0 ? 0 : 1]);
          if (waiting < 0) {
            waiting = oy * Wd + ox;
            continue;
          }
          products(W, bias, n, outputs, patches[0], patches[1], y, waiting, oy * Wd + ox, H * Wd);
          waiting = -1;
        }
      if (waiting >= 0)
        products(W, bias, n, outputs, patches[0], patches[0], y, waiting, waiting, H * Wd);
    }
    return y;
  };
  return { shape: [outputs, H, Wd], run };
}
