// Shows emails as they arrive. Without this script the page is whole, and its link loads it again.
const mails = document.getElementById("mails");
const spoken = document.getElementById("spoken");
const away = document.getElementById("away");
let version = mails.dataset.version;

function show(html) {
  const count = document.getElementById("count").textContent;
  const focused = mails.contains(document.activeElement) ? document.activeElement.id : "";
  mails.innerHTML = html;
  if (focused) document.getElementById(focused)?.focus();
  const now = document.getElementById("count").textContent;
  if (now !== count) spoken.textContent = now;
}

async function look() {
  let wait = 1000;
  try {
    const response = await fetch(mails.dataset.url, {
      credentials: "same-origin", redirect: "manual", headers: { "If-None-Match": version },
    });
    if (response.type === "opaqueredirect") return location.reload();  // to log in again
    if (!response.ok && response.status !== 304) throw new Error(response.statusText);
    if (response.ok) {
      version = response.headers.get("ETag");
      show(await response.text());
    }
    away.hidden = true;
  } catch {
    away.hidden = false;
    wait = 5000;  // the site restarts, or the network is away
  }
  setTimeout(look, wait);
}

setTimeout(look, 1000);
