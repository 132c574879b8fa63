// One exported model: its networks, its prior, the names of its layers.
import { langevinStep, normalCode } from "./chain.js";
import { compile, NegativeEnergy, readExport } from "./nets.js";
import { h } from "./parts.js";

const SUBSCRIPT = "₀₁₂₃₄₅₆₇₈₉";
const subscript = (n) => [...String(n)].map((d) => SUBSCRIPT[d]).join("");

// What a script brings: bytes in base64, under the name of its file. Scripts come from `file://` as
// well, where `fetch` is not allowed. The page may have brought it already.
async function weights(source) {
  const name = source.match(/([^/]+)\.js$/)[1];
  if (!globalThis.jlebmWeights?.[name])
    await new Promise((resolve, reject) =>
      document.head.append(h("script", { onload: resolve, onerror: reject, src: source })),
    );
  return Uint8Array.from(atob(globalThis.jlebmWeights[name]), (c) => c.charCodeAt(0));
}

// The rows of a tensor, none without one
const rows = ({ shape: [n, width], data } = { shape: [0, 0] }) =>
  Array.from({ length: n }, (_, k) => data.subarray(k * width, (k + 1) * width));

// An export, unpacked: what a panel may ask of it. Networks are built when they are first needed.
export class Model {
  // bytes of the export, or none and the source of a script that brings them
  constructor({ bytes, source, name, title }) {
    Object.assign(this, { bytes, source, name, title });
  }

  async fetch() {
    this.bytes ??= await weights(this.source);
  }

  open() {
    if (this.description) return this;
    const { description, tensors } = readExport(this.bytes);
    const { dims, image, generator, encoder, prior } = description;
    Object.assign(this, { description, dims, image, size: dims.reduce((a, b) => a + b, 0) });
    this.f = new NegativeEnergy(prior.f, tensors);
    this.learned = prior.f.layers.length > 0;
    this.decode = generator && compile(generator, tensors);
    this.encode = encoder && compile(encoder, tensors);
    this.codes = rows(tensors.codes);
    this.layerOf = dims.flatMap((d, i) => Array(d).fill(i));
    this.start = dims.map((_, i) => dims.slice(0, i).reduce((a, b) => a + b, 0));
    return this;
  }

  // "z₃"; of a Gaussian chain the code is its noises, "ε₃"
  layerName(i) {
    return this.description.symbol + subscript(i + 1);
  }

  // "z₃, 2"
  coordinate(i) {
    const layer = this.layerOf[i];
    return `${this.layerName(layer)}, ${i - this.start[layer] + 1}`;
  }

  // "z₃ top", with what was measured of the layer
  head(layer) {
    const [{ notes }, L] = [this.description, this.dims.length];
    const place = L === 1 ? "" : layer === L - 1 ? " top" : layer === 0 ? " bottom" : "";
    return `<b>${this.layerName(layer)}</b>${place}<span class="jx-note">${notes?.[layer] ?? ""}</span>`;
  }

  // A draw of the prior: `steps` of its chain from N(0, I), as a generator that can be interrupted
  *sample(z, random, steps, options) {
    z.set(normalCode(random, z.length));
    if (this.learned)
      for (let k = 0; k < steps; k++) {
        langevinStep(this.f, z, random, options);
        if (k % 8 === 7) yield;
      }
  }
}
