// Asks how far the mailing is until nothing is left; the page is whole without it, and then reloads itself.
const bar = document.getElementById("progress");
const [sent, total, spoken, away, done] =
  ["sent", "total", "spoken", "away", "done"].map((id) => document.getElementById(id));
let quarters = 0;

function show(progress) {
  bar.value = sent.textContent = progress.sent;
  bar.max = total.textContent = progress.total;
  done.hidden = progress.left > 0;
  // A screen reader is told at each quarter: at every step it would never fall silent.
  const reached = Math.floor((4 * progress.sent) / progress.total);
  if (reached > quarters && progress.left) {
    quarters = reached;
    spoken.textContent = spoken.dataset.text.replace(/\{(sent|total)\}/g, (_, name) => progress[name]);
  }
}

async function look() {
  let wait = 1000;
  try {
    const response = await fetch(bar.dataset.url, { credentials: "same-origin", redirect: "manual" });
    if (response.type === "opaqueredirect") return location.reload();  // to log in again
    if (!response.ok) throw new Error(response.statusText);
    const progress = await response.json();
    away.hidden = true;
    show(progress);
    if (!progress.left) return;
  } catch {
    away.hidden = false;
    wait = 5000;  // the site restarts, or the network is away
  }
  setTimeout(look, wait);
}

setTimeout(look, 1000);
