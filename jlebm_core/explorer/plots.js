// Two figures: f over the steps of a chain, and a prior of two dimensions with its chains.
import { h } from "./parts.js";

// f over the last steps of a chain, as a line that fills its box.
export class Curve {
  constructor(length = 400) {
    Object.assign(this, { length, values: [], first: 0 });
    const svg = `<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">
      <polyline vector-effect="non-scaling-stroke"/></svg>`;
    this.element = h("div.curve", { innerHTML: svg, role: "img" });
    this.line = this.element.querySelector("polyline");
    [this.high, this.low, this.left, this.right] = ["high", "low", "left", "right"].map((c) =>
      h("span." + c),
    );
    this.element.append(this.high, this.low, this.left, this.right);
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this.length) {
      this.values.shift();
      this.first++;
    }
  }

  clear() {
    Object.assign(this, { values: [], first: 0 });
    this.draw();
  }

  draw() {
    const v = this.values,
      low = Math.min(...v),
      high = Math.max(...v),
      range = high - low || 1;
    const wide = Math.max(v.length - 1, 60);
    this.line.setAttribute(
      "points",
      v
        .map(
          (y, i) =>
            `${((100 * i) / wide).toFixed(2)},${(95 - (90 * (y - low)) / range).toFixed(2)}`,
        )
        .join(" "),
    );
    this.high.textContent = v.length ? high.toFixed(1) : "";
    this.low.textContent = v.length > 1 ? low.toFixed(1) : "";
    this.left.textContent = `step ${this.first}`;
    this.right.textContent = `step ${this.first + wide}`;
    this.element.setAttribute(
      "aria-label",
      v.length
        ? `f over ${v.length} steps, now ${v[v.length - 1].toFixed(2)}`
        : "f over the steps: none yet",
    );
  }
}

const BLUES = [
  [247, 251, 255],
  [198, 219, 239],
  [107, 174, 214],
  [33, 113, 181],
  [8, 48, 107],
];

// A prior of two dimensions: its density on a grid, exact but for the constant Z, with a cloud of
// chains and the trail of one of them.
export class Plane {
  constructor(f, reach, random, chains = 200, side = 81) {
    Object.assign(this, { f, reach, side, random, chains, trail: [] });
    this.background = h("canvas", { width: side, height: side });
    this.restart();
  }

  restart() {
    this.cloud = Array.from({ length: this.chains }, () =>
      Float32Array.from([this.random.normal(), this.random.normal()]),
    );
    this.trail = [];
  }

  density() {
    // computed once: exp(f(z) - |z|^2 / 2), scaled to its largest value
    const { side, reach } = this,
      z = new Float32Array(2),
      log = new Float32Array(side * side);
    for (let i = 0; i < log.length; i++) {
      z[0] = reach * ((2 * (i % side) + 1) / side - 1);
      z[1] = reach * (1 - (2 * Math.floor(i / side) + 1) / side);
      log[i] = this.f.value(z) - (z[0] ** 2 + z[1] ** 2) / 2;
    }
    const top = log.reduce((a, b) => Math.max(a, b)),
      context = this.background.getContext("2d");
    const image = context.createImageData(side, side);
    log.forEach((value, i) => {
      const at = 3.999 * Math.exp(value - top),
        k = Math.floor(at);
      for (let c = 0; c < 3; c++)
        image.data[4 * i + c] = BLUES[k][c] + (at - k) * (BLUES[k + 1][c] - BLUES[k][c]);
      image.data[4 * i + 3] = 255;
    });
    context.putImageData(image, 0, 0);
    this.ready = true;
  }

  draw(canvas, z) {
    if (!this.ready) this.density();
    const n = 560,
      context = canvas.getContext("2d"),
      at = (p) => [((p[0] / this.reach + 1) * n) / 2, ((1 - p[1] / this.reach) * n) / 2];
    if (canvas.width !== n) Object.assign(canvas, { width: n, height: n });
    context.drawImage(this.background, 0, 0, n, n);
    context.fillStyle = "rgb(217 95 2 / 55%)";
    for (const p of this.cloud) {
      const [x, y] = at(p);
      context.fillRect(x - 3, y - 3, 6, 6);
    }
    context.beginPath();
    for (const p of [...this.trail, z]) context.lineTo(...at(p));
    Object.assign(context, { strokeStyle: "#222", lineWidth: 2, lineJoin: "round" });
    context.stroke();
    context.beginPath();
    context.arc(...at(z), 9, 0, 7);
    Object.assign(context, { fillStyle: "#d95f02", strokeStyle: "#fff", lineWidth: 3 });
    context.fill();
    context.stroke();
  }
}
