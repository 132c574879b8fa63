// The explorer on a page: one code z, its picture, and panels that move it.
import { compile, NegativeEnergy, readExport } from "./nets.js";
import { langevinStep, normalCode, Random } from "./chain.js";
import { h, paint, Plane, roving, Slices } from "./parts.js";
import { ChainPanel, ComparePanel, EncodePanel, WalkPanel } from "./panels.js";

const SUBSCRIPT = "₀₁₂₃₄₅₆₇₈₉";
export const layerName = (i) => "z" + [...String(i + 1)].map((d) => SUBSCRIPT[d]).join("");

// An export, unpacked: what a panel may ask of it. Networks are built when they are first needed.
export class Model {
  constructor(bytes) { this.bytes = bytes; }

  open() {
    if (this.description) return this;
    const { description, tensors } = readExport(this.bytes);
    const { dims, image, generator, encoder, prior } = description;
    Object.assign(this, { description, dims, image, size: dims.reduce((a, b) => a + b, 0) });
    this.f = new NegativeEnergy(prior.f, tensors);
    this.learned = prior.f.layers.length > 0;
    this.decode = generator && compile(generator, tensors);
    this.encode = encoder && compile(encoder, tensors);
    this.layerOf = dims.flatMap((d, i) => Array(d).fill(i));
    this.start = dims.map((_, i) => dims.slice(0, i).reduce((a, b) => a + b, 0));
    return this;
  }

  coordinate(i) { // "z₃, 2"
    const layer = this.layerOf[i];
    return `${layerName(layer)}, ${i - this.start[layer] + 1}`;
  }

  head(layer) { // "z₃ top layer", with what was measured of it
    const { notes } = this.description, L = this.dims.length;
    const place = L === 1 ? "" : layer === L - 1 ? " top" : layer === 0 ? " bottom" : "";
    return `<b>${layerName(layer)}</b>${place}<span class="jx-note">${notes?.[layer] ?? ""}</span>`;
  }

  // A draw of the prior: `steps` of its chain from N(0, I), as a generator that can be interrupted
  *sample(z, random, steps, options) {
    z.set(normalCode(random, z.length));
    if (this.learned) for (let k = 0; k < steps; k++) { langevinStep(this.f, z, random, options); if (k % 8 === 7) yield; }
  }
}

export class Explorer {
  // exports: bytes of each model; titles for the chooser; examples: [Uint8Array, [n, C, H, W]] or null;
  // announce(explorer): called when code or model changed here and the outside should know
  constructor(root, { exports, titles, examples = null, seed, announce = () => {} }) {
    Object.assign(this, { root, examples, announce, titles, models: exports.map((bytes) => new Model(bytes)) });
    this.random = new Random(seed ?? Math.floor(Math.random() * 2 ** 32));
    this.slices = new Slices();
    this.calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.index = 0;
    this.model = this.models[0].open();
    this.keep = this.model.dims.map(() => false);
    this.z = new Float32Array(this.model.size);
    this.focus = this.model.size - 1; // the coordinate that was moved last
    this.build();
    this.choose(0, false);
  }

  build() {
    this.chooser = h("select", { ariaLabel: "Model", onchange: () => this.choose(this.chooser.selectedIndex) },
      ...this.titles.map((title) => h("option", {}, title)));
    this.link = h("a.link", { href: "#", onclick: () => this.copyLink() }, "Link to this state");
    this.head = h("div.head", {}, h("label", {}, h("span", {}, "Model "), this.titles.length > 1 ? this.chooser : h("b", {}, this.titles[0])), this.link);
    this.canvas = h("canvas.picture", { role: "img" });
    this.readout = h("output.readout", {});
    this.sampleButton = h("button", { type: "button", onclick: () => this.resample() }, "New sample");
    this.zeroButton = h("button", { type: "button", onclick: () => this.setCode(new Float32Array(this.z.length)) }, "Set to 0");
    this.hint = h("p.hint.about");
    this.stage = h("div.stage", {}, this.canvas, this.readout, h("div.row", {}, this.sampleButton, this.zeroButton));
    this.panels = [WalkPanel, ChainPanel, ComparePanel, EncodePanel].map((Panel) => new Panel(this));
    this.tabs = roving(h("div.tabs", { role: "tablist", ariaLabel: "Ways to explore" }, ...this.panels.map((panel) =>
      h("button", { type: "button", role: "tab", onclick: () => this.show(panel), onfocus: () => this.show(panel) }, panel.title))));
    this.box = h("div.panel", {}, this.tabs, ...this.panels.map((panel) => panel.element));
    this.panels.forEach((panel) => panel.element.setAttribute("role", "tabpanel"));
    this.root.append(this.head, this.hint, this.stage, this.box);
  }

  // --------------------------------------------------------------------------------- the state

  choose(index, tell = true) {
    this.stopPanels();
    const before = this.model;
    this.index = this.chooser.selectedIndex = index;
    this.model = this.models[index].open();
    this.z = Float32Array.from(this.model.description.start);
    if (before.dims.join() !== this.model.dims.join()) {
      this.keep = this.model.dims.map(() => false);
      this.focus = this.z.length - 1;
    }
    const { decode, size, f, description } = this.model;
    this.plane = !decode && size === 2 ? new Plane(f, description.reach, this.random) : null;
    this.root.closest(".jx-explorer")?.classList.toggle("jx-flat", Boolean(this.plane));
    const usable = this.panels.filter((panel) => panel.fits(this.model));
    this.panels.forEach((panel, k) => { this.tabs.children[k].hidden = !usable.includes(panel); panel.renew(); });
    this.tabs.hidden = usable.length < 2;
    this.canvas.ariaLabel = decode ? "The image that the generator makes of the code" : "The density of the prior, with chains";
    this.hint.textContent = this.plane ? "Blue: the exact density. Orange: 200 chains. The line: one of them." : "Move a slider: the generator makes the image from these numbers. “keep” holds a layer while the others are drawn anew.";
    this.show(usable.includes(this.active) ? this.active : usable[0]);
    this.setCode(this.z, tell);
  }

  setCode(z, tell = true) {
    this.z.set(z);
    if (tell) this.announce(this);
    this.refresh();
  }

  setCoordinate(i, value, tell = true) {
    this.z[i] = value;
    this.focus = i;
    if (tell) this.announce(this);
    this.refresh();
  }

  refresh() {
    this.slices.put("picture", this.picture());
    this.active.moved();
  }

  *picture() {
    const { decode, image, f } = this.model;
    if (decode) paint(this.canvas, decode(this.z), image);
    else if (this.plane) this.plane.draw(this.canvas, this.z);
    this.readout.textContent = this.model.learned ? `f(z) = ${f.value(this.z).toFixed(2)}` : "f(z) = 0: the prior is N(0, I)";
    this.link.href = "#" + this.fragment();
  }

  free() { return Float32Array.from(this.model.layerOf, (layer) => (this.keep[layer] ? 0 : 1)); }

  // Draw all layers anew from the prior, then put back those that are kept (as ICCV 2023, fig. 5).
  resample() {
    const { model } = this, free = this.free(), z = new Float32Array(this.z.length), { steps, step_size: stepSize } = model.description.prior;
    this.stopPanels();
    const job = function* (explorer) {
      yield* model.sample(z, explorer.random, steps, { stepSize });
      explorer.setCode(z.map((v, i) => (free[i] ? v : explorer.z[i])));
    };
    this.slices.put("panel", job(this));
  }

  show(panel) {
    if (this.active !== panel) this.stopPanels();
    this.active = panel;
    this.panels.forEach((p, k) => {
      p.element.hidden = p !== panel;
      this.tabs.children[k].ariaSelected = p === panel;
    });
    panel.moved();
  }

  stopPanels() { this.panels.forEach((panel) => panel.stop()); }

  destroy() { this.stopPanels(); this.slices.stop(); }

  // ----------------------------------------------------------------------------- the shared link

  fragment() {
    const kept = this.keep.map((k, i) => (k ? i + 1 : "")).filter(Boolean).join("-");
    const z = [...this.z].map((v) => +v.toFixed(3)).join("_");
    return `explorer=${this.model.description.name}&z=${z}&keep=${kept}&panel=${this.active.title.toLowerCase()}`;
  }

  // Take over the state of a link; whether it was one of ours
  restore(fragment) {
    const given = new URLSearchParams(fragment.replace(/^#/, ""));
    const index = given.has("explorer") ? this.models.findIndex((m) => m.open().description.name === given.get("explorer")) : -1;
    const z = (given.get("z") ?? "").split("_").map(Number);
    if (index < 0 || z.length !== this.models[index].size || !z.every(Number.isFinite)) return false;
    this.choose(index, false);
    const kept = (given.get("keep") ?? "").split("-");
    this.keep = this.model.dims.map((_, i) => kept.includes(String(i + 1)));
    const panel = this.panels.find((p) => p.title.toLowerCase() === given.get("panel"));
    if (panel?.fits(this.model)) this.show(panel);
    this.setCode(z);
    return true;
  }

  copyLink() {
    navigator.clipboard?.writeText(this.link.href).then(() => {
      this.link.textContent = "Link copied";
      setTimeout(() => { this.link.textContent = "Link to this state"; }, 1500);
    }, () => {}); // where the clipboard is closed, the address bar holds the link
  }
}
