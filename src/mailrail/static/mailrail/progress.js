// Loads this page again while something on it is under way, and takes from it what {% mailrail_progress %} has written.
// So it shows what the page shows, to those who may see the page, and needs no address of its own.
const SHORTEST = 1000, LONGEST = 10000;  // ms between two looks: more of them where nothing changes
const SHARE = 10;  // the site is busy with this page for a tenth of the time at most
let wait = SHORTEST, took = 0, timer = null, isLooking = false;

const open = () => [...document.querySelectorAll('.mailrail-progress[data-state="open"]')];

function copy(part, fresh) {
  for (const { name, value } of fresh.attributes) if (part.getAttribute(name) !== value) part.setAttribute(name, value);
  for (const { name } of [...part.attributes]) if (!fresh.hasAttribute(name) && name !== "open") part.removeAttribute(name);
  // A list that is open stays open, and what has not changed is left alone, with the reader's place in it.
  if (part.dataset.part === "failures" || part.innerHTML === fresh.innerHTML) return;
  part.replaceChildren(...document.importNode(fresh, true).childNodes);
}

function update(element, page) {
  const fresh = page.getElementById(element.id);
  if (!fresh) element.dataset.state = "over";  // the page shows it no longer
  if (!fresh) return false;
  const before = element.innerHTML;
  element.querySelector(".mailrail-progress-away").hidden = true;
  for (const part of element.querySelectorAll("[data-part]")) {
    const other = fresh.querySelector(`[data-part="${part.dataset.part}"]`);
    if (other) copy(part, other);
  }
  element.dataset.state = fresh.dataset.state;
  return element.innerHTML !== before;
}

async function look() {
  timer = null;
  if (document.hidden || isLooking) return;  // looks again when the tab is shown
  isLooking = true;
  const began = performance.now();
  try {
    const response = await fetch(location.href, { credentials: "same-origin", redirect: "manual", cache: "no-store" });
    if (response.type === "opaqueredirect") return location.reload();  // to log in again
    if (!response.ok) throw new Error(response.statusText);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    took = performance.now() - began;
    const changed = open().map((element) => update(element, page)).some(Boolean);
    wait = changed ? SHORTEST : Math.min(wait * 1.5, LONGEST);
  } catch {
    for (const element of open()) element.querySelector(".mailrail-progress-away").hidden = false;
    wait = Math.min(wait * 2, LONGEST);  // the site restarts, or the network is away
  } finally {
    isLooking = false;
  }
  later();
}

function later() {
  if (timer === null && open().length) timer = setTimeout(look, Math.min(LONGEST, Math.max(wait, SHARE * took)));
}

if (!globalThis.mailrailProgress) {
  globalThis.mailrailProgress = true;
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || !open().length) return;
    clearTimeout(timer);
    look();
  });
  later();
}
