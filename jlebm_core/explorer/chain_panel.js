// The panel of the prior's chain: step by step or running, f over the steps beneath. Where layers
// have two dimensions, each is a plane with chains on their way and the codes of images.
import { langevinStep, normalCode } from "./chain.js";
import { Curve } from "./curve.js";
import { Panel } from "./panels.js";
import { button, h, knob } from "./parts.js";

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
    this.clouds = h("div.clouds");
    this.element.append(
      h(
        "div.row",
        {},
        this.runButton,
        button("Step", () => {
          this.stop();
          this.advance(1);
        }),
        button("Restart at N(0, I)", () => this.restart()),
        this.status,
      ),
      h("div.row", {}, this.size.element, this.heat.element),
      this.clouds,
      h("p.axis", {}, "f(z), step by step"),
      this.curve.element,
    );
  }

  fits() {
    return true;
  }

  renew() {
    this.size.set(this.explorer.model.description.prior.step_size);
    this.heat.set(1);
    this.steps = 0;
    this.curve.clear();
    this.say();
    this.renewClouds();
  }

  // Top layer first, as the sliders. A prior of two dimensions has its plane in the picture's place.
  renewClouds() {
    const { explorer } = this,
      { model, planes, flat } = explorer,
      codes = model.codes.length ? ", orange: codes of images" : "",
      names = planes.map((_, i) => model.layerName(i));
    this.layers = (flat ? [] : planes)
      .map((plane, i) => {
        const others = names.filter((_, j) => j !== i).join(", "),
          given = others && ` given ${others}`,
          text = `${names[i]}. Blue: chains${codes}. Grey: its density${given}`;
        const canvas = h("canvas.plane", {
          role: "img",
          ariaLabel: text,
          onclick: (event) => explorer.moveOnPlane(plane, event),
        });
        return { plane, canvas, figure: h("div", {}, canvas, h("p.axis", {}, text)) };
      })
      .reverse();
    this.clouds.replaceChildren(...this.layers.map(({ figure }) => figure));
    this.clouds.hidden = !this.layers.length;
  }

  moved() {
    if (this.layers.length) this.explorer.slices.put("panel", this.paint());
  }

  // The dots at once; the shades, which cost more, when the chain rests.
  *paint() {
    const { z, cloud, model } = this.explorer;
    for (const { plane, canvas } of this.layers) plane.draw(canvas, z, cloud, model.codes);
    if (this.timer) return;
    for (const { plane, canvas } of this.layers) {
      yield* plane.shade(z);
      plane.draw(canvas, z, cloud, model.codes);
    }
  }

  options() {
    const number = (k) => Number(k.element.querySelector("input").value);
    return {
      stepSize: number(this.size),
      temperature: number(this.heat),
      free: this.explorer.free(),
    };
  }

  // n steps of the chain from where the code is. Kept layers stay: the others follow p given them.
  advance(n) {
    const { explorer } = this,
      { model, z, cloud, random } = explorer,
      options = this.options();
    if (cloud && !this.steps) cloud.trail = [];
    for (let k = 0; k < n; k++) {
      cloud?.follow(z);
      this.curve.add(langevinStep(model.f, z, random, options));
      cloud?.step(options);
    }
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
    const { explorer } = this,
      free = explorer.free(),
      noise = normalCode(explorer.random, explorer.z.length);
    this.steps = 0;
    this.curve.clear();
    this.say();
    explorer.cloud?.restart(explorer.z, free);
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
        if (now >= due) {
          this.advance(1);
          due = Math.max(due + PACE, now);
        }
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
    this.moved();
    this.explorer.announce(this.explorer);
  }
}
