// SPDX-License-Identifier: Apache-2.0
// The graph: folded runs, ranks from left to right, rows that wrap like text, edges.
"use strict";

const NODE = { width: 168, height: 44, gapX: 32, gapY: 12, rowGap: 34, left: 24 };

// Which nodes of a body are shown: of a folded run one repetition, with the run it stands for.
function visible(index, view) {
  const items = [];
  for (const [start, period, count] of data.folds[index]) {
    const key = `${index}.${start}`;
    const open = count === 1 || view.open.has(key);
    const run = count > 1 ? { key, start, period, count, open, step: view.steps.get(key) || 0 } : null;
    const first = open ? start : start + run.step * period;
    const shown = open ? period * count : period;
    for (let i = 0; i < shown; i++) items.push({ id: first + i, run });
  }
  return items;
}

// Edges among what is shown. An edge of a repetition that is folded away stands at the shown one.
function shownEdges(index, items) {
  const place = new Map();
  items.forEach((item, at) => {
    const run = item.run;
    if (!run || run.open) { place.set(item.id, at); return; }
    const offset = (item.id - run.start) % run.period;
    for (let k = 0; k < run.count; k++) place.set(run.start + k * run.period + offset, at);
  });
  const seen = new Map();
  for (const edge of report.bodies[index].edges) {
    const source = place.get(edge.source), target = place.get(edge.target);
    const folded = items[source].run && !items[source].run.open && items[source].run === items[target].run;
    const between = folded && Math.floor((edge.source - items[source].run.start) / items[source].run.period)
      !== Math.floor((edge.target - items[source].run.start) / items[source].run.period);
    if (between || source === target) continue;
    seen.set(`${source} ${target} ${edge.type || 0}`, { source, target, pdl: edge.type === 1 });
  }
  return [...seen.values()];
}

// A node's rank is the longest way to it; nodes that nothing orders share a rank.
function ranks(count, edges) {
  const rank = new Array(count).fill(0), waiting = new Array(count).fill(0);
  const next = Array.from({ length: count }, () => []);
  for (const { source, target } of edges) { waiting[target]++; next[source].push(target); }
  const ready = [];
  waiting.forEach((w, i) => { if (!w) ready.push(i); });
  for (let i = 0; i < ready.length; i++) {
    for (const target of next[ready[i]]) {
      rank[target] = Math.max(rank[target], rank[ready[i]] + 1);
      if (!--waiting[target]) ready.push(target);
    }
  }
  return rank;
}

function layout(items, edges, width) {
  const rank = ranks(items.length, edges);
  const columns = Math.max(1, Math.floor((width - NODE.left - 14 + NODE.gapX) / (NODE.width + NODE.gapX)));
  const lanes = new Map();
  const places = items.map((_, i) => {
    const lane = lanes.get(rank[i]) || 0;
    lanes.set(rank[i], lane + 1);
    return { row: Math.floor(rank[i] / columns), column: rank[i] % columns, lane };
  });
  const heights = [];
  for (const p of places) heights[p.row] = Math.max(heights[p.row] || 0, p.lane + 1);
  const tops = [];
  let y = NODE.rowGap;
  heights.forEach((lanesOf, row) => {
    tops[row] = y;
    y += lanesOf * (NODE.height + NODE.gapY) + NODE.rowGap;
  });
  for (const p of places) {
    p.x = NODE.left + p.column * (NODE.width + NODE.gapX);
    p.y = tops[p.row] + p.lane * (NODE.height + NODE.gapY);
  }
  return { places, height: y - NODE.rowGap + 6, tops };
}

function svg(tag, attributes, parent, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

function drawEdge(root, from, to, pdl, tops) {
  const x1 = from.x + NODE.width, y1 = from.y + NODE.height / 2;
  const x2 = to.x - 8, y2 = to.y + NODE.height / 2;
  let path;
  if (from.row === to.row && to.column === from.column + 1) {
    const bend = (x2 - x1) / 2;
    path = `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
  } else {
    // Around what lies between: through the gap above the target's row.
    const gap = tops[to.row] - 32, out = x1 + 11, into = x2 - 7;
    path = `M${x1} ${y1}H${out}V${gap}H${into}V${y2}H${x2}`;
  }
  svg("path", { class: pdl ? "edge pdl" : "edge", d: path }, root);
  svg("path", { class: pdl ? "head pdl" : "head", d: `M${x2 - 1} ${y2 - 4}l8 4-8 4z` }, root);
}

const ruler = document.createElement("canvas").getContext("2d");

// As much of a text as a node is wide. What a template was made for tells more than its name.
function fit(text, font) {
  ruler.font = font;
  const room = NODE.width - 18, wide = (t) => ruler.measureText(t).width > room;
  const inner = /<(.*)>$/.exec(text);
  let said = inner && wide(text) ? inner[1] : text;
  if (!wide(said)) return said;
  while (wide(said + "…")) said = said.slice(0, -1);
  return said + "…";
}

function subtitle(node) {
  const k = node.kernel;
  if (k) {
    const sizes = (s) => s.join("×").replace(/(×1)+$/, "");
    return `${sizes(k.grid)} of ${sizes(k.block)}`;
  }
  if (node.copy) return `${node.copy.width_bytes * node.copy.height * node.copy.depth} bytes`;
  return node.note || "";
}

function drawBody(index, view, width) {
  const items = visible(index, view), edges = shownEdges(index, items);
  const { places, height, tops } = layout(items, edges, width);
  const root = svg("svg", { class: "graph", width, height, viewBox: `0 0 ${width} ${height}` });
  drawGroups(root, items, places, view);
  for (const e of edges) drawEdge(root, places[e.source], places[e.target], e.pdl, tops);
  items.forEach((item, i) => {
    const node = report.bodies[index].nodes[item.id], key = `${index}.${item.id}`;
    const { x, y } = places[i];
    const classes = ["node"];
    if (!node.kernel) classes.push("other");
    if (data.bad.has(key)) classes.push("error");
    if (view.buffer && usesBuffer(node, view.buffer)) classes.push("uses");
    if (view.find && !matches(index, node, view.find)) classes.push("faint");
    if (view.picked === key) classes.push("picked");
    const group = svg("g", { class: classes.join(" "), "data-node": key, tabindex: 0 }, root);
    svg("title", {}, group, title(node));
    svg("rect", { x, y, width: NODE.width, height: NODE.height, rx: 6 }, group);
    svg("text", { x: x + 9, y: y + 18 }, group,
      fit(shortTitle(node), "600 12px system-ui, sans-serif"));
    svg("text", { x: x + 9, y: y + 35, class: "small" }, group,
      fit(`#${item.id} · ${subtitle(node)}`, '11px ui-monospace, "DejaVu Sans Mono", monospace'));
    group.addEventListener("click", () => pick(key));
    group.addEventListener("keydown", (event) => { if (event.key === "Enter") pick(key); });
  });
  return root;
}

// Behind the nodes of a run, one box a row, with what it stands for above the first.
function drawGroups(root, items, places, view) {
  const runs = new Map();
  items.forEach((item, i) => {
    if (!item.run) return;
    if (!runs.has(item.run.key)) runs.set(item.run.key, { run: item.run, rows: new Map() });
    const rows = runs.get(item.run.key).rows, p = places[i];
    const box = rows.get(p.row) || { left: 1e9, right: 0, top: 1e9, bottom: 0 };
    box.left = Math.min(box.left, p.x); box.right = Math.max(box.right, p.x + NODE.width);
    box.top = Math.min(box.top, p.y); box.bottom = Math.max(box.bottom, p.y + NODE.height);
    rows.set(p.row, box);
  });
  for (const { run, rows } of runs.values()) {
    let above = 26;
    for (const b of rows.values()) {
      svg("rect", { class: "group", x: b.left - 8, y: b.top - above, rx: 8,
        width: b.right - b.left + 16, height: b.bottom - b.top + above + 8 }, root);
      above = 8;
    }
    const first = rows.values().next().value;
    const bar = svg("g", { class: "fold" }, root);
    let x = first.left;
    const word = (text, width, act) => {
      const made = svg("text", { x, y: first.top - 10, class: act ? "" : "plain" }, bar, text);
      if (act) made.addEventListener("click", act);
      x += width;
    };
    word(`× ${run.count}`, 20 + 8 * String(run.count).length);
    if (run.open) {
      word("fold", 40, () => { view.open.delete(run.key); draw(); });
    } else {
      const turn = (by) => () => {
        view.steps.set(run.key, (run.step + by + run.count) % run.count); draw();
      };
      word("◂", 16, turn(-1));
      word(`${run.step + 1}`, 8 + 8 * String(run.step + 1).length);
      word("▸", 20, turn(1));
      word("unfold", 50, () => { view.open.add(run.key); draw(); });
    }
  }
}
