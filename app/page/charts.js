// Line and bar charts of the last minutes, as SVG. One cursor goes through all of them.

import { byId, h, onChange, s, setText } from "./dom.js";
import { clock, count, duration, rate } from "./format.js";

const HEIGHT = 132;
const EDGE = { top: 10, right: 8, bottom: 20, left: 44 };
const MINUTE_S = 60;
/** Drawn until the service has said which roles it has. */
const ROLES = ["embed", "generate"];
const FEWEST_MINUTES = 2;

const PERCENTILES = [
  { name: "p50", look: "p50" },
  { name: "p95", look: "p95" },
  { name: "p99", look: "p99" },
];

/**
 * Each chart: what it is called, its lines, and how their values are found in the series. Charts and lines of a
 * role are drawn only where the service has that role.
 */
const CHARTS = [
  {
    id: "requests",
    title: "Requests per second",
    format: rate,
    lines: [
      { name: "generation", look: "generate", role: "generate", values: (x) => x.perSecond(x.roles.generate.requests) },
      { name: "embeddings", look: "embed", role: "embed", values: (x) => x.perSecond(x.roles.embed.requests) },
      { name: "other", look: "other", values: (x) => x.perSecond(x.roles.other.requests) },
    ],
    summary: (line, x) => x.lastMinute(line.values(x)),
    isOfLastMinute: true,
  },
  {
    id: "tokens",
    title: "Tokens per second",
    format: rate,
    lines: [
      { name: "completion", look: "generate", role: "generate", values: (x) => x.perSecond(x.sum("completion_tokens")) },
      { name: "prompt", look: "embed", values: (x) => x.perSecond(x.sum("prompt_tokens")) },
    ],
    summary: (line, x) => x.lastMinute(line.values(x)),
    isOfLastMinute: true,
  },
  {
    id: "errors",
    title: "Errors",
    format: count,
    bars: true,
    lines: [{ name: "errors", look: "error", values: (x) => x.sum("errors") }],
    summary: (line, x) => line.values(x).reduce((sum, value) => sum + value, 0),
  },
  percentiles("first-token", "Time to first token", "generate", "first_token"),
  percentiles("latency-generate", "Latency, generation", "generate", "latency"),
  percentiles("latency-embed", "Latency, embeddings", "embed", "latency"),
];

function percentiles(id, title, role, field) {
  return {
    id,
    title,
    role,
    format: duration,
    lines: PERCENTILES.map((line) => ({ ...line, values: (x) => x.roles[role][field][line.name] })),
    summary: (line, x) => x.roles[role][field].whole[line.name],
  };
}

/** The series of an answer, and what charts ask of them. */
class Numbers {
  constructor(series, now) {
    const { begin, bucket_s: bucketS, roles } = series;
    this.begin = begin;
    this.bucketS = bucketS;
    this.roles = roles;
    this.length = roles.other.requests.length;
    // The last bucket is under way: its rate means little before half of it has passed.
    this.elapsedS = Math.min(bucketS, now - begin - (this.length - 1) * bucketS);
    this.isLastTold = this.elapsedS >= bucketS / 2;
    // A service that was idle until a while ago is shown from then on, in whole minutes.
    const first = this.sum("requests").findIndex((value) => value > 0);
    const inMinute = MINUTE_S / bucketS;
    const idle = first < 0 ? this.length : Math.max(0, first - 1);
    this.minutes = Math.max(FEWEST_MINUTES, Math.ceil((this.length - idle) / inMinute));
    this.start = Math.max(0, this.length - this.minutes * inMinute);
  }

  get last() {
    return this.length - 1;
  }

  sum(field) {
    const all = Object.values(this.roles);
    return all[0][field].map((_, index) => all.reduce((sum, each) => sum + each[field][index], 0));
  }

  perSecond(counts) {
    return counts.map((value, index) => {
      if (index < this.length - 1) return value / this.bucketS;
      return this.isLastTold ? value / this.elapsedS : null;
    });
  }

  lastMinute(rates) {
    const last = rates.slice(0, -1).slice(-MINUTE_S / this.bucketS);
    return last.reduce((sum, value) => sum + value, 0) / last.length;
  }

  time(index) {
    return this.begin + index * this.bucketS;
  }
}

export class Charts {
  constructor(place) {
    this.cursor = null;
    this.charts = [];
    this.build = onChange((roles) => {
      const isServed = ({ role }) => !role || roles.includes(role);
      const specs = CHARTS.filter(isServed).map((spec) => ({ ...spec, lines: spec.lines.filter(isServed) }));
      this.charts = specs.map((spec) => new Chart(spec, this));
      place.replaceChildren(...this.charts.map((chart) => chart.figure));
    });
    this.build(ROLES);
  }

  update(status) {
    this.build(Object.keys(status.health.backends).sort());
    const numbers = new Numbers(status.series, status.time);
    setText(byId("traffic-title"), `Last ${numbers.minutes} minutes`);
    for (const chart of this.charts) chart.update(numbers);
  }

  point(index) {
    this.cursor = index;
    for (const chart of this.charts) chart.drawCursor();
  }
}

class Chart {
  constructor(spec, group) {
    this.spec = spec;
    this.group = group;
    this.values = [];
    this.labels = spec.lines.map(() => h("b", {}, "–"));
    this.about = h("span", { class: "about" });
    const legend = spec.lines.map((line, index) =>
      h("li", {}, h("span", { class: `swatch ${line.look}`, "aria-hidden": "true" }), line.name, " ", this.labels[index]),
    );
    this.svg = s("svg", { height: HEIGHT, "aria-hidden": "true", focusable: "false" });
    this.plot = h(
      "div",
      {
        class: "plot",
        tabindex: "0",
        role: "img",
        onpointermove: (event) => this.#point(event),
        onpointerleave: () => this.group.point(null),
        onblur: () => this.group.point(null),
        onkeydown: (event) => this.#key(event),
      },
      this.svg,
    );
    this.figure = h(
      "figure",
      { class: "card chart", id: `chart-${spec.id}` },
      h("figcaption", {}, h("h3", {}, spec.title), this.about),
      this.plot,
      h("ul", { class: "legend" }, ...legend),
    );
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  update(numbers) {
    this.numbers = numbers;
    this.values = this.spec.lines.map((line) => line.values(numbers));
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!this.numbers || width === 0) return;
    this.width = width;
    const highest = Math.max(0, ...this.values.flat().filter((value) => value !== null));
    this.top = niceTop(highest, this.spec.bars ? 4 : this.spec.format === duration ? 0.001 : 1);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("width", width);
    this.cursorLine = s("g", { class: "cursor" });
    this.svg.replaceChildren(this.#grid(), ...this.#marks(), this.cursorLine);
    this.drawCursor();
  }

  drawCursor() {
    if (!this.numbers || !this.cursorLine) return;
    const { spec, numbers } = this;
    // What is shown may have begun later since the cursor was put there.
    const index = this.group.cursor === null ? null : Math.max(numbers.start, this.group.cursor);
    spec.lines.forEach((line, number) => {
      const value = index === null ? spec.summary(line, numbers) : this.values[number][index];
      setText(this.labels[number], spec.format(value));
    });
    const whole = spec.isOfLastMinute ? "last minute" : `${numbers.minutes} minutes`;
    setText(this.about, index === null ? whole : clock(numbers.time(index)));
    this.#describe();
    if (index === null) {
      this.cursorLine.replaceChildren();
      return;
    }
    const x = this.#x(index);
    const dots = this.values
      .map((values, number) => [values[index], spec.lines[number].look])
      .filter(([value]) => value !== null)
      .map(([value, look]) => s("circle", { class: look, cx: x, cy: this.#y(value), r: 3 }));
    this.cursorLine.replaceChildren(s("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }), ...dots);
  }

  #describe() {
    const told = this.spec.lines.map((line, number) => `${line.name} ${this.labels[number].textContent}`);
    const label = `${this.spec.title}, ${this.about.textContent}: ${told.join(", ")}. Arrow keys move through time.`;
    if (this.plot.getAttribute("aria-label") !== label) this.plot.setAttribute("aria-label", label);
  }

  #grid() {
    const { numbers, spec, top } = this;
    const grid = s("g", { class: "grid" });
    for (const share of [0, 0.5, 1]) {
      const y = this.#y(top * share);
      grid.append(
        s("line", { x1: EDGE.left, x2: this.width - EDGE.right, y1: y, y2: y }),
        s("text", { x: EDGE.left - 6, y: y + 3.5, "text-anchor": "end" }, spec.format(top * share)),
      );
    }
    const { start, last } = numbers;
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      const index = Math.round(start + (last - start) * share);
      const ago = ((last - index) * numbers.bucketS) / MINUTE_S;
      const word = share === 1 ? "now" : `−${Math.round(ago * 2) / 2} min`;
      grid.append(s("text", { x: this.#x(index), y: HEIGHT - 5, "text-anchor": anchor }, word));
    }
    return grid;
  }

  #marks() {
    const base = HEIGHT - EDGE.bottom;
    if (this.spec.bars) {
      const wide = Math.max(1, (this.width - EDGE.left - EDGE.right) / (this.numbers.length - this.numbers.start) - 1);
      return this.values[0].flatMap((value, index) =>
        value
          ? [s("rect", { class: `bar ${this.spec.lines[0].look}`, x: this.#x(index) - wide / 2, width: wide,
              y: this.#y(value), height: base - this.#y(value) })]
          : [],
      );
    }
    // The first line lies on top of the others.
    return this.values
      .map((values, number) => s("path", { class: `line ${this.spec.lines[number].look}`, d: this.#path(values) }))
      .reverse();
  }

  #path(values) {
    let path = "";
    values.forEach((value, index) => {
      if (value === null || index < this.numbers.start) return;
      const place = `${this.#x(index).toFixed(1)} ${this.#y(value).toFixed(1)}`;
      const isNew = index === this.numbers.start || values[index - 1] === null;
      // A line of no length has round ends, and so shows a lone value as a dot.
      path += isNew ? `M${place}l0 0` : `L${place}`;
    });
    return path;
  }

  #x(index) {
    const { start, last } = this.numbers;
    return EDGE.left + ((index - start) / (last - start)) * (this.width - EDGE.left - EDGE.right);
  }

  #y(value) {
    return HEIGHT - EDGE.bottom - (value / this.top) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  #point(event) {
    if (!this.numbers) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left - EDGE.left;
    const share = x / (this.width - EDGE.left - EDGE.right);
    const { start, last } = this.numbers;
    this.group.point(Math.min(last, Math.max(start, Math.round(start + share * (last - start)))));
  }

  #key(event) {
    if (!this.numbers) return;
    const { start, last } = this.numbers;
    const at = this.group.cursor ?? last;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: start, End: last, PageUp: at - 12, PageDown: at + 12 };
    if (event.key === "Escape") this.group.point(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.group.point(Math.min(last, Math.max(start, moves[event.key])));
    byId("announcer").textContent = this.plot.getAttribute("aria-label").replace(/ Arrow keys.*/, "");
  }
}

/** A round number above all values: 1, 2, 4, 5 or 10 times a power of ten, and never less than `least`. */
export function niceTop(highest, least) {
  const wanted = Math.max(highest, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((step) => step >= wanted * 0.999);
}
