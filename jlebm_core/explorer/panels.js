// The panels below the picture. Each has an element, fits(model), and is told when the code moved,
// when another model was chosen (renew), and when it must rest (stop).
import { langevinStep, normalCode, Random } from "./chain.js";
import { button, h, knob, paint, roving } from "./parts.js";

export class Panel {
  constructor(explorer, title) {
    Object.assign(this, { explorer, title, element: h("section", { ariaLabel: title }) });
  }
  fits(model) {
    return Boolean(model.decode);
  }
  renew() {}
  moved() {}
  stop() {}
}

// ------------------------------------------------------------------- one coordinate, nine values

const PLACES = 9;

export class WalkPanel extends Panel {
  constructor(explorer) {
    super(explorer, "Walk");
    this.select = h("select", {
      onchange: () => {
        explorer.focus = this.select.selectedIndex;
        this.moved();
      },
    });
    this.cells = Array.from({ length: PLACES }, (_, k) => {
      const bar = h("span.fill"),
        canvas = h("canvas"),
        text = h("span.value");
      const cell = h(
        "button.cell",
        { type: "button", onclick: () => explorer.setCoordinate(explorer.focus, this.value(k)) },
        h("span.bar", { ariaHidden: "true" }, bar),
        canvas,
        text,
      );
      return { cell, bar, canvas, text };
    });
    this.strip = roving(
      h(
        "div.strip",
        { role: "group", ariaLabel: "Images along the walk" },
        ...this.cells.map((c) => c.cell),
      ),
    );
    this.element.append(
      h(
        "p.row",
        {},
        h("label", {}, h("span", {}, "Walk along "), this.select),
        h("span.hint", {}, "the bars show its value; click an image to go there"),
      ),
      this.strip,
    );
  }

  renew() {
    const { model } = this.explorer;
    this.select.replaceChildren(
      ...Array.from({ length: model.size }, (_, i) => h("option", {}, model.coordinate(i))),
    );
  }

  value(k) {
    return this.explorer.model.description.reach * ((2 * k) / (PLACES - 1) - 1);
  }

  moved() {
    const { explorer } = this,
      { focus, z } = explorer;
    this.select.selectedIndex = focus;
    this.cells.forEach(({ cell, bar, text }, k) => {
      const value = this.value(k),
        share = (50 * value) / this.value(PLACES - 1),
        step = this.value(1) - this.value(0);
      bar.style.cssText = `height:${Math.abs(share)}%;${share < 0 ? "top" : "bottom"}:50%`;
      text.textContent = value.toFixed(1);
      cell.ariaLabel = `${explorer.model.coordinate(focus)} = ${value.toFixed(1)}`;
      cell.classList.toggle("jx-here", Math.abs(z[focus] - value) <= step / 2);
    });
    explorer.slices.put("panel", this.paint());
  }

  *paint() {
    const { explorer } = this,
      { decode, image } = explorer.model,
      z = Float32Array.from(explorer.z);
    for (let k = 0; k < PLACES; k++) {
      z[explorer.focus] = this.value(k);
      paint(this.cells[k].canvas, decode(z), image);
      yield;
    }
  }
}

// ----------------------------------------------------- the same starts without and with the prior

const TILES = 18;

export class ComparePanel extends Panel {
  constructor(explorer) {
    super(explorer, "Compare");
    this.K = knob("steps K", { min: 0, max: 300, step: 5, value: 60, digits: 0 }, () =>
      this.renewSoon(),
    );
    this.grids = ["N(0, I)", "after K steps"].map((title) => {
      const tiles = Array.from({ length: TILES }, (_, k) =>
        h(
          "button.tile",
          {
            type: "button",
            ariaLabel: `${title}, image ${k + 1}`,
            onclick: () => this.take(title, k),
          },
          h("canvas"),
        ),
      );
      const heading = h("p.axis", {}, title);
      return {
        title,
        tiles,
        heading,
        codes: [],
        element: h(
          "div",
          {},
          heading,
          roving(h("div.grid", { role: "group", ariaLabel: title }, ...tiles)),
        ),
      };
    });
    this.element.append(
      h(
        "div.row",
        {},
        button("New draws", () => this.draw()),
        this.K.element,
        h("span.hint", {}, "click an image to take its code"),
      ),
      h("div.sides", {}, ...this.grids.map((g) => g.element)),
    );
  }

  renew() {
    const { model } = this.explorer,
      { steps } = model.description.prior;
    this.K.set(model.learned ? steps : 0);
    this.K.element.hidden = !model.learned;
    this.starts = null;
  }

  moved() {
    if (!this.starts) this.draw();
  }

  draw() {
    const { random, z } = this.explorer;
    this.starts = normalCode(random, TILES * z.length);
    this.seed = random.bits();
    this.renewSoon();
  }

  renewSoon() {
    this.explorer.slices.put("panel", this.paint());
  }

  take(title, k) {
    const code = this.grids.find((g) => g.title === title).codes[k];
    if (code) this.explorer.setCode(code);
  }

  *paint() {
    const { explorer } = this,
      { model } = explorer,
      n = model.size,
      K = Number(this.K.element.querySelector("input").value);
    const options = { stepSize: model.description.prior.step_size };
    this.grids[1].heading.textContent = model.learned
      ? `after K = ${K} steps`
      : "the prior itself: also N(0, I)";
    for (const { tiles, codes } of this.grids)
      for (let k = 0; k < TILES; k++) {
        const z = this.starts.slice(k * n, (k + 1) * n),
          noise = new Random(this.seed + k); // more steps continue the same chain
        if (codes === this.grids[1].codes && model.learned) {
          for (let step = 0; step < K; step++) {
            langevinStep(model.f, z, noise, options);
            if (step % 8 === 7) yield;
          }
        }
        codes[k] = z;
        paint(tiles[k].firstChild, model.decode(z), model.image);
        yield;
      }
  }
}
