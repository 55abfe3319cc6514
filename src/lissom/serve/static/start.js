// The page: which model is shown, and how the server is.
let told = null; // what /page.json said
let view = null; // of the model that is shown
let chosen = ""; // its name
let shown = ""; // all that was said of it
let timer = 0;
let isPolling = false;

const health = (words, mood) => {
  const place = byId("health");
  if (place.textContent !== words) place.textContent = words;
  place.className = `state ${mood}`;
};
const showTrouble = (error) => {
  const place = byId("trouble");
  place.textContent = error ? `${sentence(error.message)}.` : "";
  place.hidden = !error;
};
const askForKey = () => {
  [needsKey, key] = [true, ""];
  byId("key-form").hidden = false;
  byId("model").replaceChildren();
  document.querySelector("nav").hidden = true;
  [told, view, shown] = [null, null, ""];
  health("takes a key", "warn");
};
const everyModel = () => [...told.models, ...told.absent];
const wanted = () => {
  const names = everyModel().map((model) => model.name);
  let asked = "";
  try { asked = decodeURIComponent(location.hash.slice(2)); } catch { /* no name */ }
  return [asked, chosen].find((name) => names.includes(name)) ?? names[0];
};

const showNames = () => {
  const models = everyModel();
  document.querySelector("nav").hidden = models.length < 2;
  byId("models").replaceChildren(...models.map((model) => {
    const link = el("a", { href: `#/${encodeURIComponent(model.name)}`, textContent: model.name });
    if (model.name === wanted()) link.setAttribute("aria-current", "page");
    if (model.reason !== undefined) link.append(" ", el("small", { textContent: model.state.toLowerCase() }));
    return el("li", {}, link);
  }));
};
const showModel = () => {
  const model = everyModel().find((one) => one.name === wanted());
  const content = JSON.stringify(model);
  if (content === shown) return;
  [chosen, shown] = [model.name, content];
  view = model.reason === undefined ? modelView(model) : absentView(model);
  byId("model").replaceChildren(view.element);
  view.redraw();
  document.title = `${model.name} · lissom serve`;
};
const load = async () => {
  told = (await ask("page.json")).found;
  byId("version").textContent = `serve ${told.server.version}`;
  byId("key-form").hidden = true;
  if (everyModel().length === 0) throw new Refusal("no model is served", 0, 0);
  showNames();
  showModel();
};

const namesDiffer = (found) => {
  const [now, before] = [found, told.models].map((models) => JSON.stringify(models.map((one) => one.name).sort()));
  return now !== before;
};

// One look at the server; gives the milliseconds until the next, or null when there shall be none.
const look = async () => {
  try {
    if (told === null) await load();
    const found = (await ask("v2/models/stats")).found.model_stats;
    const now = performance.now();
    const areSame = found.map((stats) => note(stats, now)).every((isSame) => isSame);
    if (namesDiffer(found) || !areSame) await load();
    view?.update();
    showTrouble(null);
    health("answering", "good");
    return EVERY_MS;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const asksForKey = error.status === 401 || error.status === 403;
    showTrouble(asksForKey && !key ? null : error);
    if (asksForKey) { askForKey(); return null; }
    const isBusy = error.status === 429 || error.status === 503;
    health(isBusy ? "busy" : "not reached", isBusy ? "warn" : "bad");
    return Math.max(2 * EVERY_MS, 1e3 * error.retryAfter);
  }
};
const poll = async () => {
  clearTimeout(timer);
  if (isPolling || document.hidden || (needsKey && !key)) return;
  isPolling = true;
  try {
    const wait = await look();
    if (wait !== null && !document.hidden) timer = setTimeout(poll, wait);
  } finally {
    isPolling = false;
  }
};

document.addEventListener("visibilitychange", () => { clearTimeout(timer); poll(); });
addEventListener("hashchange", () => { if (told) { showNames(); showModel(); view.update(); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view?.redraw());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = byId("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(typed)) {
    return showTrouble(new Error("an API key has no spaces and only plain letters, digits and signs"));
  }
  key = typed;
  byId("key").value = "";
  showTrouble(null);
  health("asking the server", "");
  return poll();
});
poll();
