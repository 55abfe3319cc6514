// Answers of a model, and why it answered so.
const MOST_BARS = 5;
const MOST_LETTERS = 20000;

const bars = (model, scores) => {
  const ranked = scores.map((score, place) => [score ?? NaN, model.labels[place] ?? String(place)]);
  ranked.sort((one, other) => (other[0] || 0) - (one[0] || 0));
  const shown = ranked.slice(0, MOST_BARS);
  const isShort = shown.every(([, label]) => label.length <= 3);
  return el("ol", { className: isShort ? "bars short" : "bars" }, ...shown.map(([score, label]) => {
    const bar = el("i");
    bar.style.width = `${100 * (score || 0)}%`;
    const track = el("span", { className: "bar", "aria-hidden": "true" }, bar);
    return el("li", {}, said("span", label), track, said("span", percent(score), "share"));
  }));
};

const raw = (found) => {
  const isFraction = (value) => typeof value === "number" && !Number.isInteger(value);
  const text = JSON.stringify(found, (_, value) => (isFraction(value) ? Number(value.toPrecision(6)) : value), 1)
    .replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inner) => `[${inner.replace(/\s+/g, " ")}]`);
  return text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS)}\n… ${counted(text.length - MOST_LETTERS)} letters more` : text;
};

const bestOf = (model, found) => {
  const scores = found.scores?.[0];
  if (scores) {
    const label = found.labels[0];
    const name = said("p", label, label.length > 8 ? "label long" : "label");
    const share = percent(Math.max(...scores.map((one) => one ?? 0)));
    const sure = said("p", `${share} of ${counted(scores.length)} classes`, "soft");
    const more = found.scores.length > 1 ? said("p", `the first of ${counted(found.scores.length)} rows`, "soft") : "";
    return el("div", { className: "best" }, el("div", {}, name, sure, more), bars(model, scores));
  }
  const [name, values] = Object.entries(found.outputs)[0];
  const flat = [values].flat(Infinity);
  const shown = flat.slice(0, 8).map((value) => (typeof value === "number" ? Number(value.toPrecision(5)) : value)).join(", ");
  const numbers = said("p", shown + (flat.length > 8 ? ", …" : ""), "values");
  return el("div", { className: "best plain" }, said("p", name, "soft"), numbers);
};

const timing = ({ milliseconds }) => `${figure(milliseconds)} ms until the answer was here.`;

const legend = (found) => {
  let [best, row, column] = [-Infinity, 0, 0];
  found.map.forEach((values, y) => values.forEach((value, x) => { if (value > best) [best, row, column] = [value, y, x]; }));
  const place = `column ${column + 1} from the left, row ${row + 1} from the top, of ${found.map[0].length} × ${found.map.length}`;
  const how = "Each part was covered in turn, and the answer asked for again: the stronger the colour, the more it changed.";
  return el("div", { className: "legend" },
    said("span", `speaks for “${found.label}”`, "for"),
    said("span", `speaks against “${found.label}”`, "against"),
    said("p", best > 0 ? `${how} Most for it: ${place}.` : how, "soft"));
};

const tryPanel = (model) => {
  const answer = el("div", { className: "answer", role: "region", "aria-live": "polite", "aria-label": "Answer" });
  const problem = el("p", { className: "problem", role: "alert", hidden: true });
  let newest = 0;
  let given = null;
  const path = (verb) => `${verb}/${inPath(model.name)}`;
  const fail = (error) => { problem.textContent = sentence(error.message); problem.hidden = false; };
  const idle = () => answer.replaceChildren(said("p", "The answer will be shown here.", "soft"));
  const explained = { forget: () => { newest += 1; given = null; problem.hidden = true; explain.disabled = true; idle(); } };

  const attempt = async (verb, body, show) => {
    const own = (newest += 1);
    problem.hidden = true;
    answer.setAttribute("aria-busy", "true");
    try {
      const result = await ask(path(verb), { method: "POST", ...body });
      if (own === newest) show(result);
    } catch (error) {
      if (own === newest) fail(error);
    } finally {
      if (own === newest) answer.removeAttribute("aria-busy");
    }
  };
  const run = () => {
    given = form.given();
    if (!given) return fail(new Error(form.nothing));
    form.clearHeat?.();
    return attempt("predict", given, (result) => {
      const whole = "The whole answer";
      const details = el("details", {}, said("summary", whole), code(whole, raw(result.found)));
      const odd = result.found.warnings.map((text) => said("p", `${sentence(text)}.`, "odd"));
      answer.replaceChildren(...odd, bestOf(model, result.found), said("p", timing(result), "soft timing"), details);
      explain.disabled = false;
    });
  };
  const tell = async () => {
    explain.disabled = true;
    await attempt("explain", given, ({ found }) => {
      form.showHeat(found.map);
      answer.querySelector(".legend")?.remove();
      answer.querySelector("details").before(legend(found));
    });
    explain.disabled = false;
  };
  const explain = el("button", { type: "button", id: "explain", textContent: "Explain", disabled: true, onclick: tell });
  const form = FORMS[model.kind](model, run, explained);
  const predict = el("button", { type: "button", id: "predict", className: "primary", textContent: "Predict", onclick: run });
  const tools = el("div", { className: "tools" }, predict, ...(model.explains ? [explain] : []), ...form.tools);
  idle();
  const title = { image: "Try it with a picture", text: "Try it with a text", rows: "Try it" }[model.kind];
  const element = section("try-title", title, form.element, tools, problem, answer);
  return { element, redraw: () => form.show?.() };
};
