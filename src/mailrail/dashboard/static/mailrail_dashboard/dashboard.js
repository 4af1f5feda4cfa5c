// Brings what the server says as it changes: over a WebSocket where there is one, else by asking every two seconds.
// Nothing is asked while the tab is hidden.
"use strict";

const LONGEST_WAIT_MS = 30000;
const ANSWER_WITHIN_MS = 10000;
const WATCH_MS = 15000; // a WebSocket that is silent: asked by HTTP whether all is as it was
const LINES_MS = 30000;
const MARKED_MS = 1500;

const body = document.body;
const health = document.getElementById("health");
const verdict = document.getElementById("verdict");
const away = document.getElementById("away");
const tables = [...document.querySelectorAll(".section[data-section]")].map((section) => new Table(section));
const drawn = document.getElementById("lines");
const lines = drawn && new Lines(drawn);
const actions = new Actions(tables, lines, () => connection.look());
const answeredAt = document.getElementById("answered");

function showHealth({ state, text, problems }) {
  setData(health, "state", state);
  setLinked(verdict.firstElementChild, text, problems.length === 1 ? problems[0].href : "");
  document.title = `${state === "ok" ? "✓" : "✗"} ${text} – ${texts.title}`;
  const list = document.getElementById("problems");
  list.hidden = problems.length < 2;
  const known = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const items = problems.map((problem) => showProblem(known.get(problem.key), problem));
  for (const [key, item] of known) if (!problems.some((problem) => problem.key === key)) item.remove();
  order(list, items);
}

function showProblem(item, { key, text, since, href }) {
  const shown = item ?? make("li", { "data-key": key }, make("span", { class: "since" }), " ", make("span"));
  setText(shown.firstElementChild, since || "");
  setLinked(shown.lastElementChild, text, href);
  return shown;
}

function showSections(sections) {
  for (const table of tables) {
    const content = sections[table.name];
    table.section.hidden = !content;
    if (!content) continue;
    table.update(content);
    const states = new Set(content.rows.map((row) => row.state));
    const link = document.querySelector(`header a[data-section="${table.name}"]`);
    const worst = ["bad", "warn"].find((state) => states.has(state)) ?? "";
    setData(link, "state", worst);
    setText(link.querySelector(".unseen"), worst && ` ${texts[worst]}`);
    showPages(table.section, content);
  }
  actions.count();
  offerSeries();
  setTimeout(() => {
    for (const cell of document.querySelectorAll(".changed")) cell.classList.remove("changed");
  }, MARKED_MS);
}

function offerSeries() {
  for (const table of tables) {
    if (table.section.dataset.series) lines?.offer([...table.body.rows].map((row) => seriesOf(table, row)));
  }
}

function showPages(section, { page = 1, pages = 1 }) {
  const nav = section.querySelector(".pages");
  if (!nav) return;
  nav.hidden = pages < 2;
  setText(nav.querySelector(".where"), `${page} / ${pages}`);
  for (const link of nav.querySelectorAll("a")) {
    const to = page + Number(link.dataset.step);
    link.hidden = to < 1 || to > pages;
    const address = addressWith({ page: to });
    if (link.getAttribute("href") !== address) link.setAttribute("href", address);
  }
}

function addressWith(changed) {
  const asked = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changed)) value ? asked.set(name, value) : asked.delete(name);
  return `?${asked}`;
}

// What of the address the server needs to know.
function asked() {
  const given = new URLSearchParams(location.search);
  const names = ["q", "page"].filter((name) => given.get(name));
  return Object.fromEntries(names.map((name) => [name, given.get(name)]));
}

function show(page) {
  body.dataset.at = page.at;
  showHealth(page.health);
  showSections(page.sections);
}

const connection = {
  failures: 0,
  isOver: false,
  lastAnswer: Date.now(),

  // Asks now; what is under way is dropped.
  async look() {
    clearTimeout(this.timer);
    if (this.isOver || document.hidden) return;
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    const limit = setTimeout(() => asking.abort("late"), ANSWER_WITHIN_MS);
    try {
      await this.ask(asking.signal);
    } catch {
      if (asking.signal.aborted && asking.signal.reason !== "late") return;
      this.fail();
    } finally {
      clearTimeout(limit);
    }
    if (asking === this.asking) this.wait();
  },

  async ask(signal) {
    const url = `${body.dataset.url}?${new URLSearchParams(asked())}`;
    const headers = this.url === url && this.etag ? { "If-None-Match": this.etag } : {};
    const response = await fetch(url, { headers, signal, cache: "no-store", redirect: "manual" });
    if (response.type === "opaqueredirect" || response.status === 401) return this.end(texts.session, true);
    if (response.status === 403) return this.end(texts.refused);
    if (response.status !== 304 && !response.ok) throw new Error(response.statusText);
    const page = response.ok ? await response.json() : null;
    [this.url, this.etag] = [url, response.headers.get("ETag")];
    this.answer();
    if (page) show(page);
  },

  answer() {
    this.failures = 0;
    this.lastAnswer = Date.now();
    away.hidden = true;
    body.classList.remove("old");
    const now = time(this.lastAnswer / 1000, { second: "2-digit" });
    setText(answeredAt, fill(texts.answered, { time: now }));
    if (!this.socket) this.open();
  },

  fail() {
    this.failures += 1;
    const since = time(this.lastAnswer / 1000, { second: "2-digit" });
    this.tell(fill(texts.away, { time: since }));
  },

  // No permission, or the session is over: asking again changes nothing.
  end(text, canLogIn = false) {
    this.isOver = true;
    this.close();
    document.getElementById("again").hidden = true;
    document.getElementById("login").hidden = !canLogIn;
    this.tell(text);
  },

  tell(text) {
    setText(away.querySelector("p"), text);
    away.hidden = false;
    body.classList.add("old");
    document.title = `? ${text} – ${texts.title}`;
  },

  wait() {
    if (this.isOver || document.hidden) return;
    const interval = Number(body.dataset.interval) * 1000;
    const usual = this.socket?.readyState === WebSocket.OPEN ? WATCH_MS : interval;
    const wait = this.failures ? Math.min(interval * 2 ** (this.failures - 1), LONGEST_WAIT_MS) : usual;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), wait);
  },

  // Opens the WebSocket, if the site has one; until it is open, and when it cannot be, the page asks.
  open() {
    if (!body.dataset.live || this.refusals > 2 || Date.now() < this.notBefore) return;
    const url = new URL(body.dataset.live, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(url));
    let wasOpen = false;
    socket.addEventListener("open", () => {
      wasOpen = true;
      this.refusals = 0;
      this.choose();
      this.wait();
    });
    socket.addEventListener("message", (event) => {
      this.etag = null;
      this.answer();
      show(JSON.parse(event.data));
      this.wait();
    });
    socket.addEventListener("close", ({ code }) => {
      if (this.socket !== socket) return;
      this.socket = null;
      if (code === 4401) return this.end(texts.session, true);
      if (code === 4403) return this.end(texts.refused);
      if (!wasOpen) this.refusals += 1;
      this.notBefore = Date.now() + ANSWER_WITHIN_MS;
      this.look();
    });
  },

  refusals: 0,
  notBefore: 0,

  choose() {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(asked()));
  },

  close() {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.asking?.abort();
    clearTimeout(this.timer);
    clearInterval(this.drawing);
  },

  begin() {
    this.notBefore = 0;
    this.look();
    lines?.look();
    clearInterval(this.drawing);
    this.drawing = setInterval(() => lines?.look(), LINES_MS);
  },
};

function goTo(address, isStep) {
  history[isStep ? "pushState" : "replaceState"](null, "", address);
  connection.choose();
  connection.look();
}

const search = document.getElementById("search");
let typing;
search?.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => goTo(addressWith({ q: search.value.trim(), page: "" }), false), 250);
});
search?.form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  goTo(addressWith({ q: search.value.trim(), page: "" }), true);
});
document.addEventListener("click", (event) => {
  const link = event.target.closest(".pages a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  goTo(link.getAttribute("href"), true);
});
addEventListener("popstate", () => {
  if (search) search.value = asked().q ?? "";
  connection.choose();
  connection.look();
});
document.getElementById("again").addEventListener("click", () => connection.look());
document.addEventListener("visibilitychange", () => {
  if (connection.isOver) return;
  if (document.hidden) {
    connection.close();
    document.title = texts.title; // nobody keeps it true meanwhile
  } else {
    connection.begin();
  }
});
offerSeries();
connection.begin();
