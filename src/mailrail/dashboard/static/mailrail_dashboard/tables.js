// Draws the sections. Rows have keys and are changed in place, so that the focus and what is selected stay.
// Every text is set as text: channels, workers and servers have written some of them.
"use strict";

const texts = document.getElementById("texts").dataset;
const wordings = new Map(
  [...document.querySelectorAll("#wordings li")].map((item) => [
    item.dataset.action,
    { label: item.textContent, effects: item.dataset, isFinal: "final" in item.dataset },
  ]),
);

function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function whole(count) {
  return new Intl.NumberFormat(document.documentElement.lang).format(count);
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Returns whether there was another text.
function setText(element, text) {
  if (element.textContent === text) return false;
  if (element.firstChild?.nodeType === Node.TEXT_NODE && !element.firstChild.nextSibling) element.firstChild.data = text;
  else element.textContent = text;
  return true;
}

function setData(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

// Sets the text, within a link or not; returns whether there was another text.
function setLinked(element, text, link) {
  let shown = element;
  if ((element.localName === "a") !== Boolean(link)) {
    shown = make(link ? "a" : "span");
    element.replaceWith(shown);
  }
  if (link && shown.getAttribute("href") !== link) shown.setAttribute("href", link);
  return setText(shown, text);
}

// Puts the elements into this order. One of them stays where it is: the one that has the focus or a selection.
function order(parent, elements) {
  if (!elements.length) return;
  const selected = getSelection().anchorNode;
  const isHeld = (element) => element.contains(document.activeElement) || (selected && element.contains(selected));
  const at = Math.max(0, elements.findIndex(isHeld));
  let here = elements[at];
  if (here.parentNode !== parent) parent.prepend(here);
  for (const element of elements.slice(0, at).reverse()) {
    if (here.previousElementSibling !== element) here.before(element);
    here = element;
  }
  here = elements[at];
  for (const element of elements.slice(at + 1)) {
    if (here.nextElementSibling !== element) here.after(element);
    here = element;
  }
}

function drawBar(cell, bar) {
  let svg = cell.querySelector(".bar");
  if (!bar) return svg?.remove();
  if (!svg) {
    svg = draw("svg", { class: "bar", preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(draw("rect", { class: "done", height: 1 }), draw("rect", { class: "failed", height: 1 }));
    cell.append(svg);
  }
  svg.setAttribute("viewBox", `0 0 ${bar.total || 0} 1`);
  svg.children[0].setAttribute("width", bar.done);
  svg.children[1].setAttribute("x", bar.done);
  svg.children[1].setAttribute("width", bar.failed || 0);
}

class Table {
  constructor(section) {
    this.section = section;
    this.name = section.dataset.section;
    this.body = section.querySelector("tbody");
    this.columns = [...section.querySelectorAll("thead th[data-column]")].map((header) => ({
      name: header.dataset.column,
      kind: header.className,
      label: header.textContent,
    }));
    this.total = Number(section.dataset.total);
    this.whole = make("input", { type: "checkbox", "aria-label": texts.page });
    section.querySelector("thead .choose").replaceChildren(this.whole);
    for (const row of this.body.rows) this.#complete(row);
    this.#showColumns();
  }

  update(content) {
    this.total = content.total ?? content.rows.length;
    setData(this.section, "q", content.q ?? "");
    const known = new Map([...this.body.rows].map((row) => [row.dataset.key, row]));
    const rows = content.rows.map((data) => this.#updateRow(known.get(data.key) ?? this.#newRow(data.key), data));
    for (const row of rows) known.delete(row.dataset.key);
    for (const row of known.values()) this.#remove(row);
    order(this.body, this.#isInUse() ? this.#asTheyStand(rows) : rows);
    this.section.querySelector(".scroll").hidden = !rows.length;
    const empty = this.section.querySelector(".empty");
    empty.hidden = rows.length > 0;
    setText(empty, content.empty || "");
    this.#showColumns();
  }

  get chosen() {
    return [...this.body.rows].filter((row) => row.querySelector(".choose input")?.checked);
  }

  get isWhole() {
    return [...this.body.querySelectorAll(".choose label:not([hidden]) input")].every((box) => box.checked);
  }

  choose(isChosen) {
    for (const box of this.body.querySelectorAll(".choose label:not([hidden]) input")) box.checked = isChosen;
  }

  // Rows keep their places while somebody is about to press a button in one of them.
  #isInUse() {
    return this.body.matches(":hover") || this.body.contains(document.activeElement) || this.chosen.length > 0;
  }

  #asTheyStand(rows) {
    const present = new Set(rows);
    const standing = [...this.body.rows].filter((row) => present.has(row));
    return [...standing, ...rows.filter((row) => row.parentNode !== this.body)];
  }

  #newRow(key) {
    const row = make("tr", { "data-key": key, role: "row" });
    for (const { name, kind, label } of this.columns) {
      const cell = kind === "name" ? make("th", { scope: "row", role: "rowheader" }) : make("td", { role: "cell" });
      cell.className = kind;
      Object.assign(cell.dataset, { column: name, label });
      cell.append(make("span"));
      row.append(cell);
    }
    this.#complete(row);
    return row;
  }

  // Adds what does nothing without a script: a box to choose the row, and its buttons.
  #complete(row) {
    const box = make("input", { type: "checkbox" });
    row.prepend(make("td", { class: "choose", role: "cell" }, make("label", {}, box, make("span", { class: "unseen" }))));
    row.querySelector("th").prepend(make("span", { class: "mark unseen" }));
    row.append(make("td", { class: "act", role: "cell" }));
    this.#name(row);
  }

  #name(row) {
    const name = row.querySelector("th > :is(a, span:not(.mark))").textContent;
    setText(row.querySelector(".choose .unseen"), fill(texts.choose, { name }));
    setText(row.querySelector("th > .mark"), row.dataset.state ? `${texts[row.dataset.state] || ""} ` : "");
    const actions = (row.dataset.actions || "").split(" ").filter((action) => wordings.has(action));
    row.querySelector(".choose label").hidden = !actions.length;
    this.#button(row.querySelector(".act"), actions, name);
  }

  #button(cell, actions, name) {
    const series = this.section.dataset.series;
    const wanted = [...(series ? ["lines"] : []), ...[...wordings.keys()].filter((action) => actions.includes(action))];
    const known = new Map([...cell.children].map((button) => [button.dataset.action, button]));
    const buttons = wanted.map((action) => known.get(action) ?? this.#newButton(action));
    const hadFocus = cell.contains(document.activeElement);
    for (const [action, button] of known) if (!wanted.includes(action)) button.remove();
    order(cell, buttons);
    for (const button of buttons) {
      const label = button.dataset.action === "lines" ? fill(texts.draw, { name }) : `${button.textContent}: ${name}`;
      if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
    }
    if (hadFocus && !cell.contains(document.activeElement)) (buttons.at(-1) ?? this.section.querySelector("h2")).focus();
  }

  #newButton(action) {
    return make("button", { type: "button", "data-action": action }, wordings.get(action)?.label ?? texts.lines);
  }

  #updateRow(row, data) {
    const isNew = !row.parentNode;
    setData(row, "state", data.state || "");
    setData(row, "actions", (data.actions || []).join(" "));
    for (const { name } of this.columns) {
      const cell = row.querySelector(`:scope > [data-column="${name}"]`);
      const isChanged = this.#updateCell(cell, data.cells[name] ?? { t: "" });
      cell.classList.toggle("changed", isChanged && !isNew && cell.className.includes("number"));
      if (name === "progress") drawBar(cell, data.bar);
    }
    this.#name(row);
    return row;
  }

  #updateCell(cell, { t: text, s: state = "", h: link = "", i: title = "" }) {
    setData(cell, "state", state);
    cell.toggleAttribute("data-nothing", text === "0");
    if (title) cell.setAttribute("title", title);
    else cell.removeAttribute("title");
    return setLinked(cell.querySelector(":scope > :is(a, span:not(.mark))"), text, link);
  }

  #remove(row) {
    const hadFocus = row.contains(document.activeElement);
    row.remove();
    if (hadFocus) this.section.querySelector("h2").focus();
  }

  #showColumns() {
    const can = [...this.body.rows].some((row) => row.dataset.actions);
    this.section.classList.toggle("operable", can);
    this.section.classList.toggle("acting", can || Boolean(this.section.dataset.series));
  }
}
