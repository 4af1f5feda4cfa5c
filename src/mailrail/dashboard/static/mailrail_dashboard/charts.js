// Draws lines as SVG, each with a table behind it. Numbers come from the server; here they only get their place.
"use strict";

const language = document.documentElement.lang;
const zone = (() => {
  try {
    return new Intl.DateTimeFormat(language, { timeZone: document.body.dataset.zone }).resolvedOptions().timeZone;
  } catch {
    return undefined; // a zone that the browser does not know: its own
  }
})();

function time(seconds, options = {}) {
  const shown = { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone, ...options };
  return new Intl.DateTimeFormat(language, shown).format(new Date(seconds * 1000));
}

const TICKS = {
  hour: { every: 900, options: {} },
  day: { every: 14400, options: {} },
  week: { every: 86400, options: { weekday: "short", hour: undefined, minute: undefined } },
};
const ROUND = {
  rate: [1, 2, 5, 10],
  second: [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800],
};
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1], ["millisecond", 0.001]];
const HEIGHT = 88;
const EDGE = 4; // so that a line at the top or the bottom is not cut

function number(value, options = {}) {
  return new Intl.NumberFormat(language, { maximumSignificantDigits: 3, ...options }).format(value);
}

function word(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "rate") return number(value);
  const [name, size] = UNITS.find(([, size]) => value >= size) ?? ["second", 1];
  return fill(texts[name], { n: number(value / size, { maximumSignificantDigits: 2 }) });
}

// Returns the round number at the top of the axis.
function ceiling(greatest, unit) {
  if (!(greatest > 0)) return 1;
  if (unit === "second" && greatest >= 1) return ROUND.second.find((top) => top >= greatest) ?? greatest;
  const power = 10 ** Math.floor(Math.log10(greatest));
  return ROUND.rate.map((digit) => digit * power).find((top) => top >= greatest * (1 - 1e-9));
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.unit = figure.dataset.unit;
    this.names = figure.dataset.lines.split(" ");
    this.plot = figure.querySelector(".plot");
    this.scale = figure.querySelector(".scale");
    this.ticks = figure.querySelector(".ticks");
    this.values = [...figure.querySelectorAll(".legend > span")].map((entry) => entry.appendChild(make("b")));
    this.moment = figure.querySelector(".legend").appendChild(make("time"));
    this.title = figure.querySelector("strong").textContent;
    this.details = figure.querySelector("details");
    this.details.addEventListener("toggle", () => this.#fillTable());
    this.plot.addEventListener("pointermove", (event) => this.#point(event));
    this.plot.addEventListener("pointerleave", () => this.#read(null));
    new ResizeObserver(() => this.#draw()).observe(this.plot);
  }

  show(data, span) {
    const perMinute = this.unit === "rate" ? 60 / data.step : 1;
    this.data = data;
    this.span = span;
    this.lines = this.names.map((name) =>
      (data.lines[name] ?? []).map((value) => (value === null ? null : value * perMinute)));
    this.count = Math.max(0, ...this.lines.map((line) => line.length));
    this.#draw();
    this.#read(null);
    this.#fillTable();
  }

  get isEmpty() {
    return this.lines.every((line) => line.every((value) => !value));
  }

  #x(index) {
    return this.count < 2 ? this.width / 2 : (index / (this.count - 1)) * this.width;
  }

  #y(value) {
    return EDGE + (1 - value / this.top) * (HEIGHT - 2 * EDGE);
  }

  #draw() {
    this.width = this.plot.clientWidth;
    if (!this.data || !this.width) return;
    this.top = ceiling(Math.max(0, ...this.lines.flat()), this.unit);
    const paths = this.lines.map((line, index) => draw("path", { class: `line-${index + 1}`, d: this.#path(line) }));
    const label = `${this.title}: ${this.names.map((_, index) => this.#latest(index)).join(", ")}`;
    this.pointer = draw("line", { class: "pointer", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.plot.replaceChildren(
      draw("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label": label },
        ...this.#grid(), ...paths.reverse(), this.pointer));
    this.#label();
  }

  #latest(index) {
    return `${this.values[index].parentNode.firstChild.textContent} ${word(this.#last(this.lines[index]), this.unit)}`;
  }

  #last(line) {
    return line.findLast((value) => value !== null);
  }

  #path(line) {
    let path = "";
    line.forEach((value, index) => {
      if (value === null) return;
      const before = line[index - 1] ?? null;
      path += `${before === null ? "M" : "L"}${this.#x(index).toFixed(1)} ${this.#y(value).toFixed(1)}`;
      if (before === null && (line[index + 1] ?? null) === null) path += "h0.1"; // alone: a dot
    });
    return path;
  }

  #grid() {
    return [0, 0.5, 1].map((part) => {
      const y = this.#y(part * this.top);
      return draw("line", { class: "grid", x1: 0, x2: this.width, y1: y, y2: y });
    });
  }

  // Names the values and moments beside the lines, not on them.
  #label() {
    const scale = [1, 0.5, 0].map((part) => make("span", {}, word(part * this.top, this.unit)));
    this.scale.replaceChildren(...scale);
    const { from, to } = this.data;
    const { every, options } = TICKS[this.span];
    const ticks = [];
    for (let at = Math.ceil(from / every) * every; at <= to; at += every) {
      const part = (at - from) / (to - from);
      if (part < 0.06 || part > 0.94) continue;
      const tick = make("span", {}, time(at, options));
      tick.style.insetInlineStart = `${100 * part}%`;
      ticks.push(tick);
    }
    const room = Math.max(1, Math.ceil((ticks.length * 48) / this.width));
    this.ticks.replaceChildren(...ticks.filter((_, index) => index % room === 0));
  }

  #point(event) {
    if (!this.count) return;
    const { left, width } = this.plot.getBoundingClientRect();
    const part = Math.min(1, Math.max(0, (event.clientX - left) / width));
    this.#read(Math.round(part * (this.count - 1)));
  }

  // Writes the values of this moment into the legend; null: the latest ones.
  #read(index) {
    this.values.forEach((value, line) => {
      const shown = index === null ? this.#last(this.lines[line]) : this.lines[line][index];
      setText(value, word(shown, this.unit));
    });
    setText(this.moment, index === null ? "" : this.#time(index));
    if (!this.pointer) return;
    this.pointer.setAttribute("visibility", index === null ? "hidden" : "visible");
    for (const end of ["x1", "x2"]) this.pointer.setAttribute(end, this.#x(index ?? 0));
  }

  #time(index) {
    const options = this.span === "hour" ? {} : { weekday: "short" };
    return time(this.data.from + index * this.data.step, options);
  }

  #fillTable() {
    if (!this.details.open || !this.data) return;
    const rows = Array.from({ length: this.count }, (_, index) =>
      make("tr", {}, make("th", { scope: "row" }, this.#time(index)),
        ...this.lines.map((line) => make("td", {}, word(line[index], this.unit)))));
    this.details.querySelector("tbody").replaceChildren(...rows.reverse());
  }
}

class Lines {
  constructor(section) {
    this.section = section;
    this.select = section.querySelector("select");
    this.note = section.querySelector(".empty");
    this.charts = [...section.querySelectorAll(".chart")].map((figure) => new Chart(figure));
    this.#readAddress();
    section.addEventListener("change", () => this.#choose());
    section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    section.hidden = false;
  }

  get span() {
    return this.section.querySelector("[name=span]:checked").value;
  }

  #readAddress() {
    const asked = new URLSearchParams(location.search);
    const span = this.section.querySelector(`[name=span][value="${CSS.escape(asked.get("span") || "hour")}"]`);
    if (span) span.checked = true;
    if (asked.get("series")) this.#select(asked.get("series"));
  }

  #select(series, name = series.slice(series.indexOf(":") + 1)) {
    const known = [...this.select.options].find((option) => option.value === series);
    (known ?? this.select.appendChild(make("option", { value: series }, name))).selected = true;
  }

  // Takes in what there are lines of: the rows that are shown now.
  offer(series) {
    const known = new Set([...this.select.options].map((option) => option.value));
    for (const [value, name] of series) {
      if (!known.has(value)) this.select.append(make("option", { value }, name));
    }
  }

  choose(series, name) {
    this.#select(series, name);
    this.#choose();
    this.section.scrollIntoView({ block: "nearest" });
    this.select.focus({ preventScroll: true });
  }

  #choose() {
    const address = new URL(location);
    for (const [name, value, usual] of [["series", this.select.value, "all"], ["span", this.span, "hour"]]) {
      if (value === usual) address.searchParams.delete(name);
      else address.searchParams.set(name, value);
    }
    history.replaceState(null, "", address);
    this.look();
  }

  async look() {
    this.asking?.abort();
    this.asking = new AbortController();
    const span = this.span;
    const asked = new URLSearchParams({ series: this.select.value, span });
    try {
      const response = await fetch(`${this.section.dataset.url}?${asked}`, {
        redirect: "manual", cache: "no-store", signal: this.asking.signal,
      });
      const data = await response.json();
      if (response.ok) this.#show(data, span);
      else this.#say(data.text);
    } catch {
      // The page says it when the site is away.
    }
  }

  #show(data, span) {
    for (const chart of this.charts) chart.show(data, span);
    const isEmpty = this.charts.every((chart) => chart.isEmpty);
    this.section.querySelector(".charts").hidden = isEmpty;
    this.#say(isEmpty ? this.note.dataset.text : "");
  }

  #say(text) {
    setText(this.note, text);
    this.note.hidden = !text;
  }
}
