// The panel for an image of the reader's own: drawn, picked or opened, then encoded.
import { Panel } from "./panels.js";
import { button, h, paint, roving } from "./parts.js";

const PAD = 280; // pixels of the drawing surface

export class EncodePanel extends Panel {
  constructor(explorer) {
    super(explorer, "Encode");
    this.pad = h("canvas.pad", {
      width: PAD,
      height: PAD,
      role: "img",
      ariaLabel: "A surface to draw on with pen, finger or mouse",
    });
    this.ink = this.pad.getContext("2d", { willReadFrequently: true });
    this.seen = h("canvas.seen", { role: "img", ariaLabel: "The image as the encoder sees it" });
    this.status = h("p.hint", { role: "status" });
    this.file = h("input", {
      type: "file",
      accept: "image/*",
      onchange: () => this.load(this.file.files[0]),
    });
    this.examples = h("div.examples", { role: "group", ariaLabel: "Example images" });
    this.pads = h(
      "div.sides.pads",
      {},
      this.pad,
      h(
        "div",
        {},
        h(
          "p",
          {},
          (this.invite = h("span")),
          " Its code goes to the sliders; then change one layer and see what stays.",
        ),
        this.examples,
        h(
          "div.row",
          {},
          button("Clear", () => this.clear()),
          h("label.file", {}, "Open an image", this.file),
        ),
        h("div.row", {}, this.seen, this.status),
      ),
    );
    this.element.append(
      this.pads,
      (this.missing = h(
        "p",
        {},
        "This model comes without an inference network. Choose another one to encode an image.",
      )),
    );
    this.listen();
  }

  renew() {
    const { model, examples } = this.explorer,
      able = Boolean(model.encode);
    this.pads.hidden = !able;
    this.missing.hidden = able;
    if (!able || !model.decode) return;
    this.clear();
    const fit = examples.find(
      ({ set, shape }) =>
        shape.slice(1).join() === model.image.join() && (!set || set === model.description.data),
    );
    this.examples.replaceChildren(
      ...Array.from({ length: fit ? fit.shape[0] : 0 }, (_, k) => {
        const canvas = h("canvas"),
          n = model.image.reduce((a, b) => a * b),
          x = new Float32Array(n);
        for (let i = 0; i < n; i++) x[i] = fit.data[k * n + i] / 127.5 - 1;
        paint(canvas, x, model.image);
        return button(
          canvas,
          () => {
            this.clear();
            this.encode(x);
          },
          { ariaLabel: `Encode example ${k + 1}`, className: "jx-tile" },
        );
      }),
    );
    if (fit) roving(this.examples);
    this.invite.textContent = fit
      ? "Draw in the black square, or pick an image."
      : "Draw in the black square, or open an image.";
    paint(this.seen, new Float32Array(model.image.reduce((a, b) => a * b)).fill(-1), model.image);
  }

  clear() {
    this.ink.fillStyle = "#000";
    this.ink.fillRect(0, 0, PAD, PAD);
    this.status.textContent = "";
  }

  listen() {
    const at = (e) => {
      const box = this.pad.getBoundingClientRect();
      return [
        ((e.clientX - box.left) * PAD) / box.width,
        ((e.clientY - box.top) * PAD) / box.height,
      ];
    };
    let last = null;
    this.pad.addEventListener("pointerdown", (e) => {
      this.pad.setPointerCapture(e.pointerId);
      last = at(e);
      this.stroke(last, last);
    });
    this.pad.addEventListener("pointermove", (e) => {
      if (last) this.stroke(last, (last = at(e)));
    });
    for (const end of ["pointerup", "pointercancel"])
      this.pad.addEventListener(end, () => {
        if (last) this.encode(this.drawn());
        last = null;
      });
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
    for (let i = 0; i < PAD * PAD; i++)
      if (data[4 * i] > 40) {
        const x = i % PAD,
          y = Math.floor(i / PAD);
        left = Math.min(left, x);
        right = Math.max(right, x);
        top = Math.min(top, y);
        bottom = Math.max(bottom, y);
        mass++;
        mx += x;
        my += y;
      }
    if (!mass) return this.scaled(this.pad, 0, 0, PAD);
    const side = (Math.max(right - left, bottom - top) + 1) * 1.4;
    return this.scaled(this.pad, mx / mass - side / 2, my / mass - side / 2, side);
  }

  // A square of a picture, made as small as the model's images, as Float32Array in [-1, 1]
  scaled(source, x, y, side) {
    const [channels, height, width] = this.explorer.model.image,
      canvas = h("canvas", { width, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillRect(0, 0, width, height);
    context.drawImage(source, x, y, side, side, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height),
      n = width * height,
      out = new Float32Array(channels * n);
    for (let i = 0; i < n; i++)
      for (let c = 0; c < channels; c++) {
        const value =
          channels > 1 ? data[4 * i + c] : (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3;
        out[c * n + i] = value / 127.5 - 1;
      }
    return out;
  }

  async load(file) {
    if (!file) return;
    const picture = await createImageBitmap(file).catch(() => null);
    if (!picture) {
      this.status.textContent = "This file is not an image.";
      return;
    }
    const side = Math.min(picture.width, picture.height);
    this.encode(
      this.scaled(picture, (picture.width - side) / 2, (picture.height - side) / 2, side),
    );
  }

  encode(x) {
    const { explorer } = this,
      { model } = explorer;
    paint(this.seen, x, model.image);
    const z = Float32Array.from(model.encode(x)),
      back = model.decode(z);
    let error = 0;
    for (let i = 0; i < x.length; i++) error += (x[i] - back[i]) ** 2 / x.length;
    this.status.textContent = `what the encoder sees; squared error above: ${error.toFixed(3)} a pixel`;
    explorer.setCode(z);
  }
}
