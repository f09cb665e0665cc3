"use strict";
// Everything that is shown of the data is written as text: `textContent` and attributes, never HTML.
const { rows, calendars } = JSON.parse(document.getElementById("data").textContent);
const PAGE = 60;
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else if (key === "click") made.addEventListener("click", value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function draw(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") made.textContent = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const signed = (value, digits = 2) => `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(digits)} %`;
const price = (row, value) => value.toLocaleString("en", { minimumFractionDigits: row.n, maximumFractionDigits: row.n });
const longest = rows.reduce((most, row) => Math.max(most, row.m.length), 0);
const steps = [...new Set([1, Math.min(5, longest), longest])].filter((step) => step > 0);
const volatility = (row) => (row.s === null ? null : row.s * Math.sqrt(252));
const move = (row, step) => (row.m.length >= step ? row.m[step - 1] / row.p - 1 : null);
const bound = (row, side, step) => (row[side][step - 1] == null ? null : row[side][step - 1] / row.p - 1);

function moveCell(row, step) {
  const moved = move(row, step);
  if (moved === null) return [];
  const low = bound(row, "l", step), high = bound(row, "u", step);
  const found = [make("span", { class: moved < 0 ? "down" : "up", text: signed(moved) })];
  if (low !== null) found.push(make("small", { text: `${signed(low, 1)} to ${signed(high, 1)}` }));
  if (step === longest && low !== null) found.push(range(row, step));
  return found;
}

// The widest band of all tickers is the scale, but one wild ticker must not hide the others.
const widths = rows.flatMap((row) => (longest && row.l[longest - 1] != null ? [Math.max(-bound(row, "l", longest), bound(row, "u", longest))] : []));
const scale = widths.sort((a, b) => a - b)[Math.floor(0.95 * (widths.length - 1))] || 1;

function range(row, step) {
  const at = (share) => 72 + 70 * Math.max(-1, Math.min(1, share / scale));
  const bar = (low, high, kind) => draw("rect", { x: at(low), width: Math.max(1, at(high) - at(low)), y: 1, height: 9, class: kind });
  const parts = [bar(bound(row, "l", step), bound(row, "u", step), "outer")];
  if (row.f.length) parts.push(bar(row.f[0][step - 1] / row.p - 1, row.f[1][step - 1] / row.p - 1, "inner"));
  parts.push(draw("line", { x1: 72, x2: 72, y1: 0, y2: 11, class: "zero" }));
  parts.push(draw("rect", { x: at(move(row, step)) - 1, width: 2, y: 0, height: 11, class: "tick" }));
  return draw("svg", { class: "range", viewBox: "0 0 144 11", "aria-hidden": "true" }, ...parts);
}

const flags = (row) => row.g.map((name) => make("span", { class: "flag", text: name }));
const safeLink = (address) => /^(https?|file):\/\//.test(address);

const columns = [
  { name: "Ticker", key: (row) => row.t, left: true, cell: (row) => [make("button", { type: "button", text: row.t, "aria-haspopup": "dialog", click: () => open(row) })] },
  { name: "Last close", key: (row) => row.o, down: true, cell: (row) => (row.p === null ? [] : [`${price(row, row.p)}${row.c ? ` ${row.c}` : ""}`, make("small", { text: row.o })]) },
  ...steps.map((step) => ({ name: step === 1 ? "Next session" : `${step} sessions`, key: (row) => move(row, step), down: true, cell: (row) => moveCell(row, step) })),
  { name: "Volatility", key: volatility, down: true, cell: (row) => (row.s === null ? [] : [`${(100 * volatility(row)).toFixed(0)} %`]) },
  { name: "Issued by", key: (row) => row.i, left: true, cell: (row) => (row.i ? [row.i, make("small", { text: `since ${row.a}` })] : []) },
  { name: "Live skill", key: (row) => row.k, down: true, cell: (row) => (row.k === null ? [make("small", { text: row.z ? `${row.z} scored` : "none scored yet" })] : [make("span", { class: row.k < 0 ? "down" : "up", text: signed(row.k, 1) }), make("small", { text: `${row.z} scored` })]) },
  { name: "Watch", key: (row) => row.g.length, down: true, left: true, cell: flags },
  { name: "Last verdict", key: (row) => row.j + row.q, down: true, left: true, cell: verdictCell },
];

function verdictCell(row) {
  if (!row.q) return [];
  const found = [make("span", { class: row.q === "failed" ? "flag" : row.q === "promoted" ? "flag good" : "", text: row.q }), ` ${row.j} `];
  if (safeLink(row.U)) found.push(make("a", { href: row.U, rel: "noreferrer", text: "report", "aria-label": `Report of ${row.t}` }));
  return found;
}

const state = { column: 0, down: false, shown: PAGE, found: [] };

function chosen() {
  const words = byId("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const issuer = byId("issuer").value, show = byId("show").value;
  const tests = {
    watch: (row) => row.g.length > 0, failed: (row) => row.q === "failed", promoted: (row) => row.q === "promoted", scored: (row) => row.k !== null,
  };
  return rows.filter((row) => {
    const text = `${row.t} ${row.i}`.toLowerCase();
    if (issuer && (!row.i || (issuer === "champion") !== row.v > 0)) return false;
    if (show && !tests[show](row)) return false;
    return words.every((word) => text.includes(word));
  });
}

function sorted(found) {
  const { key } = columns[state.column], turn = state.down ? -1 : 1;
  // A missing value comes last, whatever the order.
  const missing = (value) => value === null || value === undefined || value === "";
  return found.map((row) => [key(row), row]).sort(([a, first], [b, second]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b) || (first.t < second.t ? -1 : 1);
    if (a === b) return first.t < second.t ? -1 : 1;
    return (a < b ? -1 : 1) * turn;
  }).map(([, row]) => row);
}

function line(row) {
  const cells = columns.map((column, place) => {
    const content = column.cell(row);
    const kind = [column.left ? "left" : "", content.length ? "" : "empty"].join(" ").trim();
    return place ? make("td", { class: kind, "data-name": column.name }, ...content) : make("th", { scope: "row" }, ...content);
  });
  return make("tr", {}, ...cells);
}

function render() {
  state.found = sorted(chosen());
  byId("body").replaceChildren(...state.found.slice(0, state.shown).map(line));
  byId("more").hidden = state.found.length <= state.shown;
  byId("count").textContent = `${state.found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  [...byId("head").children].forEach((cell, place) => {
    if (place === state.column) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
    cell.querySelector("span").textContent = place === state.column ? (state.down ? " ↓" : " ↑") : "";
  });
  byId("sort").value = `${state.column}${state.down ? "d" : "u"}`;
}

function sortBy(column, down) {
  Object.assign(state, { column, down, shown: PAGE });
  render();
}

function more() {
  const from = state.shown;
  state.shown += PAGE;
  byId("body").append(...state.found.slice(from, state.shown).map(line));
  byId("more").hidden = state.found.length <= state.shown;
}

function fan(row) {
  const narrow = innerWidth < 700;
  const [width, height, left, right, top, bottom] = narrow ? [360, 260, 4, 62, 10, 24] : [720, 300, 8, 66, 12, 26];
  const past = row.h.slice(narrow ? -30 : 0);
  const outer = row.l.every((value) => value !== null);
  const values = [...past, ...row.m, ...row.x, ...(outer ? [...row.l, ...row.u] : [])];
  const least = Math.min(...values), most = Math.max(...values), room = (most - least) * 0.05 || most * 0.01 || 1;
  const first = 1 - past.length, last = row.m.length;
  const x = (place) => left + ((place - first) / (last - first || 1)) * (width - left - right);
  const y = (value) => top + ((most + room - value) / (most - least + 2 * room)) * (height - top - bottom);
  const path = (points) => points.map(([place, value], n) => `${n ? "L" : "M"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const ahead = (list) => [[0, row.p], ...list.map((value, n) => [n + 1, value])];
  const area = (low, high, kind) => draw("path", { class: kind, d: `${path(ahead(high))}${path(ahead(low).reverse()).replace("M", "L")}Z` });
  const parts = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const value = least + share * (most - least);
    parts.push(draw("line", { x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    parts.push(draw("text", { x: width - right + 6, y: y(value) + 4, text: price(row, value) }));
  }
  if (outer) parts.push(area(row.l, row.u, "outer"));
  if (row.f.length) parts.push(area(row.f[0], row.f[1], "inner"));
  parts.push(draw("line", { class: "now", x1: x(0), x2: x(0), y1: top, y2: height - bottom }));
  parts.push(draw("path", { class: "past", d: path(past.map((value, n) => [first + n, value])) }));
  if (row.x.length) parts.push(draw("path", { class: "rival", d: path(ahead(row.x)) }));
  parts.push(draw("path", { class: "path", d: path(ahead(row.m)) }));
  const days = calendars[row.d];
  parts.push(draw("text", { x: x(0), y: height - 8, "text-anchor": "end", text: row.o }));
  parts.push(draw("text", { x: width - right, y: height - 8, "text-anchor": "end", text: days[days.length - 1].replace("?", "") }));
  const end = row.m[last - 1];
  const said = `Closes of the last ${past.length} sessions up to ${row.o}, and the forecast of ${last} sessions: median ${price(row, end)}` +
    (outer ? `, ${row.b} band from ${price(row, row.l[last - 1])} to ${price(row, row.u[last - 1])} in the last session.` : " in the last session.");
  return draw("svg", { class: "fan", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said }, ...parts);
}

function sessions(row) {
  const body = calendars[row.d].map((day, n) => make("tr", {},
    make("th", { scope: "row", text: day.replace("?", " (provisional)") }),
    make("td", { text: price(row, row.m[n]) }),
    make("td", { text: row.l[n] === null ? "no band" : `${price(row, row.l[n])} to ${price(row, row.u[n])}` }),
    make("td", { text: signed(move(row, n + 1)) })));
  const head = ["Session", `Median${row.c ? `, ${row.c}` : ""}`, `${row.b} band`, "Move"].map((name, n) => make("th", { scope: "col", class: n ? "" : "left", text: name }));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Sessions" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
}

function remember(address) {
  try { history.replaceState(null, "", address); } catch { /* Inside another page, as in MLflow, there is no address to change. */ }
}

function open(row) {
  const parts = [make("div", { class: "top" },
    make("h2", { id: "detail-title", text: row.t }),
    make("button", { type: "button", text: "Close", click: () => byId("detail").close() }))];
  if (row.m.length) {
    const keys = [["k-path", "median"], ...(row.f.length ? [["k-inner", "50 % band"]] : []), ...(row.l[0] === null ? [] : [["k-outer", `${row.b} band`]]), ...(row.x.length ? [["k-rival", "challenger, not issued"]] : [])];
    parts.push(
      make("p", {}, `Closed at ${price(row, row.p)}${row.c ? ` ${row.c}` : ""} (adjusted) on ${row.o}. Issued by ${row.i} since ${row.a}${row.w ? `: ${row.w}.` : "."}`),
      fan(row),
      make("ul", { class: "key" }, ...keys.map(([kind, text]) => make("li", {}, make("i", { class: kind }), text))));
  } else parts.push(make("p", { text: "No forecast has been issued yet." }));
  if (row.y.length) parts.push(make("h3", { text: "Watch" }), make("p", {}, ...flags(row), ` ${row.y.join(" ")}`));
  if (row.q) parts.push(make("h3", { text: "Last verdict" }), make("p", {}, ...verdictCell(row), row.r ? ` ${row.r}` : ""));
  if (row.e) parts.push(make("h3", { text: "Live record" }), make("p", { text: row.e }));
  if (row.W.length) parts.push(make("h3", { text: "What the model wrote" }), make("p", { class: "quiet", text: "The model's own words, before the answers nearest to the median. They may be wrong, and need not be the cause of the forecast." }), ...row.W.map((text) => make("blockquote", { class: "model", text })));
  if (row.m.length) parts.push(make("h3", { text: "Sessions" }), sessions(row));
  byId("detail-body").replaceChildren(...parts);
  byId("detail").showModal();
  remember(`#${encodeURIComponent(row.t)}`);
}

function openNamed() {
  const named = rows.find((row) => row.t === decodeURIComponent(location.hash.slice(1)));
  if (named && !byId("detail").open) open(named);
}

document.querySelector("main .scroll").classList.add("wide");
byId("head").append(...columns.map((column, place) => make("th", { scope: "col", class: column.left ? "left" : "" },
  make("button", { type: "button", click: () => sortBy(place, place === state.column ? !state.down : Boolean(column.down)) }, column.name, make("span", { "aria-hidden": "true" })))));
byId("sort").append(...columns.flatMap((column, place) => [["u", "up"], ["d", "down"]].map(([value, text]) => make("option", { value: `${place}${value}`, text: `${column.name}, ${text}` }))));
byId("sort").addEventListener("change", (event) => sortBy(parseInt(event.target.value, 10), event.target.value.endsWith("d")));
for (const name of ["search", "issuer", "show"]) byId(name).addEventListener("input", () => sortBy(state.column, state.down));
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", more);
new IntersectionObserver((seen) => { if (seen[0].isIntersecting && !byId("more").hidden) more(); }).observe(byId("more"));
byId("detail").addEventListener("close", () => remember(location.pathname + location.search));
byId("detail").addEventListener("click", (event) => { if (event.target === byId("detail")) byId("detail").close(); });
const total = (test) => rows.filter(test).length.toLocaleString("en");
byId("summary").textContent = [
  `${total((row) => row.v > 0)} by a champion`, `${total((row) => row.i && !row.v)} by a free forecast`, `${total((row) => row.g.length)} to watch`,
  `${total((row) => row.q === "promoted")} promoted and ${total((row) => row.q === "failed")} failed last time`,
].join(" · ");
render();
window.addEventListener("hashchange", openNamed);
openNamed();
