// Ways to give a model something: a picture, a text, or rows. Each form has an element, and `given()`: the
// body of a request, or null when there is nothing to send.
const IMAGE_TYPES = ["image/png", "image/jpeg"];

const imageForm = (model, run, explained) => {
  const frame = model.image;
  const isGrey = frame.channels === 1;
  const view = viewOf(frame);
  const hint = el("p", { className: "ask", "aria-hidden": "true", textContent: "Draw here" });
  const fit = el("input", { type: "checkbox", checked: true, onchange: () => changed() });
  const pad = new Pad(frame, () => changed());
  const problem = el("p", { className: "problem", role: "alert", hidden: true });
  const whole = `${frame.width} × ${frame.height} ${isGrey ? "values" : "pixels"}`;

  const show = () => {
    hint.hidden = !pad.isEmpty;
    pad.draw();
    view.clearHeat();
    if (pad.picture) showPicture(view.canvas, pad.picture, isGrey);
    else if (pad.strokes.length) showRows(view.canvas, coverage(pad.lines(fit.checked), frame));
    else view.canvas.getContext("2d").clearRect(0, 0, frame.width, frame.height);
    view.canvas.setAttribute("aria-label", pad.isEmpty ? "Nothing yet" : `The picture as ${whole}`);
  };
  const changed = () => { problem.hidden = true; show(); if (!pad.isEmpty) run(); };
  const take = async (file) => {
    if (!file) return;
    problem.hidden = IMAGE_TYPES.includes(file.type);
    problem.textContent = `${file.name} is neither PNG nor JPEG.`;
    if (!problem.hidden) return;
    try {
      const picture = await createImageBitmap(file);
      pad.clearAll();
      Object.assign(pad, { picture, file });
      changed();
    } catch {
      problem.textContent = `${file.name} cannot be read as a picture.`;
      problem.hidden = false;
    }
  };
  const upload = el("input", { type: "file", className: "unseen", id: "upload", accept: IMAGE_TYPES.join(",") });
  upload.addEventListener("change", () => { take(upload.files[0]); upload.value = ""; });
  const clear = el("button", { type: "button", textContent: "Clear" });
  clear.addEventListener("click", () => { pad.clearAll(); show(); explained.forget(); });
  const board = el("div", { className: "board" }, pad.canvas, hint);
  board.style.aspectRatio = `${frame.width} / ${frame.height}`;
  const over = (isOver) => (event) => { event.preventDefault(); board.classList.toggle("dropping", isOver); };
  board.addEventListener("dragover", over(true));
  board.addEventListener("dragleave", over(false));
  board.addEventListener("drop", (event) => { over(false)(event); take(event.dataTransfer.files[0]); });

  const range = isGrey ? `, ${figure(frame.low)} to ${figure(frame.high)}` : "";
  const keys = el("span", { className: "keys", textContent: " By keyboard: arrows move the pen, space puts it down and up." });
  const boards = el("div", { className: "boards" },
    el("figure", {}, board, el("figcaption", { id: "pad-keys" }, "With mouse, finger or pen.", keys)),
    el("figure", { className: "view" }, view.box, el("figcaption", { textContent: `What the model is given: ${whole}${range}.` })));
  const element = el("div", {}, boards, pad.said, problem);
  const choose = el("label", { className: "button" }, upload, "Choose a picture");
  const tools = [clear, choose, el("label", { className: "check" }, fit, "Fit drawings to the frame")];
  const given = () => {
    if (pad.file) return { body: pad.file, type: pad.file.type };
    if (!pad.strokes.length) return null;
    const rows = valuesOf(coverage(pad.lines(fit.checked), frame), frame);
    return { body: JSON.stringify({ inputs: { [frame.input]: rows } }), type: "application/json" };
  };
  show();
  const nothing = "Draw something first, or choose a picture.";
  return { element, tools, given, show, showHeat: view.showHeat, clearHeat: view.clearHeat, nothing };
};

const written = ({ label, description, value = "", most = null, run, given, nothing }) => {
  const area = el("textarea", { id: "typed", value, spellcheck: false, "aria-describedby": "typed-help" });
  if (most !== null) area.maxLength = most;
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  });
  const help = el("p", { id: "typed-help", className: "soft", textContent: description });
  const element = el("div", {}, el("label", { htmlFor: "typed", className: "unseen", textContent: label }), area, help);
  return { element, tools: [], nothing, given: () => (area.value.trim() ? given(area.value) : null) };
};

const textForm = (model, run) => {
  const most = model.max_length;
  const limit = most ? `, up to ${counted(most)} characters` : "";
  const description = `Type or paste a text${limit}. Ctrl and Enter sends it.`;
  const given = (text) => ({ body: text, type: "text/plain; charset=utf-8" });
  return written({ label: "Text", description, most, run, given, nothing: "Type a text first." });
};

const rowsForm = (model, run) => {
  const value = model.example ? JSON.stringify(model.example).replaceAll("],[", "],\n [") : "";
  const hint = model.example ? "" : " They are too long for an example: {name: rows}.";
  const description = `The rows of every input, as JSON.${hint} Ctrl and Enter sends them.`;
  const given = (text) => ({ body: `{"inputs": ${text}}`, type: "application/json" });
  return written({ label: "Rows as JSON", description, value, run, given, nothing: "Write rows first." });
};

const FORMS = { image: imageForm, text: textForm, rows: rowsForm };
