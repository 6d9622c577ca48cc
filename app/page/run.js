// A streamed request of the playground: it can be stopped, and shows its times, tokens and errors.

import { ApiError } from "./api.js";
import { byId, h, setHidden, setText } from "./dom.js";
import { count, duration, rate } from "./format.js";

/** Runs one streamed request at a time, which can be stopped, and shows its times and tokens. */
export class Run {
  constructor(kind, onUnauthorized) {
    this.kind = kind;
    this.onUnauthorized = onUnauthorized;
    this.send = byId(`${kind}-send`);
    this.stopButton = byId(`${kind}-stop`);
    this.stopButton.addEventListener("click", () => this.stop());
    byId(`panel-${kind}`).addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
  }

  get isRunning() {
    return this.abort !== undefined;
  }

  /** Stops the request; resolves when it has ended. */
  stop() {
    this.abort?.abort();
    return this.ended;
  }

  /** Sends a request, with a function of answers.js that reads the answer. */
  start(read, body, listeners) {
    this.ended = this.#read(read, body, listeners);
  }

  async #read(read, body, { onPart, onEnd }) {
    const meta = byId(`${this.kind}-meta`);
    const place = byId(`${this.kind}-error`);
    place.replaceChildren();
    this.abort = new AbortController();
    this.#show(true);
    setText(meta, "Waiting for the first token…");
    const began = performance.now();
    let first = null;
    let usage = null;
    let requestId = null;
    let isComplete = false;
    try {
      for await (const part of read(body, this.abort.signal, (id) => (requestId = id))) {
        if (first === null && (part.text || part.thought)) {
          first = (performance.now() - began) / 1000;
          setText(meta, "Generating…");
        }
        usage = part.usage ?? usage;
        onPart(part);
      }
      isComplete = true;
    } catch (error) {
      if (error.name !== "AbortError") showError(place, error, this.onUnauthorized);
    }
    const took = (performance.now() - began) / 1000;
    this.abort = undefined;
    this.#show(false);
    onEnd(isComplete);
    setText(meta, [isComplete ? null : "Interrupted", ...summaryOf(first, took, usage), requestId].filter(Boolean).join(" · "));
  }

  #show(isRunning) {
    const hadFocus = [this.send, this.stopButton].includes(document.activeElement);
    setHidden(this.send, isRunning);
    setHidden(this.stopButton, !isRunning);
    // Hiding a focused button would lose the keyboard focus.
    if (hadFocus) (isRunning ? this.stopButton : this.send).focus();
  }
}

function summaryOf(first, took, usage) {
  const parts = [];
  if (first !== null) parts.push(`first token after ${duration(first)}`);
  parts.push(`${duration(took)} in total`);
  if (usage) {
    parts.push(`${count(usage.read)} + ${count(usage.written)} tokens`);
    if (first !== null && usage.written > 1 && took > first) parts.push(`${rate((usage.written - 1) / (took - first))} tokens/s`);
  }
  return parts;
}

export function showError(place, error, onUnauthorized) {
  const isAnswered = error instanceof ApiError;
  const more = isAnswered ? [error.status, error.type, error.code, error.retryAfter && `try again in ${error.retryAfter} s`] : [];
  place.replaceChildren(
    h("p", {}, isAnswered ? error.message : "The service can't be reached."),
    h("p", { class: "muted mono" }, more.filter(Boolean).join(" · ")),
  );
  if (error.status === 401) onUnauthorized(error);
}
