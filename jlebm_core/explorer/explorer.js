// The explorer on a page: one code z, its picture, and panels that move it.
import { Random } from "./chain.js";
import { button, h, paint, roving, Slices } from "./parts.js";
import { ALONE, Cloud, LAYER, Plane } from "./planes.js";
import { ComparePanel, WalkPanel } from "./panels.js";
import { ChainPanel } from "./chain_panel.js";
import { EncodePanel } from "./encode_panel.js";

const IMAGE_HINT =
  "Move a slider: the generator makes the image from these numbers. “keep” holds a layer while " +
  "the others are drawn anew.";
const PLANE_HINT =
  "Blue: the exact density. Orange: 200 chains. The large dot: one more, with its trail; click " +
  "to put it elsewhere.";

export class Explorer {
  // models: of class Model, the first one with its bytes; examples: {set, data, shape (n, C, H, W)}
  // of each data set; announce(explorer): called when code or model changed here and the outside
  // should know
  constructor(root, { models, examples = [], announce = () => {} }) {
    Object.assign(this, { root, examples, announce, models });
    this.random = new Random(Math.random() * 2 ** 32);
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
    this.chooser = h(
      "select",
      { ariaLabel: "Model", onchange: () => this.choose(this.chooser.selectedIndex) },
      ...this.models.map(({ title }) => h("option", {}, title)),
    );
    this.link = h("a.link", { href: "#", onclick: () => this.copyLink() }, "Link to this state");
    this.link.hidden = window.top !== window; // in a frame the address bar is of another page
    const choice = this.models.length > 1 ? this.chooser : h("b", {}, this.model.title);
    this.status = h("span.hint", { role: "status" });
    const label = h("label", {}, h("span", {}, "Model "), choice);
    this.head = h("div.head", {}, label, this.status, this.link);
    this.canvas = h("canvas.picture", {
      role: "img",
      onclick: (event) => this.flat && this.moveOnPlane(this.planes[0], event),
    });
    this.readout = h("output.readout", {});
    const zero = () => this.setCode(new Float32Array(this.z.length));
    const buttons = [button("New sample", () => this.resample()), button("Set to 0", zero)];
    this.hint = h("p.hint.about");
    this.stage = h("div.stage", {}, this.canvas, this.readout, h("div.row", {}, ...buttons));
    this.panels = [WalkPanel, ChainPanel, ComparePanel, EncodePanel].map(
      (Panel) => new Panel(this),
    );
    const tabs = this.panels.map((panel) => {
      const show = () => this.show(panel);
      return button(panel.title, show, { role: "tab", onfocus: show });
    });
    this.tabs = roving(h("div.tabs", { role: "tablist", ariaLabel: "Ways to explore" }, ...tabs));
    this.box = h("div.panel", {}, this.tabs, ...this.panels.map((panel) => panel.element));
    this.panels.forEach((panel) => panel.element.setAttribute("role", "tabpanel"));
    this.root.append(this.head, this.hint, this.stage, this.box);
  }

  // --------------------------------------------------------------------------------- the state

  // Whether the model was there, or came, and no other one was asked for meanwhile
  async choose(index, tell = true) {
    const model = (this.wanted = this.models[index]);
    if (!model.bytes) {
      this.chooser.selectedIndex = index;
      this.status.textContent = "loading …";
      const came = await model.fetch().then(
        () => true,
        () => false,
      );
      if (this.wanted !== model) return false;
      if (!came) {
        this.status.textContent = `${model.title} could not be loaded.`;
        this.chooser.selectedIndex = this.index;
        return false;
      }
    }
    this.status.textContent = "";
    this.stopPanels();
    const before = this.model;
    this.index = this.chooser.selectedIndex = index;
    this.model = model.open();
    this.z = Float32Array.from(this.model.description.start);
    if (before.dims.join() !== this.model.dims.join()) {
      this.keep = this.model.dims.map(() => false);
      this.focus = this.z.length - 1;
    }
    const { decode, size, dims, start } = this.model;
    this.flat = !decode && size === 2;
    const planes = this.flat ? [0] : dims.every((d) => d === 2) ? start : [];
    this.planes = planes.map((at) => new Plane(this.model, at, this.flat ? ALONE : LAYER));
    this.cloud = planes.length ? new Cloud(this.model, this.random) : null;
    this.root.classList.toggle("jx-flat", this.flat);
    const usable = this.panels.filter((panel) => panel.fits(this.model));
    this.panels.forEach((panel, k) => {
      this.tabs.children[k].hidden = !usable.includes(panel);
      panel.renew();
    });
    this.tabs.hidden = usable.length < 2;
    this.canvas.ariaLabel = decode
      ? "The image that the generator makes of the code"
      : "The density of the prior, with chains";
    this.hint.textContent = this.flat ? PLANE_HINT : IMAGE_HINT;
    const first = (planes.length && usable.find((p) => p instanceof ChainPanel)) || usable[0];
    this.show(usable.includes(this.active) ? this.active : first);
    this.setCode(this.z, tell);
    return true;
  }

  setCode(z, tell = true) {
    this.z.set(z);
    if (tell) this.announce(this);
    this.refresh();
  }

  setCoordinate(i, value, tell = true) {
    if (this.cloud) this.cloud.trail = [];
    this.z[i] = value;
    this.focus = i;
    if (tell) this.announce(this);
    this.refresh();
  }

  keepLayer(layer, kept) {
    this.keep[layer] = kept;
    this.refresh();
  }

  moveOnPlane(plane, event) {
    this.cloud.trail = [];
    this.focus = plane.at;
    this.setCode(plane.placed(event, this.z));
  }

  refresh() {
    this.slices.put("picture", this.picture());
    this.active.moved();
  }

  *picture() {
    const { decode, image, f } = this.model;
    if (decode) paint(this.canvas, decode(this.z), image);
    else if (this.flat) {
      yield* this.planes[0].shade(this.z);
      this.planes[0].draw(this.canvas, this.z, this.cloud);
    }
    this.readout.textContent = this.model.learned
      ? `f(z) = ${f.value(this.z).toFixed(2)}`
      : "f(z) = 0: the prior is N(0, I)";
    this.link.href = "#" + this.fragment();
  }

  free() {
    return Float32Array.from(this.model.layerOf, (layer) => (this.keep[layer] ? 0 : 1));
  }

  // Draw all layers anew from the prior, then put back those that are kept (as ICCV 2023, fig. 5).
  resample() {
    const { model } = this,
      free = this.free(),
      z = new Float32Array(this.z.length),
      { steps, step_size: stepSize } = model.description.prior;
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

  stopPanels() {
    this.panels.forEach((panel) => panel.stop());
  }

  destroy() {
    this.stopPanels();
    this.slices.stop();
  }

  // ----------------------------------------------------------------------------- the shared link

  fragment() {
    const kept = this.keep
      .map((k, i) => (k ? i + 1 : ""))
      .filter(Boolean)
      .join("-");
    const z = [...this.z].map((v) => +v.toFixed(3)).join("_");
    const [name, panel] = [this.model.description.name, this.active.title.toLowerCase()];
    return `explorer=${name}&z=${z}&keep=${kept}&panel=${panel}`;
  }

  // Take over the state of a link; whether it was one of ours
  async restore(fragment) {
    const given = new URLSearchParams(fragment.replace(/^#/, ""));
    const index = this.models.findIndex((m) => m.name === given.get("explorer"));
    const z = (given.get("z") ?? "").split("_").map(Number);
    if (index < 0 || !z.every(Number.isFinite)) return false;
    const model = this.models[index];
    await model.fetch().catch(() => {}); // then choose says so
    if (model.bytes && z.length !== model.open().size) return false;
    if (!(await this.choose(index, false))) return false;
    const kept = (given.get("keep") ?? "").split("-");
    this.keep = this.model.dims.map((_, i) => kept.includes(String(i + 1)));
    const panel = this.panels.find((p) => p.title.toLowerCase() === given.get("panel"));
    if (panel?.fits(this.model)) this.show(panel);
    this.setCode(z);
    return true;
  }

  copyLink() {
    navigator.clipboard?.writeText(this.link.href).then(
      () => {
        this.link.textContent = "Link copied";
        setTimeout(() => {
          this.link.textContent = "Link to this state";
        }, 1500);
      },
      () => {},
    ); // where the clipboard is closed, the address bar holds the link
  }
}
