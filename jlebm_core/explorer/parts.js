// What the explorer is built from: elements, pictures, work in slices.

// h("button.big", {onclick}, "text", child): an element with a class, properties and children
export function h(what, properties = {}, ...children) {
  const [tag, ...classes] = what.split("."),
    element = document.createElement(tag || "div");
  element.className = classes.map((c) => "jx-" + c).join(" ");
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export const button = (text, onclick, properties = {}) =>
  h("button", { type: "button", onclick, ...properties }, text);

// Arrow keys move the focus among the children of a row; Tab leaves it.
export function roving(row) {
  const items = () => [...row.children].filter((e) => !e.hidden);
  const settle = (active) =>
    items().forEach((e) => {
      e.tabIndex = e === active ? 0 : -1;
    });
  row.addEventListener("focusin", (event) => settle(event.target));
  row.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const all = items(),
      at = all.indexOf(document.activeElement);
    all[(at + move + all.length) % all.length].focus();
  });
  settle(items()[0]);
  return row;
}

// A labelled native slider with its value beside it.
export function knob(label, { min, max, step, value, digits = 2 }, onInput) {
  const input = h("input", { type: "range", min, max, step, value, onInput });
  const shown = h("output", {}, Number(value).toFixed(digits));
  const set = (v) => {
    input.value = v;
    shown.textContent = Number(v).toFixed(digits);
  };
  input.addEventListener("input", () => {
    set(input.value);
    onInput(Number(input.value));
  });
  return { element: h("label.knob", {}, h("span", {}, label), input, shown), set };
}

// Images x in [-1, 1], (C, H, W) with C = 1 or 3, onto a canvas of H x W pixels, as 8-bit numbers.
export function paint(canvas, x, [channels, height, width]) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"),
    image = context.createImageData(width, height);
  for (let i = 0, n = height * width; i < n; i++) {
    for (let c = 0; c < 3; c++)
      image.data[4 * i + c] = Math.round(127.5 * (x[(channels > 1 ? c * n : 0) + i] + 1));
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

// Work in slices: each frame gives the waiting jobs some milliseconds, the picture first. A job is
// a generator that yields where it may be interrupted; a new job of a kind replaces the old one.
export class Slices {
  constructor(budget = 10) {
    Object.assign(this, { budget, jobs: { picture: null, panel: null }, frame: 0 });
  }

  put(kind, job) {
    this.jobs[kind] = job;
    this.frame ||= requestAnimationFrame(() => this.turn());
  }

  turn() {
    const end = performance.now() + this.budget;
    this.frame = 0;
    for (const kind of Object.keys(this.jobs)) {
      const job = this.jobs[kind];
      while (job && job === this.jobs[kind]) {
        if (job.next().done) {
          if (this.jobs[kind] === job) this.jobs[kind] = null;
          break;
        }
        if (performance.now() > end) break;
      }
    }
    if (Object.values(this.jobs).some(Boolean))
      this.frame ||= requestAnimationFrame(() => this.turn());
  }

  stop() {
    cancelAnimationFrame(this.frame);
  }
}
