// Two numbers of a code as a plane: a density in shades, chains and codes of images as dots.
import { langevinStep, normalCode } from "./chain.js";
import { h } from "./parts.js";

const TRAIL = 40; // steps
const PIXELS = 560;

// Chains of a prior from N(0, I), and the way of the code that is shown.
export class Cloud {
  constructor({ f, size }, random, chains = 200) {
    Object.assign(this, { f, size, random, chains });
    this.restart();
  }

  // Coordinates that are not free are those of z in every chain.
  restart(z = null, free = null) {
    this.trail = [];
    this.codes = Array.from({ length: this.chains }, () =>
      normalCode(this.random, this.size).map((v, i) => (!free || free[i] ? v : z[i])),
    );
  }

  step(options) {
    for (const z of this.codes) langevinStep(this.f, z, this.random, options);
  }

  follow(z) {
    this.trail.push(Float32Array.from(z));
    this.trail.splice(0, this.trail.length - TRAIL);
  }
}

const BLUES = ["#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b"];
const GREYS = ["#ffffff", "#ececec", "#d2d2d2", "#b4b4b4", "#949494"];
const BLUE = "rgb(31 119 180 / 60%)",
  ORANGE = "rgb(217 95 2 / 55%)";
export const ALONE = { shades: BLUES, chains: ORANGE, mark: "#d95f02", side: 81 };
export const LAYER = { shades: GREYS, chains: BLUE, mark: "#1f77b4", codes: ORANGE, side: 41 };

const rgb = (colour) => [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16));

// The coordinates `at` and `at + 1` of a code. The shades are p of these two given the others:
// exp(f(z) - |z|^2 / 2) on a grid, exact but for its constant.
export class Plane {
  constructor({ f, description }, at, look) {
    Object.assign(this, { f, at, look, reach: description.reach, given: null });
    this.background = h("canvas", { width: look.side, height: look.side });
  }

  others(z) {
    return z.filter((_, i) => i !== this.at && i !== this.at + 1).join();
  }

  *shade(code) {
    const { f, at, reach } = this,
      { side, shades } = this.look,
      given = this.others(code);
    if (given === this.given) return;
    const z = Float32Array.from(code),
      log = new Float32Array(side * side);
    for (let i = 0; i < log.length; i++) {
      z[at] = reach * ((2 * (i % side) + 1) / side - 1);
      z[at + 1] = reach * (1 - (2 * Math.floor(i / side) + 1) / side);
      log[i] = f.value(z) - (z[at] ** 2 + z[at + 1] ** 2) / 2;
      if (i % side === 0) yield;
    }
    const top = log.reduce((a, b) => Math.max(a, b)),
      colours = shades.map(rgb),
      context = this.background.getContext("2d"),
      image = context.createImageData(side, side);
    log.forEach((value, i) => {
      const level = 3.999 * Math.exp(value - top), // of its largest value
        k = Math.floor(level),
        mix = (c) => colours[k][c] + (level - k) * (colours[k + 1][c] - colours[k][c]);
      image.data.set([mix(0), mix(1), mix(2), 255], 4 * i);
    });
    context.putImageData(image, 0, 0);
    this.given = given;
  }

  // The dots of a cloud and of codes, the code z; beneath them the shades if they are those of z.
  draw(canvas, z, cloud, codes = []) {
    const { look, background } = this,
      context = canvas.getContext("2d"),
      at = (p) => [p[this.at], -p[this.at + 1]].map((v) => ((v / this.reach + 1) * PIXELS) / 2);
    if (canvas.width !== PIXELS) Object.assign(canvas, { width: PIXELS, height: PIXELS });
    context.fillStyle = look.shades[0];
    context.fillRect(0, 0, PIXELS, PIXELS);
    if (this.given === this.others(z)) context.drawImage(background, 0, 0, PIXELS, PIXELS);
    for (const [points, colour] of [
      [codes, look.codes],
      [cloud.codes, look.chains],
    ]) {
      context.fillStyle = colour;
      for (const [x, y] of points.map(at)) context.fillRect(x - 3, y - 3, 6, 6);
    }
    context.beginPath();
    for (const p of [...cloud.trail, z]) context.lineTo(...at(p));
    Object.assign(context, { strokeStyle: "#222", lineWidth: 2, lineJoin: "round" });
    context.stroke();
    context.beginPath();
    context.arc(...at(z), 9, 0, 7);
    Object.assign(context, { fillStyle: look.mark, strokeStyle: "#fff", lineWidth: 3 });
    context.fill();
    context.stroke();
  }

  // The code z with the place of a click in this plane
  placed(event, z) {
    const { left, top, width } = event.currentTarget.getBoundingClientRect(),
      value = (at) => this.reach * ((2 * at) / width - 1),
      code = Float32Array.from(z);
    code[this.at] = value(event.clientX - left);
    code[this.at + 1] = value(width - event.clientY + top);
    return code;
  }
}
