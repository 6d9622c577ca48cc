// The batches of the key: progress, speed, and a button to cancel each. Existing entries are reused, so that focus
// and selection are kept.

import { byId, h, setHidden, setText } from "./dom.js";
import { age, count, date, rate } from "./format.js";

const MOODS = {
  validating: "coming",
  in_progress: "coming",
  finalizing: "coming",
  cancelling: "away",
  completed: "good",
  cancelled: "away",
};
const CANCELLABLE = ["validating", "in_progress"];
const QUESTION = "Cancel this batch? Its answers until now are kept in its output file.";

const words = (status) => status.replaceAll("_", " ");
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "es"}`;

export class Batches {
  constructor({ onCancel, onState }) {
    this.entries = new Map();
    this.onCancel = onCancel;
    this.onState = onState;
  }

  /** Shows the batches of a status answer; none where there are no batches. */
  update(found, now) {
    const batches = found?.batches ?? [];
    setHidden(byId("batches-section"), batches.length === 0);
    setText(byId("batches-more"), found ? others(found) : "");
    const ids = new Set(batches.map((batch) => batch.id));
    for (const [id, entry] of this.entries) {
      if (ids.has(id)) continue;
      entry.element.remove();
      this.entries.delete(id);
    }
    const list = byId("batches");
    let before = list.firstChild;
    for (const batch of batches) {
      let entry = this.entries.get(batch.id);
      if (entry === undefined) {
        entry = new Entry(batch, this.onCancel, this.onState);
        this.entries.set(batch.id, entry);
      }
      if (entry.element === before) before = before.nextSibling;
      else list.insertBefore(entry.element, before);
      entry.update(batch, now);
    }
  }
}

/** How many batches are not shown, in words. */
function others({ batches, unfinished, unfinished_of_all: all }) {
  const hidden = unfinished - batches.filter((batch) => batch.ended === null).length;
  const parts = [];
  if (hidden > 0) parts.push(`${plural(hidden, "more batch")} of this key`);
  if (all > unfinished) parts.push(`${plural(all - unfinished, "batch")} of other keys`);
  return parts.length ? `Not shown, but unfinished: ${parts.join(", ")}.` : "";
}

class Entry {
  constructor({ id, endpoint }, onCancel, onState) {
    this.id = id;
    this.onState = onState;
    this.state = h("b", {});
    this.pill = h("p", { class: "pill" }, h("span", { class: "dot", "aria-hidden": "true" }), this.state);
    this.model = h("span", { class: "muted" });
    this.cancel = h("button", { type: "button", "aria-label": `Cancel ${id}`, onclick: () => this.#ask(onCancel) }, "Cancel");
    this.completed = h("span", { class: "part completed" });
    this.failed = h("span", { class: "part error" });
    this.bar = h("div", { class: "progress", role: "progressbar", "aria-label": `Lines of ${id}`, "aria-valuemin": "0" },
      this.completed, this.failed);
    this.lines = h("p", { class: "lines" });
    this.times = h("p", { class: "muted" });
    this.error = h("p", { class: "error-text", role: "alert" });
    this.element = h(
      "li",
      { class: "batch", tabindex: "-1" },
      h("div", { class: "batch-head" },
        h("div", {}, h("h3", { class: "mono" }, endpoint), this.model), this.pill, this.cancel),
      this.bar,
      h("div", { class: "batch-facts" }, this.lines, this.times, h("p", { class: "mono muted" }, id)),
      this.error,
    );
  }

  update(batch, now) {
    const { status, total, completed, failed } = batch;
    if (this.known && this.known !== status && batch.ended !== null) {
      this.onState(`A batch for ${batch.endpoint} is ${words(status)}: ${lineText(batch)}`);
    }
    this.known = status;
    setText(this.state, words(status));
    this.pill.dataset.mood = MOODS[status] ?? "bad";
    setText(this.model, batch.model ? ` ${batch.model}` : "");
    const isCancellable = CANCELLABLE.includes(status);
    // The focus must not be lost with the button.
    if (!isCancellable && document.activeElement === this.cancel) this.element.focus({ preventScroll: true });
    setHidden(this.cancel, !isCancellable);
    this.bar.setAttribute("aria-valuemax", total || 1);
    // Without a value the progress is unknown.
    if (total) this.bar.setAttribute("aria-valuenow", completed + failed);
    else this.bar.removeAttribute("aria-valuenow");
    this.bar.setAttribute("aria-valuetext", total ? lineText(batch) : words(status));
    this.completed.style.width = share(completed, total);
    this.failed.style.width = share(failed, total);
    setText(this.lines, total ? [lineText(batch), ...speed(batch)].join(" · ") : "lines are not counted yet");
    setText(this.times, timeText(batch, now));
    this.times.title = `created ${date(batch.created)}, expires ${date(batch.expires)}`;
  }

  async #ask(onCancel) {
    // While the request runs, the button keeps the focus.
    if (this.cancel.getAttribute("aria-disabled") === "true" || !window.confirm(QUESTION)) return;
    setText(this.error, "");
    this.cancel.setAttribute("aria-disabled", "true");
    setText(this.error, (await onCancel(this.id)) ?? "");
    this.cancel.removeAttribute("aria-disabled");
  }
}

function share(part, total) {
  // A small part stays visible.
  return part && total ? `max(3px, ${((part / total) * 100).toFixed(2)}%)` : "0";
}

function lineText({ total, completed, failed }) {
  const done = `${count(completed + failed)} of ${count(total)} lines`;
  return failed ? `${done}, ${count(failed)} failed` : done;
}

function speed({ lines_per_s: perSecond, left_s: left }) {
  if (perSecond === null) return [];
  const shown = `${rate(perSecond)} lines/s`;
  return left === null ? [shown] : [shown, `${age(left)} left`];
}

function timeText({ created, expires, ended }, now) {
  const begun = `created ${age(now - created)} ago`;
  return ended === null ? `${begun} · expires in ${age(expires - now)}` : `${begun} · ended ${age(now - ended)} ago`;
}
