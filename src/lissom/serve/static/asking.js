// Requests to the server, with the key where there is one.
let needsKey = false; // until the server says so
let key = "";

class Refusal extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const send = async (path, { method = "GET", body, type } = {}) => {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (type) headers["Content-Type"] = type;
  let response;
  try {
    response = await fetch(path, { method, headers, body, cache: "no-store" });
  } catch {
    throw new Refusal("the server cannot be reached", 0, 0);
  }
  if (response.ok) return response;
  let told = null;
  try { told = (await response.json()).error; } catch { /* it is no JSON */ }
  throw new Refusal(told || `the server answers ${response.status}`, response.status, Number(response.headers.get("Retry-After")) || 0);
};

// The document that is answered, and the milliseconds until it was here.
const ask = async (path, options) => {
  const started = performance.now();
  const response = await send(path, options);
  const text = await response.text();
  const milliseconds = performance.now() - started;
  return { found: JSON.parse(text), milliseconds };
};
