// Line and bar charts of the last minutes, as SVG, with a shared cursor.

import { byId, h, onChange, s, setText } from "./dom.js";
import { clock, count, duration, rate } from "./format.js";

const HEIGHT = 132;
const EDGE = { top: 10, right: 8, bottom: 20, left: 44 };
const MINUTE_S = 60;
const MIN_MINUTES = 2;

const PERCENTILES = [
  { name: "p50", look: "p50" },
  { name: "p95", look: "p95" },
  { name: "p99", look: "p99" },
];

/** The charts for these roles: title, lines, and functions that compute their values from the series. */
function chartsOf(roles) {
  const generating = roles.filter((role) => role.generates);
  return [
    {
      id: "requests",
      title: "Requests per second",
      format: rate,
      lines: [
        ...roles.map(({ key, noun, look }) => ({ name: noun, look, values: (x) => x.perSecond(x.roles[key].requests) })),
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
        ...(generating.length ? [{ name: "completion", look: "p0", values: (x) => x.perSecond(x.sum("completion_tokens")) }] : []),
        { name: "prompt", look: "p1", values: (x) => x.perSecond(x.sum("prompt_tokens")) },
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
    ...generating.map((role) => percentiles(`first-token-${role.key}`, `Time to first token, ${role.noun}`, role, "first_token")),
    ...roles.map((role) => percentiles(`latency-${role.key}`, `Latency, ${role.noun}`, role, "latency")),
  ];
}

function percentiles(id, title, { key }, field) {
  return {
    id,
    title,
    format: duration,
    lines: PERCENTILES.map((line) => ({ ...line, values: (x) => x.roles[key][field][line.name] })),
    summary: (line, x) => x.roles[key][field].whole[line.name],
  };
}

/** The series of a status answer, and values computed from them. */
class Series {
  constructor(series, now) {
    const { begin, bucket_s: bucketS, roles } = series;
    this.begin = begin;
    this.bucketS = bucketS;
    this.roles = roles;
    this.length = roles.other.requests.length;
    // The last bucket is still open: its rate means little before half of it has passed.
    this.elapsedS = Math.min(bucketS, now - begin - (this.length - 1) * bucketS);
    this.hasLastRate = this.elapsedS >= bucketS / 2;
    // Leading idle time is not shown. The time shown is in whole minutes.
    const first = this.sum("requests").findIndex((value) => value > 0);
    const inMinute = MINUTE_S / bucketS;
    const idle = first < 0 ? this.length : Math.max(0, first - 1);
    this.minutes = Math.max(MIN_MINUTES, Math.ceil((this.length - idle) / inMinute));
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
      return this.hasLastRate ? value / this.elapsedS : null;
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
      this.charts = chartsOf(roles).map((spec) => new Chart(spec, this));
      place.replaceChildren(...this.charts.map((chart) => chart.figure));
    });
  }

  update(status, roles) {
    this.build(roles);
    const series = new Series(status.series, status.time);
    setText(byId("traffic-title"), `Last ${series.minutes} minutes`);
    for (const chart of this.charts) chart.update(series);
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

  update(series) {
    this.series = series;
    this.values = this.spec.lines.map((line) => line.values(series));
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!this.series || width === 0) return;
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
    if (!this.series || !this.cursorLine) return;
    const { spec, series } = this;
    // The start of the chart may have moved past the cursor.
    const index = this.group.cursor === null ? null : Math.max(series.start, this.group.cursor);
    spec.lines.forEach((line, number) => {
      const value = index === null ? spec.summary(line, series) : this.values[number][index];
      setText(this.labels[number], spec.format(value));
    });
    const period = spec.isOfLastMinute ? "last minute" : `${series.minutes} minutes`;
    setText(this.about, index === null ? period : clock(series.time(index)));
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
    const values = this.spec.lines.map((line, number) => `${line.name} ${this.labels[number].textContent}`);
    const label = `${this.spec.title}, ${this.about.textContent}: ${values.join(", ")}. Arrow keys move through time.`;
    if (this.plot.getAttribute("aria-label") !== label) this.plot.setAttribute("aria-label", label);
  }

  #grid() {
    const { series, spec, top } = this;
    const grid = s("g", { class: "grid" });
    for (const share of [0, 0.5, 1]) {
      const y = this.#y(top * share);
      grid.append(
        s("line", { x1: EDGE.left, x2: this.width - EDGE.right, y1: y, y2: y }),
        s("text", { x: EDGE.left - 6, y: y + 3.5, "text-anchor": "end" }, spec.format(top * share)),
      );
    }
    const { start, last } = series;
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      const index = Math.round(start + (last - start) * share);
      const ago = ((last - index) * series.bucketS) / MINUTE_S;
      const word = share === 1 ? "now" : `−${Math.round(ago * 2) / 2} min`;
      grid.append(s("text", { x: this.#x(index), y: HEIGHT - 5, "text-anchor": anchor }, word));
    }
    return grid;
  }

  #marks() {
    const base = HEIGHT - EDGE.bottom;
    if (this.spec.bars) {
      const wide = Math.max(1, (this.width - EDGE.left - EDGE.right) / (this.series.length - this.series.start) - 1);
      return this.values[0].flatMap((value, index) =>
        value
          ? [s("rect", { class: `bar ${this.spec.lines[0].look}`, x: this.#x(index) - wide / 2, width: wide,
              y: this.#y(value), height: base - this.#y(value) })]
          : [],
      );
    }
    // The first line is drawn on top of the others.
    return this.values
      .map((values, number) => s("path", { class: `line ${this.spec.lines[number].look}`, d: this.#path(values) }))
      .reverse();
  }

  #path(values) {
    let path = "";
    values.forEach((value, index) => {
      if (value === null || index < this.series.start) return;
      const place = `${this.#x(index).toFixed(1)} ${this.#y(value).toFixed(1)}`;
      const isNew = index === this.series.start || values[index - 1] === null;
      // A line of zero length has round caps, so that a single value is visible as a dot.
      path += isNew ? `M${place}l0 0` : `L${place}`;
    });
    return path;
  }

  #x(index) {
    const { start, last } = this.series;
    return EDGE.left + ((index - start) / (last - start)) * (this.width - EDGE.left - EDGE.right);
  }

  #y(value) {
    return HEIGHT - EDGE.bottom - (value / this.top) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  #point(event) {
    if (!this.series) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left - EDGE.left;
    const share = x / (this.width - EDGE.left - EDGE.right);
    const { start, last } = this.series;
    this.group.point(Math.min(last, Math.max(start, Math.round(start + share * (last - start)))));
  }

  #key(event) {
    if (!this.series) return;
    const { start, last } = this.series;
    const at = this.group.cursor ?? last;
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: start, End: last, PageUp: at - 12, PageDown: at + 12 };
    if (event.key === "Escape") this.group.point(null);
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.group.point(Math.min(last, Math.max(start, moves[event.key])));
    byId("announcer").textContent = this.plot.getAttribute("aria-label").replace(/ Arrow keys.*/, "");
  }
}

/** A round upper bound for an axis: 1, 2, 4, 5 or 10 times a power of ten, and at least `least`. */
export function niceTop(highest, least) {
  const wanted = Math.max(highest, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((step) => step >= wanted * 0.999);
}
