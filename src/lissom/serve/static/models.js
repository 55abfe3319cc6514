// What is known of a model.
const pairs = (entries, className) =>
  el("dl", { className }, ...entries.filter(([, value]) => value).flatMap(([name, value]) => {
    const cells = [el("dt", { textContent: name }), el("dd", {}, value)];
    return className === "facts" ? [el("div", {}, ...cells)] : cells;
  }));

// What raw samples look like, and what is done to them before the model sees them.
const rawInputs = (model) => {
  const several = model.inputs.length > 1;
  const named = (title, input) => (several ? `${title} of ${input}` : title);
  const values = (list) => (list.length === 1 ? digits(list[0]) : `(${list.map(digits).join(", ")})`);
  const ranges = model.input_ranges.map((one) => [
    named("Raw values", one.input),
    `${digits(one.low)} to ${digits(one.high)}, mean ${digits(one.mean)} ± ${digits(one.std)}`
      + `${one.nonfinite ? ", some not finite" : ""}, as calibrated`,
  ]);
  const steps = model.preprocessing.map((step) => [
    named("Preprocessing", step.input), `(value − ${values(step.mean)}) / ${values(step.std)}, by /predict`,
  ]);
  return [...ranges, ...steps];
};

const signature = (model) => {
  const body = (tensors, role) => el("tbody", {}, ...tensors.map((tensor) => el("tr", {},
    el("th", { scope: "row", textContent: tensor.name }), el("td", { textContent: role }),
    el("td", { textContent: tensor.dtype }), el("td", { textContent: tensor.shape.join(" × ") }))));
  const titles = ["Name", "Role", "Type", "Shape"].map((name) => el("th", { scope: "col", textContent: name }));
  const head = el("thead", {}, el("tr", {}, ...titles));
  const caption = el("caption", { className: "unseen", textContent: "Tensors after preprocessing" });
  const most = model.limits.max_batch;
  const limits = [
    ...rawInputs(model),
    ["Batch", most > 1 ? `up to ${counted(most)} rows are computed together` : "one request at a time"],
    ["Samples", model.batching ?? ""],
    ["Queue", `up to ${counted(model.limits.max_waiting)} rows wait, then 429`],
    ["Labels", model.labels.length ? shortList(model.labels) : ""],
  ];
  const table = el("table", {}, caption, head, body(model.inputs, "input"), body(model.outputs, "output"));
  return section("signature-title", "What it takes and gives", table, pairs(limits, "pairs"));
};
const shortList = (names) => names.slice(0, 12).join(", ") + (names.length > 12 ? ` and ${counted(names.length - 12)} more` : "");

const command = (model) => {
  const address = new URL(`predict/${inPath(model.name)}`, location.href).href;
  const credentials = needsKey ? ['-H "Authorization: Bearer $LISSOM_API_KEY"'] : [];
  const bodies = {
    image: ["-H 'Content-Type: image/png'", "--data-binary @picture.png"],
    text: ["-H 'Content-Type: text/plain'", "-d 'a text'"],
    rows: [`-d ${inShell(model.example ? JSON.stringify({ inputs: model.example }) : '{"inputs": …}')}`],
  };
  const quoted = address.includes("[") ? inShell(address) : address; // IPv6
  return [`curl -s ${quoted}`, ...credentials, ...bodies[model.kind]].join(" \\\n  ");
};

// A link cannot carry a key, so that with one the report is fetched and saved.
const report = (model) => {
  const path = `report/${inPath(model.name)}`;
  if (!needsKey) return el("a", { href: path, className: "report", textContent: "Report of the run that made it" });
  const save = async () => {
    const address = URL.createObjectURL(await (await send(path)).blob());
    el("a", { href: address, download: "report.html" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1e4);
  };
  const button = el("button", { type: "button", className: "report", textContent: "Save the report of the run" });
  button.addEventListener("click", () => save().catch(showTrouble));
  return button;
};

const more = (model) => section("more-title", "From a terminal", code("Command", command(model)));

const modelView = (model) => {
  const facts = [
    ["Runtime", model.runtime], ["Precision", model.precision], ["Format", model.format], ["Size", size(model.size_bytes)],
    ["Parameters", model.num_parameters ? counted(model.num_parameters) : ""], ["Stage", model.stage],
    ["Digest", model.digest.slice(0, 12)],
  ];
  const live = livePanel(model);
  const attempt = tryPanel(model);
  const side = el("div", { className: "side" }, live.element, signature(model), more(model));
  const columns = el("div", { className: "columns" }, attempt.element, side);
  const element = el("article", { "aria-labelledby": "model-title" }, heading(model), pairs(facts, "facts"), columns);
  return { element, update: live.update, redraw: attempt.redraw };
};

const heading = (model) => {
  const mood = model.state === "READY" ? "good" : "warn";
  const name = el("h1", { id: "model-title", textContent: model.name });
  const state = said("span", model.state.toLowerCase(), `state ${mood}`);
  return el("div", { className: "title" }, name, state, model.report ? report(model) : "");
};

const absentView = (model) => {
  const reason = el("p", { className: "banner", textContent: model.reason });
  return { element: el("article", { "aria-labelledby": "model-title" }, heading(model), reason), update: () => {}, redraw: () => {} };
};
