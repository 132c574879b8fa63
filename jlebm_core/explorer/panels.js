// The panels below the picture. Each has an element, fits(model), and is told when the code moved,
// when another model was chosen (renew), and when it must rest (stop).
import { langevinStep, normalCode } from "./chain.js";
import { Curve, h, knob, paint, roving } from "./parts.js";

const button = (text, onclick, properties = {}) => h("button", { type: "button", onclick, ...properties }, text);

class Panel {
  constructor(explorer, title) { Object.assign(this, { explorer, title, element: h("section", { ariaLabel: title }) }); }
  fits(model) { return Boolean(model.decode); }
  renew() {}
  moved() {}
  stop() {}
}

// ------------------------------------------------------------------- one coordinate, nine values

const PLACES = 9;

export class WalkPanel extends Panel {
  constructor(explorer) {
    super(explorer, "Walk");
    this.select = h("select", { onchange: () => { explorer.focus = this.select.selectedIndex; this.moved(); } });
    this.cells = Array.from({ length: PLACES }, (_, k) => {
      const bar = h("span.fill"), canvas = h("canvas"), text = h("span.value");
      const cell = h("button.cell", { type: "button", onclick: () => explorer.setCoordinate(explorer.focus, this.value(k)) },
        h("span.bar", { ariaHidden: "true" }, bar), canvas, text);
      return { cell, bar, canvas, text };
    });
    this.strip = roving(h("div.strip", { role: "group", ariaLabel: "Images along the walk" }, ...this.cells.map((c) => c.cell)));
    this.element.append(h("p.row", {}, h("label", {}, h("span", {}, "Walk along "), this.select), h("span.hint", {}, "the bars show its value; click an image to go there")), this.strip);
  }

  renew() {
    const { model } = this.explorer;
    this.select.replaceChildren(...Array.from({ length: model.size }, (_, i) => h("option", {}, model.coordinate(i))));
  }

  value(k) { return this.explorer.model.description.reach * ((2 * k) / (PLACES - 1) - 1); }

  moved() {
    const { explorer } = this, { focus, z } = explorer;
    this.select.selectedIndex = focus;
    this.cells.forEach(({ cell, bar, text }, k) => {
      const value = this.value(k), share = (50 * value) / this.value(PLACES - 1), step = this.value(1) - this.value(0);
      bar.style.cssText = `height:${Math.abs(share)}%;${share < 0 ? "top" : "bottom"}:50%`;
      text.textContent = value.toFixed(1);
      cell.ariaLabel = `${explorer.model.coordinate(focus)} = ${value.toFixed(1)}`;
      cell.classList.toggle("jx-here", Math.abs(z[focus] - value) <= step / 2);
    });
    explorer.slices.put("panel", this.paint());
  }

  *paint() {
    const { explorer } = this, { decode, image } = explorer.model, z = Float32Array.from(explorer.z);
    for (let k = 0; k < PLACES; k++) {
      z[explorer.focus] = this.value(k);
      paint(this.cells[k].canvas, decode(z), image);
      yield;
    }
  }
}

// -------------------------------------------------------------------------- the chain of the prior

const PACE = 30; // milliseconds a step when running
const LEAP = 60; // steps at once for those who asked for less motion

export class ChainPanel extends Panel {
  constructor(explorer) {
    super(explorer, "Langevin");
    this.curve = new Curve();
    this.size = knob("step size s", { min: 0.02, max: 1, step: 0.01, value: 0.4 }, () => {});
    this.heat = knob("temperature", { min: 0, max: 2, step: 0.05, value: 1 }, () => {});
    this.runButton = button("Run", () => this.toggle(), { ariaPressed: "false" });
    this.status = h("span.hint", { role: "status" });
    this.element.append(
      h("div.row", {}, this.runButton, button("Step", () => { this.stop(); this.advance(1); }),
        button("Restart at N(0, I)", () => this.restart()), this.status),
      h("div.row", {}, this.size.element, this.heat.element), h("p.axis", {}, "f(z), step by step"), this.curve.element);
  }

  fits() { return true; }

  renew() {
    this.size.set(this.explorer.model.description.prior.step_size);
    this.heat.set(1);
    this.steps = 0;
    this.curve.clear();
    this.say();
  }

  options() {
    const number = (k) => Number(k.element.querySelector("input").value);
    return { stepSize: number(this.size), temperature: number(this.heat), free: this.explorer.free() };
  }

  // n steps of the chain, from where the code is; kept layers stay, so the others follow p given them
  advance(n) {
    const { explorer } = this, { model, z, plane, random } = explorer, options = this.options();
    if (plane && !this.steps) plane.trail = [];
    for (let k = 0; k < n; k++) {
      plane?.trail.push(Float32Array.from(z));
      this.curve.add(langevinStep(model.f, z, random, options));
      plane?.cloud.forEach((p) => langevinStep(model.f, p, random, options));
    }
    plane?.trail.splice(0, plane.trail.length - 40);
    this.steps += n;
    this.curve.draw();
    this.say();
    explorer.setCode(z);
  }

  say() {
    const kept = this.explorer.keep.some(Boolean) ? ", kept layers held" : "";
    this.status.textContent = `step ${this.steps}${kept}`;
  }

  restart() {
    const { explorer } = this, free = explorer.free(), noise = normalCode(explorer.random, explorer.z.length);
    this.steps = 0;
    this.curve.clear();
    this.say();
    explorer.plane?.restart();
    explorer.setCode(noise.map((v, i) => (free[i] ? v : explorer.z[i])));
  }

  toggle() {
    if (this.explorer.calm) this.advance(LEAP);
    else if (this.timer) this.stop();
    else {
      this.runButton.textContent = "Pause";
      this.runButton.ariaPressed = "true";
      this.status.setAttribute("aria-live", "off"); // not read aloud at every step
      let due = performance.now();
      const tick = (now) => {
        if (now >= due) { this.advance(1); due = Math.max(due + PACE, now); }
        this.timer = requestAnimationFrame(tick);
      };
      this.timer = requestAnimationFrame(tick);
    }
  }

  stop() {
    if (!this.timer) return;
    cancelAnimationFrame(this.timer);
    this.timer = 0;
    this.runButton.textContent = "Run";
    this.runButton.ariaPressed = "false";
    this.status.setAttribute("aria-live", "polite");
    this.explorer.announce(this.explorer);
  }
}

// ----------------------------------------------------- the same starts without and with the prior

const TILES = 18;

export class ComparePanel extends Panel {
  constructor(explorer) {
    super(explorer, "Compare");
    this.K = knob("steps K", { min: 0, max: 300, step: 5, value: 60, digits: 0 }, () => this.renewSoon());
    this.grids = ["N(0, I)", "after K steps"].map((title) => {
      const tiles = Array.from({ length: TILES }, (_, k) => h("button.tile", { type: "button", ariaLabel: `${title}, image ${k + 1}`, onclick: () => this.take(title, k) }, h("canvas")));
      const heading = h("p.axis", {}, title);
      return { title, tiles, heading, codes: [], element: h("div", {}, heading, roving(h("div.grid", { role: "group", ariaLabel: title }, ...tiles))) };
    });
    this.element.append(h("div.row", {}, button("New draws", () => this.draw()), this.K.element, h("span.hint", {}, "click an image to take its code")),
      h("div.sides", {}, ...this.grids.map((g) => g.element)));
  }

  renew() {
    const { model } = this.explorer, { steps } = model.description.prior;
    this.K.set(model.learned ? steps : 0);
    this.K.element.hidden = !model.learned;
    this.seed = null;
  }

  moved() { if (!this.seed) this.draw(); }

  draw() { this.seed = [...normalCode(this.explorer.random, TILES * this.explorer.z.length)]; this.renewSoon(); }

  renewSoon() { this.explorer.slices.put("panel", this.paint()); }

  take(title, k) { const code = this.grids.find((g) => g.title === title).codes[k]; if (code) this.explorer.setCode(code); }

  *paint() {
    const { explorer } = this, { model } = explorer, n = model.size, K = Number(this.K.element.querySelector("input").value);
    const options = { stepSize: model.description.prior.step_size };
    this.grids[1].heading.textContent = model.learned ? `after K = ${K} steps` : "the prior itself: also N(0, I)";
    for (const { tiles, codes } of this.grids) for (let k = 0; k < TILES; k++) {
      const z = Float32Array.from(this.seed.slice(k * n, (k + 1) * n));
      if (codes === this.grids[1].codes && model.learned) {
        for (let step = 0; step < K; step++) { langevinStep(model.f, z, explorer.random, options); if (step % 8 === 7) yield; }
      }
      codes[k] = z;
      paint(tiles[k].firstChild, model.decode(z), model.image);
      yield;
    }
  }
}

// ------------------------------------------------------------------- an image of the reader's own

const PAD = 280; // pixels of the drawing surface

export class EncodePanel extends Panel {
  constructor(explorer) {
    super(explorer, "Encode");
    this.pad = h("canvas.pad", { width: PAD, height: PAD, role: "img", ariaLabel: "A surface to draw on with pen, finger or mouse" });
    this.ink = this.pad.getContext("2d", { willReadFrequently: true });
    this.seen = h("canvas.seen", { role: "img", ariaLabel: "The image as the encoder sees it" });
    this.status = h("p.hint", { role: "status" });
    this.file = h("input", { type: "file", accept: "image/*", onchange: () => this.load(this.file.files[0]) });
    this.examples = h("div.examples", { role: "group", ariaLabel: "Example images" });
    this.pads = h("div.sides.pads", {}, this.pad, h("div", {},
      h("p", {}, this.invite = h("span"), " Its code goes to the sliders; then change one layer and see what stays."),
      this.examples, h("div.row", {}, button("Clear", () => this.clear()), h("label.file", {}, "Open an image", this.file)),
      h("div.row", {}, this.seen, this.status)));
    this.element.append(this.pads, this.missing = h("p", {}, "This model comes without an inference network. Choose another one to encode an image."));
    this.listen();
  }

  renew() {
    const { model, examples } = this.explorer, able = Boolean(model.encode);
    this.pads.hidden = !able;
    this.missing.hidden = able;
    if (!able || !model.decode) return;
    this.clear();
    const fit = examples && examples.shape.slice(1).join() === model.image.join();
    this.examples.replaceChildren(...Array.from({ length: fit ? examples.shape[0] : 0 }, (_, k) => {
      const canvas = h("canvas"), n = model.image.reduce((a, b) => a * b), x = new Float32Array(n);
      for (let i = 0; i < n; i++) x[i] = examples.data[k * n + i] / 127.5 - 1;
      paint(canvas, x, model.image);
      return button(canvas, () => { this.clear(); this.encode(x); }, { ariaLabel: `Encode example ${k + 1}`, className: "jx-tile" });
    }));
    if (fit) roving(this.examples);
    this.invite.textContent = fit ? "Draw in the black square, or pick an image." : "Draw in the black square, or open an image.";
    paint(this.seen, new Float32Array(model.image.reduce((a, b) => a * b)).fill(-1), model.image);
  }

  clear() {
    this.ink.fillStyle = "#000";
    this.ink.fillRect(0, 0, PAD, PAD);
    this.status.textContent = "";
  }

  listen() {
    const at = (e) => { const box = this.pad.getBoundingClientRect(); return [((e.clientX - box.left) * PAD) / box.width, ((e.clientY - box.top) * PAD) / box.height]; };
    let last = null;
    this.pad.addEventListener("pointerdown", (e) => { this.pad.setPointerCapture(e.pointerId); last = at(e); this.stroke(last, last); });
    this.pad.addEventListener("pointermove", (e) => { if (last) this.stroke(last, last = at(e)); });
    for (const end of ["pointerup", "pointercancel"]) this.pad.addEventListener(end, () => { if (last) this.encode(this.drawn()); last = null; });
  }

  stroke([x0, y0], [x1, y1]) {
    Object.assign(this.ink, { strokeStyle: "#fff", lineWidth: PAD / 13, lineCap: "round" });
    this.ink.beginPath();
    this.ink.moveTo(x0, y0);
    this.ink.lineTo(x1 + 0.01, y1);
    this.ink.stroke();
  }

  // The drawing as MNIST was made: its ink scaled into 20/28 of the side, its mass in the middle.
  drawn() {
    const { data } = this.ink.getImageData(0, 0, PAD, PAD);
    let [left, right, top, bottom, mass, mx, my] = [PAD, 0, PAD, 0, 0, 0, 0];
    for (let i = 0; i < PAD * PAD; i++) if (data[4 * i] > 40) {
      const x = i % PAD, y = Math.floor(i / PAD);
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
      mass++; mx += x; my += y;
    }
    if (!mass) return this.scaled(this.pad, 0, 0, PAD);
    const side = (Math.max(right - left, bottom - top) + 1) * 1.4;
    return this.scaled(this.pad, mx / mass - side / 2, my / mass - side / 2, side);
  }

  // A square of a picture, made as small as the model's images, as Float32Array in [-1, 1]
  scaled(source, x, y, side) {
    const [channels, height, width] = this.explorer.model.image, canvas = h("canvas", { width, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillRect(0, 0, width, height);
    context.drawImage(source, x, y, side, side, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height), n = width * height, out = new Float32Array(channels * n);
    for (let i = 0; i < n; i++) for (let c = 0; c < channels; c++) {
      const value = channels > 1 ? data[4 * i + c] : (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3;
      out[c * n + i] = value / 127.5 - 1;
    }
    return out;
  }

  async load(file) {
    if (!file) return;
    const picture = await createImageBitmap(file).catch(() => null);
    if (!picture) { this.status.textContent = "This file is not an image."; return; }
    const side = Math.min(picture.width, picture.height);
    this.encode(this.scaled(picture, (picture.width - side) / 2, (picture.height - side) / 2, side));
  }

  encode(x) {
    const { explorer } = this, { model } = explorer;
    paint(this.seen, x, model.image);
    const z = Float32Array.from(model.encode(x)), back = model.decode(z);
    let error = 0;
    for (let i = 0; i < x.length; i++) error += (x[i] - back[i]) ** 2 / x.length;
    this.status.textContent = `what the encoder sees; decoded again, the squared error is ${error.toFixed(3)} a pixel`;
    explorer.setCode(z);
  }
}
