// One card for each model: its state and the reason, its load, and its memory.

import { h, onChange, s, setHidden, setText } from "./dom.js";
import { age, bytes, clock, count, date } from "./format.js";

const MOODS = {
  ready: "good",
  busy: "busy",
  starting: "coming",
  draining: "away",
  stopped: "away",
};

/** The color class of a state; unknown states are shown as bad. */
export const mood = (state) => MOODS[state] ?? "bad";

export class Models {
  constructor(place, { onRestart, onState }) {
    this.cards = [];
    this.build = onChange((roles) => {
      this.cards = roles.map((role) => new Card(role, onRestart, onState));
      place.replaceChildren(...this.cards.map((card) => card.element));
    });
  }

  update(status, roles) {
    this.build(roles);
    for (const card of this.cards) card.update(status.health.backends[card.key], status.time);
  }
}

class Card {
  constructor({ key, title, look }, onRestart, onState) {
    this.key = key;
    this.title = title;
    this.onState = onState;
    const id = `model-${key}`;
    this.name = h("p", { class: "name" });
    this.state = h("b", {});
    this.pill = h("p", { class: "pill" }, h("span", { class: "dot", "aria-hidden": "true" }), this.state);
    this.since = h("p", { class: "since muted" });
    this.reason = h("p", { class: "reason" });
    this.retry = h("button", { type: "button", hidden: true, onclick: () => onRestart(key) }, "Try again now");
    this.running = new Meter("Running");
    this.waiting = new Meter("Waiting");
    this.classes = h("dd", {});
    this.restarts = h("dd", {});
    this.error = h("dd", {});
    this.memory = h("div", { class: "memory" });
    this.members = h("div", { class: "members" });
    this.drawMemory = onChange((memory) => this.memory.replaceChildren(...memoryPlan(memory)));
    this.drawMembers = onChange((members) => this.members.replaceChildren(...memberList(members)));
    this.element = h(
      "article",
      { class: `card model ${look}`, id, "aria-labelledby": `${id}-title` },
      h("div", { class: "model-head" }, h("div", {}, h("h3", { id: `${id}-title` }, title), this.name), this.pill),
      this.since,
      this.reason,
      this.retry,
      h("div", { class: "meters" }, this.running.element, this.waiting.element),
      this.memory,
      h(
        "dl",
        {},
        h("dt", {}, "Restarts"),
        this.restarts,
        h("dt", {}, "Last error"),
        this.error,
        h("dt", {}, "Flex and batch"),
        this.classes,
      ),
      this.members,
    );
  }

  update(health, now) {
    if (this.known && this.known !== health.state) {
      const why = health.reason ? `: ${health.reason}` : "";
      this.onState(`${this.title} is now ${health.state}${why}`);
    }
    this.known = health.state;
    this.element.dataset.state = health.state;
    setText(this.name, health.model ?? "unknown until its engine is ready");
    setText(this.state, health.state);
    this.pill.dataset.mood = mood(health.state);
    const since = Date.parse(health.since) / 1000;
    setText(this.since, `for ${age(now - since)}, since ${clock(since)}`);
    this.since.title = date(since);
    setText(this.reason, health.reason ?? "");
    setHidden(this.reason, !health.reason);
    setHidden(this.retry, health.state !== "failed");
    const queue = health.queue;
    if (queue) {
      this.running.update(queue.running, queue.bounds.max_running);
      this.waiting.update(queue.waiting, queue.bounds.max_waiting);
      setText(this.classes, yieldingClasses(queue.classes));
    }
    setText(this.restarts, count(health.restarts));
    const error = health.last_error;
    setText(this.error, error ? `${error.message} (${clock(Date.parse(error.at) / 1000)})` : "none");
    this.drawMemory(health.memory ?? null);
    this.drawMembers(health.members ?? null);
  }
}

/** The load of the classes that give way to interactive requests, in words. */
function yieldingClasses(classes) {
  const busy = ["flex", "batch"].filter((name) => classes[name].running || classes[name].waiting);
  return busy.map((name) => `${name}: ${count(classes[name].running)} running, ${count(classes[name].waiting)} waiting`).join("; ") || "none";
}

class Meter {
  constructor(name) {
    this.name = name;
    this.fill = h("span", { class: "fill" });
    this.bar = h("div", { class: "meter", role: "meter", "aria-label": name, "aria-valuemin": "0" }, this.fill);
    this.text = h("b", {});
    this.most = h("span", { class: "muted" });
    this.element = h("div", {}, h("p", {}, h("span", { class: "muted" }, name), h("span", {}, this.text, this.most)), this.bar);
  }

  update(value, most) {
    setText(this.text, count(value));
    setText(this.most, ` of ${count(most)}`);
    this.bar.setAttribute("aria-valuenow", value);
    this.bar.setAttribute("aria-valuemax", most);
    const share = most ? Math.min(1, value / most) : 0;
    // A small value stays visible.
    this.fill.style.width = value ? `max(3px, ${(share * 100).toFixed(1)}%)` : "0";
    this.fill.classList.toggle("full", share >= 0.9);
  }
}

/** The memory plan as a stacked bar with a legend, and a mark at the measured memory. */
function memoryPlan(memory) {
  const parts = memory?.planned?.filter((part) => part.bytes > 0) ?? [];
  if (parts.length === 0) {
    return [h("h4", {}, "Memory"), h("p", { class: "muted" }, "No memory plan for this engine.")];
  }
  const planned = parts.reduce((sum, part) => sum + part.bytes, 0);
  const measured = memory.measured_bytes ?? null;
  const whole = Math.max(planned, measured ?? 0);
  let at = 0;
  const rects = parts.map((part, index) => {
    const rect = s("rect", { class: `part p${index % 6}`, x: (at / whole) * 1000, y: 4, height: 14,
      width: Math.max(2, (part.bytes / whole) * 1000 - 2) });
    at += part.bytes;
    return rect;
  });
  const mark = measured === null ? [] : [s("rect", { class: "mark", x: Math.min(996, (measured / whole) * 1000 - 2), y: 0, width: 4, height: 22 })];
  const legend = parts.map((part, index) =>
    h("li", {}, h("span", { class: `swatch p${index % 6}`, "aria-hidden": "true" }), words(part.name), " ", h("b", {}, bytes(part.bytes))),
  );
  const total = measured === null ? `${bytes(planned)} planned` : `${bytes(planned)} planned, ${bytes(measured)} measured`;
  if (measured !== null) {
    legend.push(h("li", {}, h("span", { class: "swatch mark", "aria-hidden": "true" }), "measured ", h("b", {}, bytes(measured))));
  }
  return [
    h("p", { class: "memory-head" }, h("span", { class: "h4" }, "Memory"), h("span", { class: "muted" }, total)),
    s("svg", { class: "memory-bar", viewBox: "0 0 1000 22", preserveAspectRatio: "none", role: "img",
      "aria-label": `Memory: ${total}: ${parts.map((part) => `${words(part.name)} ${bytes(part.bytes)}`).join(", ")}` }, ...rects, ...mark),
    h("ul", { class: "legend" }, ...legend),
  ];
}

const words = (name) => name.replaceAll("_", " ");

function memberList(members) {
  if (!members) return [];
  const items = members.map((member) =>
    h(
      "li",
      {},
      h("p", { class: "pill", "data-mood": mood(member.state) }, h("span", { class: "dot", "aria-hidden": "true" }), h("b", {}, member.state)),
      h("span", { class: "mono" }, member.address),
      h("span", { class: "muted" }, `${count(member.outstanding)} in progress · breaker ${member.breaker} · ejected ${count(member.ejections)} ×`),
      member.last_error ? h("span", { class: "muted why" }, member.last_error) : null,
    ),
  );
  return [h("h4", {}, members.length === 1 ? "Server" : "Servers"), h("ul", {}, ...items)];
}

/** Facts about the service as a whole. */
export function facts(health) {
  const parts = [];
  if (health.gpu_memory) {
    const { used_gib: used, total_gib: total } = health.gpu_memory;
    parts.push(`GPU memory ${used.toFixed(1)} of ${total.toFixed(1)} GiB in use`);
  }
  if (health.embedding_cache) {
    const { hits, shared, misses, bytes: size, max_bytes: most } = health.embedding_cache;
    const inputs = hits + shared + misses;
    const rate = inputs ? `${(((hits + shared) / inputs) * 100).toFixed(0)} % hits of ${count(inputs)} inputs` : "no inputs yet";
    parts.push(`Embedding cache: ${rate}, ${bytes(size)} of ${bytes(most)}`);
  }
  return parts.join(" · ");
}
