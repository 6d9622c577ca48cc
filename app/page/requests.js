// The table of the last requests, with a breakdown of their time. Existing rows are reused, so that focus and
// selection are kept.

import { byId, copyText, h, setHidden, setText } from "./dom.js";
import { clock, count, date, duration } from "./format.js";

const COLLAPSED_ROWS = 10;

export class Requests {
  constructor() {
    this.rows = new Map();
    this.areAllShown = false;
    this.button = byId("requests-more");
    this.button.addEventListener("click", () => {
      this.areAllShown = !this.areAllShown;
      this.button.setAttribute("aria-expanded", String(this.areAllShown));
      this.update(this.requests, this.roles);
    });
  }

  update(requests, roles) {
    this.requests = requests;
    this.roles = roles;
    const generating = roles.filter((role) => role.generates).map((role) => role.key);
    const shown = this.areAllShown ? requests : requests.slice(0, COLLAPSED_ROWS);
    const rows = new Map(shown.map((request) => [keyOf(request), request]));
    for (const [key, row] of this.rows) {
      if (rows.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    const body = byId("requests-body");
    let before = body.firstChild;
    for (const [key, request] of rows) {
      const known = this.rows.get(key);
      if (known === undefined) {
        const row = rowOf(request, generating.includes(request.role));
        this.rows.set(key, row);
        body.insertBefore(row, before);
      } else if (known === before) {
        before = before.nextSibling;
      } else {
        body.insertBefore(known, before);
      }
    }
    setHidden(byId("requests"), requests.length === 0);
    setHidden(byId("requests-empty"), requests.length > 0);
    setHidden(this.button, requests.length <= COLLAPSED_ROWS);
    setText(this.button, this.areAllShown ? "Show fewer" : `Show all ${requests.length}`);
  }
}

const keyOf = (request) => `${request.request_id} ${request.began} ${request.duration_s}`;

function rowOf(request, generates) {
  const cell = (label, ...content) => h("td", { role: "cell", "data-label": label }, ...content);
  const [word, look] = outcome(request);
  const ended = request.began + request.duration_s;
  const tokens = request.operation === null ? "–" : tokenText(request, generates);
  const number = cell("Tokens", tokens);
  number.classList.add("number");
  return h(
    "tr",
    { role: "row" },
    cell("Ended", h("time", { datetime: new Date(ended * 1000).toISOString(), title: date(ended) }, clock(ended))),
    cell("Request", h("span", { class: "route mono" }, h("span", { class: "method" }, request.method), ` ${request.route}`), request.is_stream ? h("span", { class: "tag" }, "stream") : null,
      request.model ? h("span", { class: "muted of" }, request.model) : null),
    cell("Outcome", h("span", { class: `outcome ${look}` }, h("b", {}, request.status ? String(request.status) : "–"), ` ${word}`)),
    number,
    cell("Where the time went", timing(request)),
    cell("Trace", idButton(request)),
  );
}

function tokenText(request, generates) {
  const prompt = count(request.prompt_tokens);
  return generates ? `${prompt} → ${count(request.completion_tokens)}` : prompt;
}

/** The outcome in a few words, and its color class. */
export function outcome(request) {
  if (request.client_gone) return ["client disconnected", "gone"];
  if (request.error_type) return [request.error_type.replaceAll("_", " "), "bad"];
  if (request.status >= 400 || request.status === 0) return ["failed", "bad"];
  return ["ok", "good"];
}

/** Parts of a request's time in seconds, which add up to its duration. */
export function partsOf(request) {
  const all = request.duration_s;
  const wait = Math.min(all, request.queue_s + request.join_s);
  if (request.first_token_s === null) {
    return [["wait", "waiting", wait], ["whole", "computing", all - wait]];
  }
  const first = Math.min(all, Math.max(wait, request.first_token_s));
  return [["wait", "waiting", wait], ["first", "to first token", first - wait], ["rest", "generating", all - first]];
}

function timing(request) {
  const parts = partsOf(request).filter(([, , seconds]) => seconds > 0);
  const all = request.duration_s || 1;
  const bars = parts.map(([look, name, seconds]) => {
    const bar = h("span", { class: `part ${look}`, title: `${name} ${duration(seconds)}` });
    bar.style.width = `${((seconds / all) * 100).toFixed(2)}%`;
    return bar;
  });
  const text = parts.map(([, name, seconds]) => `${name} ${duration(seconds)}`).join(", ");
  return h(
    "div",
    { class: "timing" },
    h("b", {}, duration(request.duration_s)),
    h("span", { class: "timing-bar", role: "img", "aria-label": text || "no time" }, ...bars),
    h("span", { class: "muted parts", "aria-hidden": "true" }, parts.map(([, , seconds]) => duration(seconds)).join(" + ")),
  );
}

function idButton(request) {
  const isTraced = request.trace_id !== null;
  const id = isTraced ? request.trace_id : request.request_id;
  const kind = isTraced ? "trace id" : "request id";
  const short = isTraced ? id.slice(0, 8) : id.length > 12 ? `${id.slice(0, 12)}…` : id;
  const button = h("button", { type: "button", class: "id mono", title: `${kind} ${id}`, "aria-label": `Copy ${kind} ${id}` }, short);
  button.addEventListener("click", async () => {
    const done = await copyText(id);
    byId("announcer").textContent = done ? `Copied ${kind} ${id}` : `The ${kind} is ${id}`;
    setText(button, done ? "copied" : id);
    setTimeout(() => setText(button, short), 1500);
  });
  return button;
}
