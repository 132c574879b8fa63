// The anywidget: the explorer joined to the sliders and check boxes of ipywidgets that its trait
// `controls` names, in a live kernel and on a page without one alike. The trait `code` holds the
// exact code; a slider shows it rounded to its step and cut off at its ends.
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

// `controls` with the models of ipywidgets in place of their references
async function resolved(controls, manager) {
  if (controls === null) return null;
  if (typeof controls === "string")
    return manager.get_model(controls.replace(/^IPY_MODEL_/, ""));
  if (Array.isArray(controls)) return Promise.all(controls.map((c) => resolved(c, manager)));
  const values = await resolved(Object.values(controls), manager);
  return Object.fromEntries(Object.keys(controls).map((key, k) => [key, values[k]]));
}

const put = (control, name, value) => {
  control.set(name, value);
  control.save_changes();
};

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
  const controls = await resolved(model.get("controls"), model.widget_manager);
  const slidersOf = ({ layers }) => layers.flatMap(({ sliders }) => sliders);
  const shown = () => controls[model.get("forms").indexOf(explorer.model.dims.join("-"))];
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
    slidersOf(shown()).forEach((slider, i) => {
      told[i] = Math.max(-reach, Math.min(reach, z[i]));
      put(slider, "value", told[i]);
    });
    shown().layers.forEach((layer, i) => {
      put(layer.head, "value", chosen.head(i));
      if (layer.keep) put(layer.keep, "value", keep[i]);
    });
    for (const form of controls) put(form.layout, "display", form === shown() ? "flex" : "none");
    model.set("code", [...z]);
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

  const heard = [];
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
  const hear = (control, form, act) => {
    const change = () => {
      if (!telling && form === shown()) act(control.get("value"));
    };
    control.on("change:value", change, el); // el: whose view it is, for when that goes
    heard.push(control);
  };
  for (const form of controls) {
    slidersOf(form).forEach((slider, i) =>
      hear(slider, form, (v) => {
        if (isEcho(i, v)) return;
        told[i] = v;
        explorer.setCoordinate(i, v);
      }),
    );
    form.layers.forEach(({ keep }, i) => {
      if (keep) hear(keep, form, (v) => explorer.keepLayer(i, v));
    });
  }
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
    heard.forEach((control) => control.off(null, null, el));
    explorer.destroy();
  };
}

export default { render };
