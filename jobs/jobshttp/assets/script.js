"use strict";
// Refreshes the page in place, updates its countdowns and shows times in the reader's zone. The page works without it.
(() => {
  const every = 5000; // milliseconds between two refreshes
  const main = document.getElementById("main");
  const offline = document.getElementById("offline");
  const live = document.querySelector("#live input");
  let skew = 0; // milliseconds that the server's clock is ahead of this one
  let failures = 0;
  let since = ""; // time of the last successful refresh
  let timer = 0;

  const plain = new URL(location.href); // without the parameters of a form's notice
  for (const key of ["done", "job", "run", "n"]) plain.searchParams.delete(key);
  if (plain.href !== location.href) history.replaceState(null, "", plain);

  function readClock() {
    if (main.dataset.now) skew = Date.parse(main.dataset.now) - Date.now();
    since = document.getElementById("asof").textContent;
  }

  // short and relative do the same as in words.go.
  function short(s) {
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
  }

  function relative(ms, was) {
    if (ms >= 0) return `in ${short(Math.floor(ms / 1000))}`;
    const s = Math.floor(-ms / 1000);
    const due = was.startsWith("in ") || was.startsWith("due ") ? "due " : "";
    return due + (s >= 60 && s < 3600 ? `${Math.floor(s / 60)} min` : short(s)) + " ago";
  }

  function tick() {
    const now = Date.now() + skew;
    for (const el of document.querySelectorAll("[data-at]")) {
      const text = relative(Date.parse(el.dataset.at) - now, el.textContent);
      if (el.textContent !== text) el.textContent = text;
    }
  }

  const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const two = (n) => String(n).padStart(2, "0");
  const day = (t) => `${t.getDate()} ${months[t.getMonth()]}`;

  // local formats a time in the reader's zone with the precision of text, which is the time in UTC.
  function local(at, text) {
    const now = new Date(Date.now() + skew);
    let out = `${two(at.getHours())}:${two(at.getMinutes())}`;
    if (/:\d\d:/.test(text)) out += `:${two(at.getSeconds())}`;
    if (/\d{4},/.test(text)) return `${day(at)} ${at.getFullYear()}, ${out}`;
    return at.toDateString() === now.toDateString() ? out : `${day(at)}, ${out}`;
  }

  // localize puts the time in the reader's zone before each time in UTC.
  function localize() {
    for (const el of document.querySelectorAll("time")) {
      const text = el.textContent;
      if (text === el.dataset.local) continue;
      const at = new Date(el.dateTime);
      if (at.getTimezoneOffset() === 0) continue;
      const mine = local(at, text);
      const [date, hours] = text.split(", ");
      el.dataset.local = `${mine} · ${hours && mine.startsWith(`${date}, `) ? hours : text}`; // the date once
      el.textContent = el.dataset.local;
    }
    if (new Date().getTimezoneOffset() === 0) return;
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    const note = document.getElementById("zone");
    if (note) note.textContent = `Times are in your zone (${zone}), then in UTC.`;
    for (const el of document.querySelectorAll("[data-zone]")) el.textContent = `(${zone})`;
    // Links to runs since a time of the day mean it in the reader's zone.
    for (const el of document.querySelectorAll("[data-clock]")) {
      const at = new Date(Date.now() + skew);
      const [hour, minute] = el.dataset.clock.split(":");
      at.setHours(hour, minute, 0, 0);
      if (at.getTime() > Date.now() + skew) at.setDate(at.getDate() - 1);
      const to = new URL(el.href);
      to.searchParams.set("since", at.toISOString());
      if (el.href !== to.href) el.href = to.href;
      const text = el.textContent.replace(" UTC", "");
      if (el.textContent !== text) el.textContent = text;
    }
  }

  // The fields of the form have times in the reader's zone, and send them in UTC.
  const filter = document.getElementById("filter");
  if (filter) {
    const fields = [...filter.querySelectorAll("input[type=datetime-local]")];
    for (const field of fields) {
      if (!field.value) continue;
      const at = new Date(`${field.value}Z`);
      field.value = new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
    }
    filter.addEventListener("formdata", (event) => {
      for (const field of fields) {
        if (field.value) event.formData.set(field.name, new Date(field.value).toISOString());
        else event.formData.delete(field.name);
      }
      if (!event.formData.get("name")) event.formData.delete("name");
    });
  }

  // morph turns one element into another by changing only what differs, which keeps focus,
  // selection, open details and typed text. Children are matched by id, those without one
  // by type and order.
  function morph(from, to) {
    if (to.hasAttribute("data-part")) { // a table with only the rows that have changed
      for (const row of to.querySelectorAll("tr[data-version]")) morph(document.getElementById(row.id), row);
      return;
    }
    const own = (name) => name === "data-local" || (name === "open" && from.localName === "details");
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !own(name)) from.removeAttribute(name);
    }
    for (const { name, value } of to.attributes) {
      if (from.getAttribute(name) !== value && !own(name)) from.setAttribute(name, value);
    }
    if (from.localName === "textarea" || from.id === "filter") return;
    const wanted = new Set([...to.children].map((el) => el.id));
    const keyed = new Map();
    for (const el of [...from.children]) {
      if (el.id && !wanted.has(el.id)) el.remove();
      else if (el.id) keyed.set(el.id, el);
    }
    let at = from.firstChild;
    for (const want of to.childNodes) {
      let have = keyed.get(want.id);
      if (!want.id) for (have = at; have && (have.id || have.nodeName !== want.nodeName);) have = have.id ? null : have.nextSibling;
      if (!have || have.nodeName !== want.nodeName) {
        from.insertBefore(document.importNode(want, true), at);
        continue;
      }
      for (; at !== have && at && !at.id; ) at = drop(at);
      if (have === at) at = at.nextSibling;
      else from.insertBefore(have, at);
      if (have.nodeType === Node.ELEMENT_NODE) morph(have, want);
      else if (have.data !== want.data) have.data = want.data;
    }
    while (at) at = drop(at);
  }

  function drop(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  function say(text) {
    if (offline.textContent !== text) offline.textContent = text;
    offline.hidden = text === "";
  }

  // load fetches the page. Of the rows whose versions it sends, the server leaves out those that are the same.
  async function load(versions) {
    const headers = { Accept: "text/html" };
    if (versions) headers["Jobs-Have"] = versions.slice(0, 7000);
    const answer = await fetch(plain, { headers, cache: "no-store", signal: AbortSignal.timeout(10000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const unknown = [...page.querySelectorAll("[data-part] tr[data-version]")].some((row) => !document.getElementById(row.id));
    return unknown ? load("") : [answer, page];
  }

  async function refresh() {
    clearTimeout(timer);
    if (document.hidden || !live.checked) return;
    try {
      const rows = document.querySelectorAll("tr[data-version]");
      const [answer, fresh] = await load([...rows].map((row) => row.dataset.version).join(""));
      const next = fresh.getElementById("main");
      if (!next || !next.dataset.now) {
        failures++;
        say(`✗ Could not refresh the page: the server answered with status ${answer.status}. Reload the page to see why. Showing the state as of ${since}.`);
      } else {
        failures = 0;
        say("");
        const focused = document.activeElement;
        for (const el of document.querySelectorAll("[data-live]")) {
          const like = fresh.getElementById(el.id);
          if (like) morph(el, like);
        }
        if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
        document.title = fresh.title;
        readClock();
        tick();
        localize();
      }
    } catch {
      failures++;
      say(`✗ Could not reach the server. The page keeps trying. Showing the state as of ${since}.`);
    }
    clearTimeout(timer);
    timer = setTimeout(refresh, Math.min(every * 2 ** Math.min(failures, 3), 30000));
  }

  readClock();
  tick();
  localize();
  setInterval(() => document.hidden || tick(), 1000);
  if (!live) return; // a form was refused; keep the data that was typed
  document.getElementById("live").hidden = false;
  try {
    live.checked = sessionStorage.getItem("jobs-refresh") !== "off";
  } catch {} // storage may be blocked; then every page starts refreshing
  live.addEventListener("change", () => {
    refresh();
    try {
      sessionStorage.setItem("jobs-refresh", live.checked ? "on" : "off");
    } catch {}
  });
  document.addEventListener("visibilitychange", refresh);
  addEventListener("online", refresh);
  timer = setTimeout(refresh, every);
})();
