// What the page cannot do by markup alone: ages that go on, copying, and saying when the hub is not heard any more.
"use strict";

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

function age(seconds) {
  const size = Math.abs(seconds);
  for (const [unit, name] of UNITS) {
    if (size >= unit) {
      const count = `${Math.floor(size / unit)} ${name}`;
      return seconds < 0 ? `in ${count}` : `${count} ago`;
    }
  }
  return "now";
}

function tell() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const text = age((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (time.textContent !== text) time.textContent = text;
  }
}

function offerCopies() {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;
}

function lost(is) {
  document.getElementById("lost").hidden = !is;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "Copied";
});
document.addEventListener("htmx:sse:error", (event) => {
  if (event.detail.status === 401) location.reload();
  lost(true);
});
document.addEventListener("htmx:sse:after:connection", (event) => lost(event.detail.connection.status !== 200));
document.addEventListener("htmx:after:swap", () => {
  tell();
  offerCopies();
});
// A log that was read to its end stays at its end.
document.addEventListener("htmx:before:swap", () => {
  for (const log of document.querySelectorAll("pre.log")) {
    log.dataset.atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40 ? "yes" : "";
  }
});
document.addEventListener("htmx:after:swap", () => {
  for (const log of document.querySelectorAll("pre.log")) if (log.dataset.atEnd) log.scrollTop = log.scrollHeight;
});
setInterval(tell, 5000);
offerCopies();
