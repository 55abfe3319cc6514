// Live figures: what the statistics say every second, as numbers and small lines.
const EVERY_MS = 1000;
const HISTORY = 60;

const histories = new Map(); // by model: [{rate, p50, p99}], the oldest first
const totals = new Map(); // by model: what was counted last, and when

// Keeps what is said of one model; false when it counts anew, because it was loaded again.
const note = (stats, now) => {
  const counts = stats.inference_stats;
  const count = counts.success.count;
  const before = totals.get(stats.name);
  const recent = stats.latency_ms;
  const isSame = before === undefined || count >= before.count;
  const change = before && isSame ? (1e3 * (count - before.count)) / (now - before.now) : 0;
  const [rows, batches] = [stats.inference_count, stats.execution_count];
  totals.set(stats.name, { count, now, failed: counts.fail.count, rows, batches });
  const history = histories.get(stats.name) ?? [];
  history.push({ rate: recent?.requests_per_second ?? change, p50: recent?.p50 ?? null, p99: recent?.p99 ?? null });
  histories.set(stats.name, history.slice(-HISTORY));
  return isSame;
};

// A line through figures, with gaps where there were none, and the area below it.
const paths = (values, width, height) => {
  const top = Math.max(...values.map((value) => value ?? 0)) * 1.1 || 1;
  const step = width / (HISTORY - 1);
  const first = HISTORY - values.length;
  const runs = [];
  values.forEach((value, place) => {
    if (value === null) return;
    const point = [((first + place) * step).toFixed(1), (height - (height * value) / top).toFixed(1)];
    if (place > 0 && values[place - 1] !== null) runs.at(-1).push(point);
    else runs.push([point]);
  });
  const line = runs.map((run) => `M${run.map((point) => point.join(" ")).join("L")}${run.length === 1 ? "h.1" : ""}`);
  const area = runs.map((run) => `M${run[0][0]} ${height}L${run.map((point) => point.join(" ")).join("L")}L${run.at(-1)[0]} ${height}Z`);
  return { line: line.join(""), area: area.join("") };
};

const tile = (what, unit, pick) => {
  const [width, height] = [120, 32];
  const number = el("span", { textContent: "–" });
  const [area, line] = ["area", "line"].map((name) => drawn("path", { class: name }));
  const base = drawn("path", { class: "base", d: `M0 ${height}H${width}` });
  const plot = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img" }, base, area, line);
  const large = el("p", { className: "figure" }, number, unit ? said("small", unit) : "");
  const element = el("div", { className: "tile" }, large, said("p", what, "what"), plot);
  const show = (history) => {
    const values = history.map(pick);
    const now = values.at(-1) ?? null;
    const found = paths(values, width, height);
    number.textContent = figure(now);
    line.setAttribute("d", found.line);
    area.setAttribute("d", found.area);
    const most = Math.max(...values.map((value) => value ?? 0));
    plot.setAttribute("aria-label", `${what} over the last minute: now ${figure(now)} ${unit}, at most ${figure(most)} ${unit}`);
  };
  show([]);
  return { element, show };
};

const livePanel = (model) => {
  const tiles = [
    tile("requests a second", "", (one) => one.rate),
    tile("median latency", "ms", (one) => one.p50),
    tile("p99 latency", "ms", (one) => one.p99),
  ];
  const counts = el("p", { className: "soft counts" });
  const row = el("div", { className: "tiles" }, ...tiles.map((one) => one.element));
  const element = section("live-title", "Right now", row, counts);
  const update = () => {
    const history = histories.get(model.name) ?? [];
    const total = totals.get(model.name);
    tiles.forEach((one) => one.show(history));
    if (!total) return;
    const rows = figure(total.rows / total.batches);
    const batch = total.batches ? `; ${rows} ${rows === "1" ? "row" : "rows"} a batch on average` : "";
    counts.textContent = `${counted(total.count)} answered, ${counted(total.failed)} refused or failed since it was loaded${batch}.`;
  };
  update();
  return { element, update };
};
