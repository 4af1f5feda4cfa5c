// Asks before it acts: what will happen, and why. Then posts, and shows what the server says.
"use strict";

class Actions {
  constructor(tables, lines, look) {
    this.tables = tables;
    this.lines = lines;
    this.look = look;
    this.bar = document.getElementById("chosen");
    this.dialog = document.getElementById("dialog");
    this.form = this.dialog.querySelector("form");
    this.error = this.dialog.querySelector(".error");
    this.result = document.getElementById("result");
    for (const table of tables) this.#listen(table);
    this.bar.addEventListener("click", (event) => this.#pressInBar(event));
    this.form.addEventListener("submit", (event) => this.#submit(event));
    this.dialog.querySelector(".back").addEventListener("click", () => this.dialog.close());
  }

  #listen(table) {
    table.body.addEventListener("click", (event) => {
      const button = event.target.closest(".act button");
      if (!button) return;
      const row = button.closest("tr");
      if (button.dataset.action === "lines") return this.lines.choose(...seriesOf(table, row));
      this.#ask(button.dataset.action, table, [row]);
    });
    table.body.addEventListener("change", () => {
      for (const other of this.tables) if (other !== table) this.#unchoose(other);
      this.count();
    });
  }

  #unchoose(table) {
    for (const row of table.chosen) row.querySelector(".choose input").checked = false;
  }

  // Shows how many rows are chosen, and what can be done with all of them.
  count() {
    const table = this.tables.find((table) => table.chosen.length);
    this.bar.hidden = !table;
    if (!table) return;
    const rows = table.chosen;
    const count = this.bar.querySelector(".count");
    setText(count, fill(count.dataset.text, { count: rows.length }));
    for (const button of this.bar.querySelectorAll("[data-action]")) {
      button.hidden = !rows.some((row) => row.dataset.actions.split(" ").includes(button.dataset.action));
    }
  }

  #pressInBar(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const table = this.tables.find((table) => table.chosen.length);
    if (!button.dataset.action) {
      this.#unchoose(table);
      return this.count();
    }
    const able = (row) => row.dataset.actions.split(" ").includes(button.dataset.action);
    this.#ask(button.dataset.action, table, table.chosen.filter(able));
  }

  #ask(action, table, rows) {
    const { label, effect, isFinal } = wordings.get(action);
    const names = rows.map(nameOf);
    const target = rows.length === 1 ? names[0] : fill(texts.several, { count: rows.length });
    this.asked = { action, table: table.name, keys: rows.map((row) => row.dataset.key) };
    setText(this.dialog.querySelector("h2"), label);
    setText(document.getElementById("dialog-target"), names.join(", "));
    setText(document.getElementById("dialog-effect"), fill(effect, { target }));
    setText(this.form.querySelector(".go"), label);
    this.form.querySelector(".go").classList.toggle("final", isFinal);
    this.form.reason.value = "";
    this.error.hidden = true;
    this.dialog.showModal();
    this.form.reason.focus();
  }

  async #submit(event) {
    event.preventDefault();
    const go = this.form.querySelector(".go");
    if (go.disabled) return;
    go.disabled = true;
    const answer = await this.#post();
    go.disabled = false;
    if (answer.isDone) {
      this.dialog.close();
      for (const table of this.tables) this.#unchoose(table);
      this.count();
      this.#say(answer.text);
    } else {
      setText(this.error, answer.text);
      this.error.hidden = false;
    }
    this.look();
  }

  async #post() {
    const { action, table, keys } = this.asked;
    const body = new URLSearchParams(new FormData(this.form));
    body.set("action", action);
    body.set("section", table);
    body.set("scope", keys.length === 1 ? "one" : "chosen");
    for (const key of keys) body.append("target", key);
    try {
      const response = await fetch(this.form.action, { method: "POST", body, redirect: "manual" });
      if (response.type === "opaqueredirect" || response.status === 401) return { text: texts.session };
      const answer = await response.json().catch(() => ({}));
      return { isDone: response.ok, text: answer.text || (response.status === 403 ? texts.refused : texts.failed) };
    } catch {
      return { text: texts.failed };
    }
  }

  #say(text) {
    clearTimeout(this.saying);
    setText(this.result, text);
    this.saying = setTimeout(() => setText(this.result, ""), 15000);
  }
}

function nameOf(row) {
  return row.querySelector("th > :is(a, span:not(.mark))").textContent;
}

function seriesOf(table, row) {
  return [`${table.section.dataset.series}:${row.dataset.key}`, nameOf(row)];
}
