// SPDX-License-Identifier: Apache-2.0
// What stands around the graph: findings, a node's arguments, the map of memory. Text is only ever
// set as text: names come from whoever wrote the kernels.
"use strict";

const ROLES = { state: "#8250c4", ring: "#0a7f8c", cursor: "#b3541e", seed: "#b3541e", scratch: "#66707a",
  input: "#2f7d3b", output: "#1f6fb5", weight: "#94762a", static: "#5a6b7b" };
const view = { picked: "", buffer: "", find: "", open: new Set(), steps: new Map() };
const shown = new Set(); // patterns of buffers whose names are all listed

const element = (id) => document.getElementById(id);
function make(tag, parent, text, cls) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (cls) made.className = cls;
  if (parent) parent.appendChild(made);
  return made;
}
const number = (n) => n.toLocaleString("en");
const hex = (n) => "0x" + n.toString(16);
const size = (n) => n < 10240 ? `${number(n)} B` : n < 1e7 ? `${number(Math.round(n / 1024))} KiB`
  : `${number(Math.round(n / 1048576))} MiB`;
const nodeOf = (key) => { const [b, n] = key.split("."); return report.bodies[b].nodes[n]; };
const functionOf = (node) => report.functions[node.kernel.function];
const title = (node) => node.kernel ? functionOf(node).name : `${node.kind} ${node.note || ""}`.trim();
const shortTitle = (node) => node.kernel ? data.names[node.kernel.function] : title(node);

function pointers(node) {
  if (node.kernel) return node.kernel.arguments.flatMap((a) => a.pointers || []);
  const sides = node.copy ? [node.copy.source, node.copy.target] : node.fill ? [node.fill.target] : [];
  return sides.map((side) => side.pointer);
}
const usesBuffer = (node, name) => pointers(node).some((p) => p.buffer === name);
function matches(index, node, text) {
  return title(node).toLowerCase().includes(text)
    || pointers(node).some((p) => (p.buffer || "").toLowerCase().includes(text));
}
const STALE = new Set(["moved", "freed", "released", "unknown"]);
function pointerText(p) {
  if (!p.buffer) return p.to === "null" ? "null" : `${p.to} memory ${hex(p.address)}`;
  const place = `${p.buffer} + ${number(p.offset_bytes || 0)}`;
  return p.to === "buffer" ? place : `${p.to}: ${place}${p.now ? `, now ${p.now}` : ""}`;
}

function pick(key) {
  view.picked = key; view.buffer = "";
  unfoldTo(key);
  draw();
}
function pickBuffer(name) {
  view.buffer = view.buffer === name ? "" : name; view.picked = "";
  draw();
}
// A folded run is turned to the repetition that holds the node.
function unfoldTo(key) {
  const [body, id] = key.split(".").map(Number);
  for (const [start, period, count] of data.folds[body]) {
    if (count > 1 && id >= start && id < start + period * count) {
      view.steps.set(`${body}.${start}`, Math.floor((id - start) / period));
    }
  }
}

function drawHead() {
  element("name").textContent = report.name;
  const edges = report.bodies.flatMap((b) => b.edges), nodes = report.bodies.reduce((n, b) => n + b.nodes.length, 0);
  element("facts").textContent = `${number(nodes)} nodes, ${number(edges.length)} edges, `
    + `${number(edges.filter((e) => e.type === 1).length)} of them programmatic · fingerprint ${data.fingerprint}`
    + Object.entries(report.made_with || {}).map(([k, v]) => ` · ${k.replace("_", " ")} ${v}`).join("");
  const list = element("findings");
  if (!report.findings.length) make("li", list, "No findings.", "none");
  for (const finding of report.findings) {
    const item = make("li", list, undefined, finding.severity);
    make("b", item, finding.severity);
    make("span", item, finding.sentence);
    const node = finding.node === undefined ? -1 : finding.node;
    if (node >= 0) item.addEventListener("click", () => pick(`${finding.body || 0}.${node}`));
  }
}

function drawDetail() {
  const panel = element("detail");
  panel.replaceChildren();
  if (view.buffer) return drawBuffer(panel);
  if (!view.picked) { make("div", panel, "Click a node or a buffer.", "dim"); return; }
  const node = nodeOf(view.picked);
  make("h2", panel, shortTitle(node));
  const table = make("table", panel);
  const row = (name, value, stale, act) => {
    const line = make("tr", table);
    make("td", line, name);
    const cell = make("td", line, value, stale ? "stale" : act ? "link" : "");
    if (act) cell.addEventListener("click", act);
  };
  const pointerRow = (name, p) =>
    row(name, pointerText(p), STALE.has(p.to), p.buffer ? () => pickBuffer(p.buffer) : null);
  row("node", view.picked.split(".")[1] + (view.picked.startsWith("0.") ? "" : ` of body ${view.picked.split(".")[0]}`));
  if (node.kernel) drawKernel(node, row, pointerRow);
  for (const side of ["source", "target"]) {
    const holder = node.copy || node.fill;
    if (holder && holder[side]) pointerRow(`${side} (${holder[side].memory})`, holder[side].pointer);
  }
  const body = report.bodies[view.picked.split(".")[0]];
  for (const edge of body.edges.filter((e) => e.target === node.id)) {
    row(edge.type === 1 ? "may overlap" : "starts after",
      `${edge.source} ${shortTitle(body.nodes[edge.source])}`, false,
      () => pick(`${view.picked.split(".")[0]}.${edge.source}`));
  }
}

function drawKernel(node, row, pointerRow) {
  const k = node.kernel, f = functionOf(node);
  if (f.name !== data.names[k.function]) row("full name", f.name);
  if (f.source) row("source", f.source);
  row("grid × block", `${k.grid.join(" × ")} of ${k.block.join(" × ")}`);
  row("registers", `${f.registers}, ${f.local_bytes} B local, ${k.shared_bytes + f.static_shared_bytes} B shared`);
  if (k.occupancy >= 0) row("occupancy", `${Math.round(100 * k.occupancy)} %`);
  k.arguments.forEach((argument, i) => {
    const p = f.parameters[i], found = argument.pointers || [];
    const name = (p.name || `argument ${i}`) + (p.hidden ? " (hidden)" : "");
    if (found.length && p.size === 8) return pointerRow(name, found[0]);
    if (p.size > 8) {
      row(name, `structure of ${p.size} bytes`);
      found.forEach((each) => pointerRow(`+ ${each.at || 0}`, each));
    } else row(name, argumentText(argument.value, p));
  });
  for (const [name, value] of Object.entries(f.constexprs || {})) row(name, value);
}
function argumentText(value, parameter) {
  const bytes = Uint8Array.from(value.match(/../g) || [], (b) => parseInt(b, 16)), at = new DataView(bytes.buffer);
  if (parameter.type === "fp32" && bytes.length === 4) return String(Math.fround(at.getFloat32(0, true)));
  if (bytes.length === 8) return String(at.getBigInt64(0, true));
  return bytes.length === 4 ? String(at.getInt32(0, true)) : "0x" + [...bytes].reverse().map((b) => b.toString(16).padStart(2, "0")).join("");
}

function drawBuffer(panel) {
  const buffer = report.buffers.find((b) => b.name === view.buffer);
  make("h2", panel, view.buffer);
  const table = make("table", panel);
  const row = (name, value, cls) => { const r = make("tr", table); make("td", r, name); return make("td", r, value, cls); };
  if (buffer) {
    row("role", buffer.role);
    row("shape", `${buffer.shape.join(" × ")} ${buffer.dtype}`);
    row("bytes", number(buffer.nbytes));
    row("padding", buffer.padding);
    row("captured at", hex(buffer.address));
    const gone = (buffer.status || "live") !== "live";
    row("status", (buffer.status || "live") + (buffer.address_now ? ` at ${hex(buffer.address_now)}` : ""), gone ? "stale" : "");
  }
  const users = [];
  report.bodies.forEach((body, b) => body.nodes.forEach((n) => { if (usesBuffer(n, view.buffer)) users.push([b, n]); }));
  row("nodes", `${users.length} point at it`);
  for (const [b, node] of users.slice(0, 40)) {
    row(String(node.id), shortTitle(node), "link").addEventListener("click", () => pick(`${b}.${node.id}`));
  }
}

// Buffers by address: blocks as wide as their bytes, a new line after every hole of a mebibyte.
function drawMemory() {
  const map = element("memory");
  map.replaceChildren();
  const sorted = [...report.buffers].filter((b) => b.nbytes).sort((a, b) => a.address - b.address || b.nbytes - a.nbytes);
  let end = -1, strip = null;
  for (const buffer of sorted) {
    if (buffer.address + buffer.nbytes <= end) continue; // a view into the one before
    if (!strip || buffer.address - end > 1048576) {
      make("div", map, hex(buffer.address), "mono dim");
      strip = make("div", map, undefined, "strip");
    }
    end = Math.max(end, buffer.address + buffer.nbytes);
    const wide = buffer.nbytes > 65536;
    const block = make("div", strip, wide ? buffer.name : "", buffer.name === view.buffer ? "picked" : "");
    block.style.background = (buffer.status || "live") === "live" ? ROLES[buffer.role] || ROLES.static : "var(--error)";
    block.style.flex = `${Math.max(1, Math.log2(buffer.nbytes) - 8)} 1 3px`;
    block.title = `${buffer.name}: ${size(buffer.nbytes)} at ${hex(buffer.address)}`;
    block.addEventListener("click", () => pickBuffer(buffer.name));
  }
  drawTable(sorted);
}

function drawTable(sorted) {
  const table = element("buffers");
  table.replaceChildren();
  const head = make("tr", table);
  ["buffer", "role", "shape", "dtype", "bytes", "address", "status"].forEach((text) => make("th", head, text));
  const families = new Map();
  for (const buffer of sorted) {
    const pattern = (buffer.status || "live") === "live" ? buffer.name.replace(/\d+/g, "*") : buffer.name;
    if (!families.has(pattern)) families.set(pattern, []);
    families.get(pattern).push(buffer);
  }
  for (const [pattern, members] of families) {
    const folded = members.length > 2 && !shown.has(pattern);
    const total = members.reduce((n, b) => n + b.nbytes, 0);
    for (const buffer of folded ? members.slice(0, 1) : members) {
      const line = make("tr", table), gone = (buffer.status || "live") !== "live";
      const name = make("td", line);
      make("span", name, undefined, "swatch").style.background = ROLES[buffer.role] || ROLES.static;
      make("span", name, folded ? `${pattern} × ${members.length}` : buffer.name, folded ? "link" : "");
      [buffer.role, buffer.shape.join(" × "), buffer.dtype, size(folded ? total : buffer.nbytes), hex(buffer.address)]
        .forEach((text) => make("td", line, text));
      make("td", line, buffer.status || "live", gone ? "stale" : "dim");
      line.addEventListener("click", () => {
        if (folded) { shown.add(pattern); drawMemory(); } else pickBuffer(buffer.name);
      });
    }
  }
}

function draw() {
  const graphs = element("graphs"), width = Math.max(420, graphs.clientWidth || 900);
  graphs.replaceChildren();
  report.bodies.forEach((body, index) => {
    if (index) make("h2", graphs, `Inside: ${body.name}`);
    graphs.appendChild(drawBody(index, view, width));
  });
  drawDetail();
  drawMemory();
}

element("find").addEventListener("input", (event) => { view.find = event.target.value.trim().toLowerCase(); draw(); });
window.addEventListener("resize", draw);
drawHead();
// A page is opened at a node (#0.17), with everything unfolded (#all), or at what is wrong.
const wanted = location.hash.slice(1);
const worst = report.findings.find((f) => f.severity === "error" && f.node >= 0);
if (wanted === "all") data.folds.forEach((runs, b) => runs.forEach(([start]) => view.open.add(`${b}.${start}`)));
if (/^\d+\.\d+$/.test(wanted)) pick(wanted);
else if (worst) pick(`${worst.body || 0}.${worst.node}`);
else draw();
document.body.dataset.ready = "yes";
