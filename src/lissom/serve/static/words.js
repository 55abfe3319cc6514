// Elements, and figures in words. All that is shown is put into the page as text, never as markup.
const byId = (id) => document.getElementById(id);
const el = (tag, properties = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};
const said = (tag, textContent, className = "") => el(tag, { textContent, className });
const section = (id, title, ...children) =>
  el("section", { "aria-labelledby": id }, el("h2", { id, textContent: title }), ...children);
const code = (name, textContent) => el("pre", { tabIndex: 0, role: "group", "aria-label": name, textContent });
const drawn = (tag, attributes, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);
const counted = (number) => number.toLocaleString("en");
const figure = (number) => {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  if (number !== 0 && number < 0.01) return "< 0.01";
  return number.toLocaleString("en", number < 100 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 });
};
const digits = (number) => String(Number(number.toPrecision(4)));
const percent = (share) => {
  if (share === null || !Number.isFinite(share)) return "–";
  if (share > 0.9995 && share < 1) return "> 99.9 %";
  return share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
};
const size = (bytes) => {
  if (bytes < 1e4) return `${counted(bytes)} bytes`;
  return bytes < 1e6 ? `${figure(bytes / 1e3)} kB` : `${figure(bytes / 1e6)} MB`;
};
const inShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const inPath = (name) =>
  encodeURIComponent(name).replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16)}`);
