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
    table.section.addEventListener("change", ({ target }) => {
      if (target === table.whole) table.choose(target.checked);
      else if (!target.closest("tbody")) return;
      this.isWhole = false;
      for (const other of this.tables) if (other !== table) other.choose(false);
      this.count();
    });
  }

  #unchoose() {
    this.isWhole = false;
    for (const table of this.tables) table.choose(false);
    this.count();
  }

  // Shows how many rows are chosen, and what can be done with all of them.
  count() {
    const table = this.tables.find((table) => table.chosen.length);
    this.bar.hidden = !table;
    for (const other of this.tables) other.whole.checked = other === table && table.isWhole;
    if (!table) return;
    const rows = table.chosen;
    const count = this.bar.querySelector(".count");
    setText(count, fill(count.dataset.text, { count: whole(this.isWhole ? table.total : rows.length) }));
    const all = this.bar.querySelector(".all");
    all.hidden = this.isWhole || !table.isWhole || table.total <= rows.length;
    setText(all, fill(all.dataset.text, { count: whole(table.total) }));
    for (const button of this.bar.querySelectorAll("[data-action]")) {
      button.hidden = !rows.some((row) => row.dataset.actions.split(" ").includes(button.dataset.action));
    }
  }

  #pressInBar(event) {
    const button = event.target.closest("button");
    if (!button) return;
    const table = this.tables.find((table) => table.chosen.length);
    if (button.className === "none") return this.#unchoose();
    if (button.className === "all") {
      this.isWhole = true;
      return this.count();
    }
    const able = (row) => row.dataset.actions.split(" ").includes(button.dataset.action);
    this.#ask(button.dataset.action, table, table.chosen.filter(able), this.isWhole);
  }

  #ask(action, table, rows, isWhole = false) {
    const { label, effects, isFinal } = wordings.get(action);
    const names = rows.map(nameOf);
    const count = isWhole ? table.total : rows.length;
    const target = count === 1 ? names[0] : fill(table.section.dataset.several, { count: whole(count) });
    this.asked = this.#form(action, table, isWhole ? [] : rows.map((row) => row.dataset.key));
    setText(this.dialog.querySelector("h2"), label);
    setText(document.getElementById("dialog-target"), isWhole ? target : names.join(", "));
    setText(document.getElementById("dialog-effect"), fill(effects[table.name] ?? "", { target }));
    setText(this.form.querySelector(".go"), label);
    this.form.querySelector(".go").classList.toggle("final", isFinal);
    this.form.reason.value = "";
    this.error.hidden = true;
    this.dialog.showModal();
    this.form.reason.focus();
  }

  // Says what it is about, as it was shown: what comes later is not meant. A form that is sent twice is known by its id.
  #form(action, table, keys) {
    const id = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
    const form = new URLSearchParams({ action, section: table.name, form: id, at: document.body.dataset.at });
    form.set("scope", keys.length === 1 ? "one" : keys.length ? "chosen" : "all");
    if (!keys.length) form.set("q", table.section.dataset.q); // of what is shown: the address may be ahead of it
    for (const key of keys) form.append("target", key);
    return form;
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
      this.#unchoose();
      this.#say(answer.text);
    } else {
      setText(this.error, answer.text);
      this.error.hidden = false;
    }
    this.look();
  }

  async #post() {
    const body = new URLSearchParams([...new FormData(this.form), ...this.asked]);
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
