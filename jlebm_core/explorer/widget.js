// The anywidget: the explorer joined to the traits that sliders and check boxes of ipywidgets are
// linked to (z0, z1, .., keep1, ..), in a live kernel and on a page without one alike. The trait
// `code` holds the exact code; a slider shows it rounded to its step and cut off at its ends.
import { Explorer } from "./explorer.js";
import { Model } from "./model.js";
import { h } from "./parts.js";

const QUIET = 200; // milliseconds between two messages to the sliders while a chain runs
const NEAR = "1000px"; // to the window: then an explorer fetches what its page does not

const near = (el) =>
  new Promise((resolve) => {
    const watch = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      watch.disconnect();
      resolve();
    }, { rootMargin: NEAR });
    watch.observe(el);
  });

const isHurried = (names, [source]) =>
  names.includes(new URLSearchParams(location.hash.slice(1)).get("explorer")) ||
  [...document.scripts].some((script) => script.getAttribute("src") === source);

async function render({ model, el }) {
  const bytes = (view) => view && new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const [names, titles, sources] = ["names", "titles", "sources"].map((key) => model.get(key));
  const [sets, shapes] = [model.get("example_sets"), model.get("example_shapes")];
  const models = model.get("exports").map((view, k) => {
    return new Model({
      bytes: bytes(view),
      source: sources[k],
      name: names[k],
      title: titles[k],
    });
  });
  if (!models[0].bytes && !isHurried(names, sources)) await near(el);
  el.classList.add("jx-root");
  try {
    await models[0].fetch();
  } catch {
    el.append(h("p.hint", { role: "status" }, `${titles[0]} could not be loaded.`));
    return;
  }
  let telling = false,
    timer = 0;

  // A slider answers what it is told with its own rounding of it: that is no move of the reader.
  const told = [];
  const isEcho = (i, v) => Math.abs(v - told[i]) <= (model.get("step") / 2) * 1.001;

  function tell() {
    timer = 0;
    telling = true;
    const { model: chosen, z, keep } = explorer;
    const reach = model.get("reach");
    model.set("code", [...z]);
    z.forEach((v, i) => {
      told[i] = Math.max(-reach, Math.min(reach, v));
      model.set(`z${i}`, told[i]);
    });
    keep.forEach((k, i) => model.set(`keep${i + 1}`, k));
    chosen.dims.forEach((_, i) => model.set(`head${i + 1}`, chosen.head(i)));
    const form = chosen.dims.join("-");
    model
      .get("forms")
      .forEach((name, k) => model.set(`display${k}`, name === form ? "flex" : "none"));
    model.set("chosen", explorer.index);
    model.save_changes();
    telling = false;
    nameSliders();
  }

  function nameSliders() {
    // for screen readers: the handles of ipywidgets 8 and 7 have no names of their own
    const { model: chosen } = explorer,
      layers = [...(el.closest(".jx-explorer")?.querySelectorAll(".jx-layer") ?? [])];
    for (const [k, layer] of layers.filter((l) => l.offsetParent).entries()) {
      const start = chosen.start[chosen.dims.length - 1 - k];
      layer
        .querySelectorAll(".noUi-handle, .ui-slider-handle")
        .forEach((handle, j) => handle.setAttribute("aria-label", chosen.coordinate(start + j)));
    }
  }

  const explorer = new Explorer(el, {
    models,
    examples: model.get("examples").map((view, k) => {
      return { data: bytes(view), set: sets[k], shape: shapes[k] };
    }),
    announce: () => {
      timer ||= setTimeout(tell, QUIET);
    },
  });
  el.explorer = explorer;
  el.dataset.lmSuppressShortcuts = "true"; // JupyterLab would eat the arrow keys
  el.addEventListener("keydown", (event) => event.stopPropagation());

  const listen = (name, act) =>
    model.on(`change:${name}`, () => {
      if (!telling) act(model.get(name));
    });
  if (model.get("chosen")) explorer.choose(model.get("chosen"), false);
  const take = (code) => {
    if (code.length === explorer.z.length) explorer.setCode(code);
  };
  take(model.get("code"));
  listen("code", take);
  for (let i = 0; model.get(`z${i}`) !== undefined; i++)
    listen(`z${i}`, (v) => {
      if (i >= explorer.z.length || isEcho(i, v)) return;
      told[i] = v;
      explorer.setCoordinate(i, v);
    });
  for (let i = 1; model.get(`keep${i}`) !== undefined; i++)
    listen(`keep${i}`, (v) => explorer.keepLayer(i - 1, v));
  listen("chosen", (k) => explorer.choose(k));

  const restore = () => {
    if (location.hash.slice(1) === explorer.fragment()) return;
    explorer.restore(location.hash).then((ours) => {
      if (ours) el.scrollIntoView({ block: "center" });
    });
  };
  restore();
  addEventListener("hashchange", restore);
  tell();
  setTimeout(nameSliders, 1000); // by then they are drawn
  return () => {
    removeEventListener("hashchange", restore);
    clearTimeout(timer);
    explorer.destroy();
  };
}

export default { render };
