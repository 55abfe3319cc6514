// A board to draw on, and the picture that becomes of it.
const LINE = 0.11; // width of the pen, as a share of the width of the picture
const PAD_PIXELS = 480;

// Points are in units of the width of the picture, so that y goes from 0 to height / width.
const stroke = (context, strokes, width, colour) => {
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: LINE * width, strokeStyle: colour });
  for (const points of strokes) {
    context.beginPath();
    context.moveTo(points[0][0] * width, points[0][1] * width);
    for (const [x, y] of points) context.lineTo(x * width + 0.01, y * width);
    context.stroke();
  }
};

// As large as the samples that the model was shown, and in the middle.
const fitted = (strokes, frame) => {
  const points = strokes.flat();
  const ratio = frame.height / frame.width;
  const [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const room = [frame.extent - LINE, frame.extent * ratio - LINE].map((one) => Math.max(one, 0.05));
  const factor = Math.min(room[0] / (right - left || 1e-9), room[1] / (bottom - top || 1e-9), 4);
  const [x0, y0] = [(left + right) / 2, (top + bottom) / 2];
  return strokes.map((one) => one.map(([x, y]) => [0.5 + factor * (x - x0), ratio / 2 + factor * (y - y0)]));
};

// How much of each pixel of the model is covered by ink, 0 to 1, row by row.
const coverage = (strokes, frame) => {
  const scale = Math.max(1, Math.ceil(256 / Math.max(frame.width, frame.height)));
  const sheet = el("canvas", { width: frame.width * scale, height: frame.height * scale });
  const context = sheet.getContext("2d", { willReadFrequently: true });
  stroke(context, strokes, sheet.width, "#000");
  const { data } = context.getImageData(0, 0, sheet.width, sheet.height);
  const rows = Array.from({ length: frame.height }, () => new Array(frame.width).fill(0));
  for (let y = 0; y < sheet.height; y += 1) {
    for (let x = 0; x < sheet.width; x += 1) {
      rows[Math.floor(y / scale)][Math.floor(x / scale)] += data[4 * (y * sheet.width + x) + 3];
    }
  }
  return rows.map((row) => row.map((sum) => sum / (255 * scale * scale)));
};

const valuesOf = (rows, frame) => {
  const rounded = frame.integer ? Math.round : (value) => Number(value.toPrecision(5));
  const value = (share) => rounded(frame.low + (frame.high - frame.low) * (frame.ink_is_high ? share : 1 - share));
  const plane = rows.map((row) => row.map(value));
  return [new Array(frame.channels).fill(plane)];
};

const pixelsOf = (colour) => {
  const context = el("canvas", { width: 1, height: 1 }).getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
};

const showRows = (canvas, rows) => {
  const style = getComputedStyle(canvas);
  const [ink, ground] = [style.color, getComputedStyle(canvas.parentElement).backgroundColor].map(pixelsOf);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((share, place) => {
    for (let band = 0; band < 3; band += 1) image.data[4 * place + band] = ground[band] + share * (ink[band] - ground[band]);
    image.data[4 * place + 3] = 255;
  });
  context.putImageData(image, 0, 0);
};

// A picture as the server takes it: on white, its middle in the form of the canvas.
const showPicture = (canvas, picture, isGrey) => {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width, canvas.height];
  Object.assign(context, { fillStyle: "#fff", imageSmoothingQuality: "high", filter: isGrey ? "grayscale(1)" : "none" });
  context.fillRect(0, 0, width, height);
  const scale = Math.min(picture.width / width, picture.height / height);
  const [cutWidth, cutHeight] = [scale * width, scale * height];
  const [left, top] = [(picture.width - cutWidth) / 2, (picture.height - cutHeight) / 2];
  context.drawImage(picture, left, top, cutWidth, cutHeight, 0, 0, width, height);
  context.filter = "none";
};

// A board to draw on by mouse, finger and keyboard, or to put a picture on.
class Pad {
  constructor(frame, onChange) {
    this.frame = frame;
    this.onChange = onChange;
    this.clearAll();
    const height = Math.round((PAD_PIXELS * frame.height) / frame.width);
    this.canvas = el("canvas", {
      className: "pad", width: PAD_PIXELS, height, tabIndex: 0, role: "application",
      "aria-label": "Board to draw on", "aria-describedby": "pad-keys",
    });
    this.said = el("p", { className: "unseen", "aria-live": "polite" });
    this.listen();
  }

  clearAll() {
    this.strokes = [];
    this.picture = null;
    this.file = null;
    this.cell = null;
    this.penIsDown = false;
  }

  get isEmpty() { return this.strokes.length === 0 && this.picture === null; }

  listen() {
    const on = (name, act) => this.canvas.addEventListener(name, act);
    on("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId;
      this.begin(this.pointOf(event));
    });
    on("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const one of passed.length ? passed : [event]) this.go(this.pointOf(one));
      this.draw();
    });
    const end = (event) => {
      if (event.pointerId !== this.pointer) return;
      this.pointer = null;
      this.onChange();
    };
    on("pointerup", end);
    on("pointercancel", end);
    on("keydown", (event) => this.press(event));
    on("blur", () => this.liftPen());
  }

  pointOf(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.width];
  }

  begin(point) {
    [this.picture, this.file] = [null, null];
    this.strokes.push([point]);
    this.draw();
  }

  go(point) { this.strokes.at(-1).push(point); }

  liftPen() {
    if (this.penIsDown) this.onChange();
    this.penIsDown = false;
    this.cell = null;
    this.draw();
  }

  press(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    const { width, height } = this.frame;
    const [column, row] = this.cell ?? [Math.floor(width / 2), Math.floor(height / 2)];
    const within = (place, most) => Math.min(Math.max(place, 0), most - 1);
    this.cell = move && this.cell ? [within(column + move[0], width), within(row + move[1], height)] : [column, row];
    const point = this.cell.map((place) => (place + 0.5) / width);
    if (move && this.penIsDown) this.go(point);
    if (event.key === " ") {
      this.penIsDown = !this.penIsDown;
      if (this.penIsDown) this.begin(point);
      else this.onChange();
    }
    this.said.textContent = `Column ${this.cell[0] + 1}, row ${this.cell[1] + 1}, pen ${this.penIsDown ? "down" : "up"}`;
    this.draw();
  }

  // Strokes as the model gets them.
  lines(fit) { return fit ? fitted(this.strokes, this.frame) : this.strokes; }

  draw() {
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.picture) showPicture(this.canvas, this.picture, false);
    stroke(context, this.strokes, this.canvas.width, style.color);
    if (this.cell && this.canvas.matches(":focus")) {
      const step = this.canvas.width / this.frame.width;
      Object.assign(context, { lineWidth: 3, strokeStyle: style.getPropertyValue("--accent") });
      context.strokeRect(this.cell[0] * step + 2, this.cell[1] * step + 2, step - 4, step - 4);
    }
  }
}

// What the model is given, and a map over it.
const viewOf = (frame) => {
  const { width, height } = frame;
  const canvas = el("canvas", { className: "grain", width, height, role: "img", "aria-label": "Nothing yet" });
  const heat = el("canvas", { className: "grain", width, height, "aria-hidden": "true" });
  const box = el("div", { className: "board seen" }, canvas, heat);
  box.style.aspectRatio = `${width} / ${height}`;
  const clearHeat = () => heat.getContext("2d").clearRect(0, 0, heat.width, heat.height);
  const showHeat = (map) => {
    [heat.height, heat.width] = [map.length, map[0].length];
    const context = heat.getContext("2d");
    const image = context.createImageData(heat.width, heat.height);
    const style = getComputedStyle(heat);
    const [speaksFor, speaksAgainst] = ["--for", "--against"].map((name) => pixelsOf(style.getPropertyValue(name)).slice(0, 3));
    const strongest = Math.max(...map.flat().map(Math.abs)) || 1;
    map.flat().forEach((value, place) => {
      const colour = value > 0 ? speaksFor : speaksAgainst;
      image.data.set([...colour, (205 * Math.abs(value ?? 0)) / strongest], 4 * place);
    });
    context.putImageData(image, 0, 0);
  };
  return { canvas, box, clearHeat, showHeat };
};
