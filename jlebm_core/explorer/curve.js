// f over the last steps of a chain, as a line that fills its box.
import { h } from "./parts.js";

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
