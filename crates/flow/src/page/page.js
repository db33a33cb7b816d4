// Asks for the state once a second and shows it. All text goes through textContent: nothing that is shown can become HTML.
"use strict";

const KEPT = 120;
const series = new Map();
let before = null;

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (className) made.className = className;
  return made;
}

function number(value, digits = 0) {
  return typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: digits }) : "–";
}

function bytes(value) {
  if (typeof value !== "number") return "–";
  let unit = 0;
  while (value >= 1024 && unit < 4) { value /= 1024; unit += 1; }
  return number(value, unit && value < 100 ? 1 : 0) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
}

// The last two minutes of a number, as a line.
function spark(key, value) {
  const kept = series.get(key) || [];
  if (typeof value === "number") kept.push(value);
  while (kept.length > KEPT) kept.shift();
  series.delete(key);
  series.set(key, kept);
  return line(kept, KEPT);
}

// Numbers as a line in a field of so many.
function line(kept, field) {
  const space = "http" + "://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${field} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  const top = Math.max(...kept, 1e-9);
  const points = kept.map((v, n) => `${field - kept.length + n},${19 - 18 * v / top}`);
  const drawn = document.createElementNS(space, "polyline");
  drawn.setAttribute("points", points.join(" "));
  svg.append(drawn);
  return svg;
}

// What has been counted since the last look, a second.
function rate(key, value, seconds) {
  const last = before && before.get(key);
  counters.set(key, value);
  return last === undefined || last === null || seconds <= 0 ? "–" : number((value - last) / seconds, 1);
}
let counters = new Map();

// Columns: [title, cell(row), kind]; kind "n" is a number, "wrap" is long text.
function table(title, rows, columns, empty) {
  const section = element("section");
  section.append(element("h2", title));
  if (!rows || rows.length === 0) {
    section.append(element("p", empty, "empty"));
    return section;
  }
  const made = element("table");
  const head = element("tr");
  for (const [name, , kind] of columns) head.append(element("th", name, kind));
  made.append(head);
  for (const row of rows) {
    const line = element("tr");
    for (const [, cell, kind] of columns) {
      const shown = cell(row);
      const td = element("td", undefined, kind);
      td.append(shown instanceof Node ? shown : document.createTextNode(String(shown ?? "–")));
      line.append(td);
    }
    made.append(line);
  }
  const wide = element("div", undefined, "wide");
  wide.append(made);
  section.append(wide);
  return section;
}

function memory(state) {
  const section = element("section");
  section.append(element("h2", "Memory"));
  const seen = state.memory;
  if (!seen) return section;
  if (typeof seen.limit !== "number") {
    section.append(element("p", "nothing limits it", "empty"));
    return section;
  }
  const line = element("p");
  const meter = element("meter");
  meter.max = seen.limit;
  meter.value = seen.used;
  meter.high = seen.limit * seen.batch_per_cent / 100;
  line.append(meter, ` ${bytes(seen.used)} of ${bytes(seen.limit)} (${seen.source}) `, spark("memory", seen.used));
  section.append(line);
  const says = {
    none: `calls of the class batch are refused from ${seen.batch_per_cent} % on`,
    batch: "calls of the class batch are refused",
    interactive: "all calls but those of the class system are refused",
  };
  section.append(element("p", says[seen.pressure], seen.pressure === "none" ? "dim" : "bad"));
  return section;
}

function buckets(state, seconds) {
  return table("Rate limits", state.buckets, [
    ["rule", (b) => b.name],
    ["methods", (b) => b.methods.join(" ") || "all", "wrap"],
    ["per", (b) => b.per],
    ["rate", (b) => b.rate],
    ["burst", (b) => number(b.burst), "n"],
    ["in use", (b) => number(b.keys), "n"],
    ["admitted", (b) => number(b.admitted), "n"],
    ["a second", (b) => rate("ba" + b.name, b.admitted, seconds), "n"],
    ["refused", (b) => number(b.refused), "n"],
    ["a second", (b) => rate("br" + b.name, b.refused, seconds), "n"],
  ], "no rules");
}

function limiters(state, seconds) {
  const rows = [];
  for (const limiter of state.concurrency || []) {
    limiter.classes.forEach((by, n) => rows.push({ limiter, by, first: n === 0 }));
  }
  const first = (show) => (row) => (row.first ? show(row.limiter) : "");
  return table("Concurrency", rows, [
    ["rule", first((l) => l.name)],
    ["methods", first((l) => l.methods.join(" ") || "all"), "wrap"],
    ["by", first((l) => l.law)],
    ["limit", first((l) => number(l.limit)), "n"],
    ["", first((l) => spark("limit" + l.name, l.limit))],
    ["in flight", first((l) => number(l.in_flight)), "n"],
    ["takes", first((l) => number(l.rtt_ms, 2) + " ms"), "n"],
    ["at rest", first((l) => number(l.rest_ms, 2) + " ms"), "n"],
    ["class", (r) => r.by.class],
    ["waiting", (r) => number(r.by.waiting), "n"],
    ["admitted", (r) => number(r.by.admitted), "n"],
    ["a second", (r) => rate("ca" + r.limiter.name + r.by.class, r.by.admitted, seconds), "n"],
    ["queued", (r) => number(r.by.queued), "n"],
    ["refused", (r) => number(r.by.refused), "n"],
    ["a second", (r) => rate("cr" + r.limiter.name + r.by.class, r.by.refused, seconds), "n"],
  ], "no limits");
}

function budget(state) {
  const section = element("section");
  if (!state.budget) return section;
  const { total_bytes, wanted_bytes, unread_bytes, pressed } = state.budget;
  section.append(element("h2", "Receive budget"));
  const line = element("p");
  const meter = element("meter");
  meter.max = total_bytes;
  meter.value = unread_bytes;
  line.append(meter, ` ${bytes(unread_bytes)} unread of ${bytes(total_bytes)}, ${bytes(wanted_bytes)} wanted `,
    spark("unread", unread_bytes));
  section.append(line);
  if (pressed) section.append(element("p", "windows are kept small: too much is unread", "bad"));
  return section;
}

// Who makes a stream wait, in words.
const HOLDERS = {
  stream: "the stream's window: its peer does not read this stream",
  connection: "the connection's window: its peer leaves other streams of it unread",
  socket: "the socket: its peer reads nothing at all",
};
const STALLS_SHOWN = 20;

const peerOf = (c) => `#${c.id} ${c.front} ${c.peer}`;

// Streams that have something to say and may not: a row for each connection, those that have waited longest first.
function stalls(state) {
  const rows = (state.connections || []).filter((c) => c.stalls.waiting_now > 0);
  const longest = (c) => Math.max(0, ...c.stalls.waiting.map((w) => w.seconds));
  rows.sort((a, b) => longest(b) - longest(a));
  const waiting = rows.reduce((sum, c) => sum + c.stalls.waiting_now, 0);
  const streams = (c) => {
    const shown = c.stalls.waiting.slice(0, 5).map((w) => w.stream);
    const more = c.stalls.waiting_now - shown.length;
    return shown.join(", ") + (more > 0 ? ` and ${number(more)} more` : "");
  };
  const made = table(`Streams that wait for their peer's credit: ${number(waiting)}`, rows.slice(0, STALLS_SHOWN), [
    ["connection", peerOf],
    ["streams", (c) => number(c.stalls.waiting_now), "n"],
    ["longest", (c) => element("span", number(longest(c), 1) + " s", longest(c) >= 1 ? "bad" : undefined), "n"],
    ["held by", (c) => [...new Set(c.stalls.waiting.map((w) => HOLDERS[w.holder] || w.holder))].join("; "), "wrap"],
    ["which", streams, "wrap"],
    ["credit of the connection", (c) => bytes(Math.max(0, c.send_credit_bytes)), "n"],
  ], "none");
  if (rows.length > STALLS_SHOWN) {
    made.append(element("p", `and on ${number(rows.length - STALLS_SHOWN)} more connections`, "dim"));
  }
  return made;
}

// Streams that have sent what nobody here reads, those with the most first.
function unread(state) {
  const rows = [];
  for (const c of state.connections || []) {
    for (const of of c.streams) if (of.unread_bytes > 0) rows.push({ c, of });
  }
  rows.sort((a, b) => b.of.unread_bytes - a.of.unread_bytes);
  return table("Streams that are not read here", rows.slice(0, STALLS_SHOWN), [
    ["connection", (r) => peerOf(r.c)],
    ["stream", (r) => r.of.stream, "n"],
    ["unread", (r) => bytes(r.of.unread_bytes), "n"],
    ["of", (r) => bytes(r.of.received_bytes), "n"],
    ["may still send", (r) => bytes(Math.max(0, r.of.credit_bytes)), "n"],
  ], "none");
}

// How often and how long streams of a connection have waited, by whom they waited for.
function stalled(connection) {
  const of = connection.stalls;
  const shown = Object.keys(HOLDERS).filter((by) => of[by + "_total"] > 0)
    .map((by) => `${number(of[by + "_total"])} × ${by}, ${number(of[by + "_seconds"], 1)} s`);
  return shown.join("; ") || "–";
}

// What TCP has measured, on the way to the next host that ends it.
function tcp(connection) {
  const of = connection.tcp;
  if (!of) return "–";
  const shown = [];
  const ms = (seconds) => number(seconds * 1000, 2) + " ms";
  if (typeof of.rtt_seconds === "number") shown.push(ms(of.rtt_seconds));
  if (typeof of.min_rtt_seconds === "number") shown.push(`least ${ms(of.min_rtt_seconds)}`);
  if (typeof of.delivery_rate_bytes_per_second === "number") shown.push(bytes(of.delivery_rate_bytes_per_second) + "/s out");
  shown.push(`${bytes(of.receive_space_bytes)} a round trip in`);
  if (of.retransmits > 0) shown.push(`${number(of.retransmits)} sent again`);
  return shown.join(", ");
}

// Those in trouble first, then those with calls, each as they came: rows do not jump.
function inOrder(connections) {
  const rank = (c) => (c.stalls.waiting_now > 0 || c.hoarding ? 2 : Number(c.streams_open > 0));
  return [...connections].sort((a, b) => rank(b) - rank(a) || a.id - b.id);
}

function connections(state, seconds) {
  if (!state.connections) return element("section");
  const title = `Connections: ${number(state.connections_total)}`;
  const unshown = state.connections_total - state.connections.length;
  const estimate = (show) => (c) => (c.estimate ? show(c.estimate) : "–");
  const window = (show) => (c) => (c.protocol === "h2" ? bytes(show(c)) : "–");
  const bad = (shown, is) => (is ? element("span", shown, "bad") : shown);
  const made = table(title, inOrder(state.connections), [
    ["", (c) => "#" + c.id, "n"],
    ["front", (c) => `${c.front} ${c.protocol}`],
    ["peer", (c) => c.peer],
    ["open", (c) => number(c.streams_open), "n"],
    ["waiting", (c) => bad(number(c.stalls.waiting_now), c.stalls.waiting_now > 0), "n"],
    ["unread", (c) => bad(bytes(c.unread_bytes), c.hoarding), "n"],
    ["in a second", (c) => rateOf(c.id + "in", c.in_bytes, seconds), "n"],
    ["out a second", (c) => rateOf(c.id + "out", c.out_bytes, seconds), "n"],
    ["may send us, a stream", window((c) => c.stream_window_bytes), "n"],
    ["at first", window((c) => c.initial_window_bytes), "n"],
    ["in all", window((c) => c.connection_window_bytes), "n"],
    ["we may send", window((c) => Math.max(0, c.send_credit_bytes)), "n"],
    ["link", estimate((e) => bytes(e.bandwidth_bytes_per_second) + "/s"), "n"],
    ["round trip", estimate((e) => number(e.rtt_seconds * 1000, 2) + " ms"), "n"],
    ["window found", (c) => (c.history.length > 1 ? line(c.history.map((p) => p.window_bytes), 60) : "–")],
    ["waits so far", stalled, "wrap"],
    ["TCP", tcp, "wrap"],
  ], "none");
  if (unshown > 0) {
    made.append(element("p", `${number(unshown)} more, which have less unread, waiting and open`, "dim"));
  }
  return made;
}

// A state in the colour of what it means.
function stateOf(state) {
  const good = state === "ready" || state === "up";
  return element("span", state, good ? undefined : ["connecting", "idle", "closed"].includes(state) ? "dim" : "bad");
}

function links(endpoint) {
  const shown = endpoint.links.map((l) => `#${l.id}${l.draining ? " draining" : ""} ${number(l.in_flight)} open, `
    + (typeof l.rtt_seconds === "number" ? number(l.rtt_seconds * 1000, 2) + " ms" : "–"));
  const more = endpoint.connections + endpoint.draining - endpoint.links.length;
  if (more > 0) shown.push(`and ${number(more)} more`);
  return shown.join("; ") || "–";
}

function channels(state, seconds) {
  if (!state.channels || state.channels_total === 0) return element("section");
  const made = table(`Channels: ${number(state.channels_total)}`, state.channels, [
    ["channel", (c) => c.name],
    ["target", (c) => c.target + (c.tls ? " (TLS)" : ""), "wrap"],
    ["state", (c) => stateOf(c.state)],
    ["connections", (c) => number(c.connections), "n"],
    ["in flight", (c) => number(c.in_flight), "n"],
    ["", (c) => spark("channel" + c.name, c.in_flight)],
    ["waiting", (c) => number(c.waiting), "n"],
    ["retry tokens", (c) => `${number(c.retry_tokens, 1)} of ${number(c.retry_tokens_max)}`, "n"],
    ["retries", (c) => number(c.retries), "n"],
    ["unseen", (c) => number(c.transparent_retries), "n"],
    ["hedges", (c) => number(c.hedges), "n"],
    ["ejections", (c) => number(c.ejections), "n"],
    ["not connected", (c) => number(c.connect_failed), "n"],
    ["found dead", (c) => number(c.keepalive_failures), "n"],
    ["drained", (c) => number(c.goaways), "n"],
    ["calmed", (c) => number(c.calmed), "n"],
    ["look-up", (c) => c.lookup_failure || "–", "wrap"],
  ], "none");
  const rows = [];
  let unshown = state.channels_total - state.channels.length;
  for (const channel of state.channels) {
    unshown += channel.endpoints_total - channel.endpoints.length;
    channel.endpoints.forEach((of, n) => rows.push({ channel: channel.name, of, first: n === 0 }));
  }
  made.append(table("Endpoints of channels", rows, [
    ["channel", (r) => (r.first ? r.channel : "")],
    ["endpoint", (r) => r.of.address],
    ["state", (r) => stateOf(r.of.state)],
    ["picks", (r) => number(r.of.picks), "n"],
    ["a second", (r) => rate("ep" + r.channel + " " + r.of.address, r.of.picks, seconds), "n"],
    ["in flight", (r) => number(r.of.in_flight), "n"],
    ["of", (r) => number(r.of.streams_max), "n"],
    ["latency", (r) => (typeof r.of.latency_seconds === "number" ? number(r.of.latency_seconds * 1000, 2) + " ms" : "–"), "n"],
    ["keepalive", (r) => `${number(r.of.keepalive_interval_seconds, 1)} s + ${number(r.of.keepalive_timeout_seconds, 1)} s`
      + (r.of.keepalive_idle ? "" : ", busy only")],
    ["connects", (r) => number(r.of.connects), "n"],
    ["connections", (r) => links(r.of), "wrap"],
    ["failure", (r) => r.of.failure || "–", "wrap"],
  ], "none"));
  if (unshown > 0) made.append(element("p", `${number(unshown)} more channels or endpoints`, "dim"));
  return made;
}

function rateOf(key, value, seconds) {
  const last = before && before.get(key);
  counters.set(key, value);
  return typeof last !== "number" || seconds <= 0 ? "–" : bytes((value - last) / seconds);
}

function show(state, seconds) {
  counters = new Map();
  const parts = [
    stalls(state), unread(state), memory(state), budget(state), limiters(state, seconds), buckets(state, seconds),
    connections(state, seconds), channels(state, seconds),
  ];
  document.getElementById("main").replaceChildren(...parts);
  while (series.size > 4096) series.delete(series.keys().next().value);
  before = counters;
}

let last = 0;
let failed = false;
async function look() {
  const says = document.getElementById("state");
  if (!document.getElementById("live").checked || document.hidden) return;
  try {
    const answer = await fetch("?format=json", { cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) throw new Error(`the server says ${answer.status}`);
    const state = await answer.json();
    const now = performance.now();
    show(state, last && !failed ? (now - last) / 1000 : 0);
    last = now;
    failed = false;
    says.textContent = new Date().toLocaleTimeString();
    says.className = "dim";
  } catch (error) {
    failed = true;
    says.textContent = `no answer: ${error.message}`;
    says.className = "bad";
  }
}

async function live() {
  for (;;) {
    await look();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
live();
