// Drawing: only what is in view, and what lies in one pixel once.

const FINE = '11px system-ui, "DejaVu Sans", sans-serif', BOLD = `bold ${FINE}`;
const LABEL = 172;           // width of the column of names
const AXIS = 24, FAULT_ROW = 17, FAULT_ROWS_MAX = 5, NODE = 92, CLIENT_ROW = 18, GAP = 8;
const ARROWS_MAX = 900;      // more messages in view than this are drawn as bars
// What a process is, in words; one that is up has a role.
const STATES = { booting: 'booting', down: 'down (killed)', unpowered: 'no power', over: 'stopped by itself', up: 'up' };
const canvas = document.getElementById('canvas'), overview = document.getElementById('overview');
const pen = canvas.getContext('2d'), small = overview.getContext('2d');
const view = { from: 0, to: Math.max(data.end, 1) };
const shown = { drawn: 0, arrows: 0, barred: 0, inView: 0 };
let colours = {}, layout = null, hits = [], cursor = null, chosen = null, width = 1000;

const clients = [...new Set(items.filter((item) => item.type === 'operation').map((item) => item.client))].sort((a, b) => a % 1000 - b % 1000 || a - b);
// As many as there are faults, and one for those that found no room.
const faultRows = Math.min(items.filter((item) => item.type === 'fault').length || 1, FAULT_ROWS_MAX + 1);
// What each node was, in stretches of one role and term.
const roles = data.nodes.map((node) => {
  const spans = [];
  node.progress.forEach(([at, role, term], index) => {
    const to = index + 1 < node.progress.length ? node.progress[index + 1][0] : data.end;
    const last = spans[spans.length - 1];
    if (!role) return;
    if (last && last.role === role && last.term === term && last.to === at) last.to = to;
    else spans.push({ from: at, to, role, term });
  });
  return spans;
});

// Faults that would hide each other get rows of their own, as long as there are any; the last row takes the rest.
function stackFaults(faults) {
  const ends = [];
  let crowded = 0;
  pen.font = FINE;
  for (const item of faults) {
    const x0 = Math.max(toX(item.t0), LABEL), wide = Math.min(pen.measureText(item.label).width + 10, 220);
    let row = ends.findIndex((end) => end <= x0);
    if (row < 0) row = ends.length;
    item.crowded = row >= FAULT_ROWS_MAX;
    item.row = Math.min(row, FAULT_ROWS_MAX);
    if (item.crowded) { crowded += 1; continue; }
    ends[row] = Math.max(toX(item.t1) + 3, x0 + wide);
    item.until = Math.max(toX(item.t1), x0 + wide);
  }
  return crowded;
}

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ['back', 'panel', 'ink', 'soft', 'line', 'faint', 'bad', 'bad-soft', 'accent', 'booting', 'booting-ink', 'down',
    'down-ink', 'ok', 'unknown', 'not-applied', 'open', 'commit', 'applied', 'last', 'sync', 'write', 'fault', 'fault-ink', 'cut',
    'match', ...['leader', 'candidate', 'follower', 'learner'].flatMap((role) => [role, `${role}-ink`]),
    ...data.messageKinds.map((_, kind) => `m${kind}`)];
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function lay() {
  let y = AXIS;
  layout = { faults: y, nodes: new Map(), clients: new Map(), height: 0 };
  if (filter.groups.has('fault')) y += faultRows * FAULT_ROW + GAP;
  data.nodes.forEach((_, at) => {
    if (!filter.nodes.has(at + 1)) return;
    layout.nodes.set(at + 1, y);
    y += NODE;
  });
  y += GAP;
  if (filter.groups.has('client')) for (const client of clients) {
    layout.clients.set(client, y);
    y += CLIENT_ROW;
  }
  layout.height = y + GAP;
}

function fit(element, context, height) {
  const ratio = window.devicePixelRatio || 1;
  width = element.clientWidth;
  if (element.width !== Math.round(width * ratio) || element.height !== Math.round(height * ratio)) {
    element.width = Math.round(width * ratio);
    element.height = Math.round(height * ratio);
    element.style.height = `${height}px`;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
}

const toX = (at) => LABEL + (at - view.from) / (view.to - view.from) * (width - LABEL);
const toTime = (x) => view.from + (x - LABEL) / (width - LABEL) * (view.to - view.from);
const wire = (node) => layout.nodes.get(node) + NODE - 8;
const inView = (item) => item.t1 >= view.from && item.t0 <= view.to;

function draw() {
  lay();
  fit(canvas, pen, layout.height);
  hits = [];
  Object.assign(shown, { drawn: 0, arrows: 0, barred: 0, inView: 0 });
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, width, layout.height);
  pen.textBaseline = 'middle';
  const visible = items.filter((item) => inView(item) && drawable(item));
  shown.inView = visible.length;
  pen.save();
  pen.beginPath();
  pen.rect(LABEL, 0, width - LABEL, layout.height);
  pen.clip();
  drawAxis();
  drawFocus();
  for (const node of layout.nodes.keys()) drawNode(node);
  drawMessages(visible.filter((item) => item.type === 'message'));
  drawMarks(visible.filter((item) => item.type === 'mark'));
  drawFaults(visible.filter((item) => item.type === 'fault'));
  drawOperations(visible.filter((item) => item.type === 'operation'));
  drawMoments();
  drawChosen();
  drawCursor();
  pen.restore();
  drawLabels();
  drawOverview();
}

function text(context, what, x, y, colour, font = '12px system-ui, "DejaVu Sans", sans-serif', align = 'left') {
  context.fillStyle = colour;
  context.font = font;
  context.textAlign = align;
  context.fillText(what, x, y);
}

// Text in a box from x0 to x1, if it fits or a part of it that says something does.
function label(what, x0, x1, y, colour, font = FINE) {
  const left = Math.max(x0, LABEL) + 4, room = Math.min(x1, width) - left - 2;
  if (room < 14) return;
  pen.font = font;
  let shortened = what;
  if (pen.measureText(what).width > room) {
    const chars = Math.floor(room / (pen.measureText(what).width / what.length)) - 1;
    if (chars < 3) return;
    shortened = `${what.slice(0, chars)}…`;
  }
  text(pen, shortened, left, y, colour, font);
}

function box(item, x0, y0, x1, y1) {
  shown.drawn += 1;
  if (item) hits.push({ item, x0: Math.min(x0, x1 - 3), y0, x1: Math.max(x1, x0 + 3), y1 });
}

function hatch(x, y, w, h, colour, step = 6) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, w, h);
  pen.clip();
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  pen.beginPath();
  const first = Math.max(x, LABEL) - h - step, last = Math.min(x + w, width);
  for (let at = first - first % step; at < last; at += step) {
    pen.moveTo(at, y + h);
    pen.lineTo(at + h, y);
  }
  pen.stroke();
  pen.restore();
}

function ticks() {
  const wanted = (view.to - view.from) / Math.max((width - LABEL) / 110, 1);
  const base = 10 ** Math.floor(Math.log10(wanted));
  const step = Math.max([1, 2, 5, 10].map((times) => times * base).find((it) => it >= wanted), 1);
  const digits = Math.max(0, 9 - Math.floor(Math.log10(step)));
  const all = [];
  for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) all.push(at);
  return { all, digits };
}

function drawCursor() {
  if (cursor === null) return;
  const x = toX(cursor);
  pen.fillStyle = colours.accent;
  pen.fillRect(x, 0, 1, layout.height);
  const digits = Math.min(ticks().digits + 2, 9), said = time(cursor, digits);
  pen.font = BOLD;
  const wide = pen.measureText(said).width + 8, left = Math.min(x, width - wide);
  pen.fillRect(left, 0, wide, 16);
  text(pen, said, left + 4, 8, colours.back, BOLD);
}

// The names of the lanes, and what each node is at the cursor.
function drawLabels() {
  const at = cursor === null ? view.to : cursor;
  pen.fillStyle = colours.panel;
  pen.fillRect(0, 0, LABEL, layout.height);
  pen.fillStyle = colours.line;
  pen.fillRect(LABEL - 1, 0, 1, layout.height);
  text(pen, cursor === null ? 'at the right edge:' : 'at the cursor:', 8, 11, colours.soft, FINE);
  if (filter.groups.has('fault')) text(pen, 'faults', 8, layout.faults + 8, colours.ink, 'bold 12px system-ui, "DejaVu Sans", sans-serif');
  for (const [node, y] of layout.nodes) {
    pen.fillStyle = colours.line;
    pen.fillRect(0, y, LABEL, 1);
    text(pen, `n${node}`, 8, y + 14, colours.ink, 'bold 14px system-ui, "DejaVu Sans", sans-serif');
    const row = progressAt(node, at), state = stateAt(node, at);
    if (!row) { text(pen, STATES[state] || '', 36, y + 14, colours.soft, FINE); continue; }
    const [, role, term, leader, commit, applied, last, snapshot, purged] = row;
    text(pen, `${role}, term ${term}`, 36, y + 14, colours.ink, FINE);
    text(pen, `commit ${commit < 0 ? '–' : commit}`, 8, y + 32, colours.commit, FINE);
    text(pen, `applied ${applied < 0 ? '–' : applied}`, 90, y + 32, colours.applied, FINE);
    text(pen, `log ${purged + 1}..${last < 0 ? '–' : last}`, 8, y + 46, colours.soft, FINE);
    text(pen, snapshot >= 0 ? `snapshot ${snapshot}` : 'no snapshot', 90, y + 46, colours.soft, FINE);
    text(pen, 'disk', 8, y + 61, colours.soft, FINE);
    text(pen, role === 'leader' ? 'follows itself' : leader ? `follows n${leader}` : 'no leader', 90, y + 61, colours.soft, FINE);
    text(pen, 'messages', 8, wire(node) - 3, colours.soft, FINE);
  }
  for (const [client, y] of layout.clients) {
    text(pen, clientName(client), 8, y + CLIENT_ROW / 2, colours.ink, FINE);
  }
}

// The whole run in one strip: faults, who led, operations, the violation, and where the view is.
function drawOverview() {
  fit(overview, small, 40);
  const x = (at) => LABEL + at / Math.max(data.end, 1) * (width - LABEL);
  small.fillStyle = colours.panel;
  small.fillRect(0, 0, width, 40);
  small.textBaseline = 'middle';
  text(small, 'whole run', 8, 12, colours.soft, FINE);
  text(small, time(data.end, 1), 8, 28, colours.soft, FINE);
  for (const item of items) {
    if (item.type === 'fault') {
      small.fillStyle = colours.fault;
      small.fillRect(x(item.t0), 3, Math.max(x(item.t1) - x(item.t0), 1.5), 9);
    } else if (item.type === 'operation') {
      small.fillStyle = colours[item.outcome.replace(' ', '-')] || colours.open;
      small.fillRect(x(item.t0), 27, Math.max(x(item.t1) - x(item.t0), 1), 9);
    }
  }
  roles.forEach((spans, node) => spans.filter((span) => span.role === 'leader').forEach((span) => {
    const wide = Math.max(x(span.to) - x(span.from), 1);
    small.fillStyle = colours.leader;
    small.fillRect(x(span.from), 14, wide, 11);
    if (wide > 24) text(small, `n${node + 1}`, x(span.from) + 3, 20, colours['leader-ink'], '10px system-ui, "DejaVu Sans", sans-serif');
  }));
  for (const item of items) if (item.marked) {
    small.fillStyle = colours.bad;
    small.fillRect(x(item.t0) - 1, 26, Math.max(x(item.t1) - x(item.t0), 3), 11);
  }
  if (data.violation) {
    const [from, to] = data.violation.focus;
    small.strokeStyle = colours.bad;
    small.strokeRect(x(from), 1, Math.max(x(to) - x(from), 3), 38);
  }
  if (filter.text) {
    small.fillStyle = colours.accent;
    for (const item of items) if (passes(item) && matches(item)) small.fillRect(x(item.t0), 37, 1, 3);
  }
  small.strokeStyle = colours.accent;
  small.lineWidth = 2;
  small.strokeRect(x(view.from) + 1, 1, Math.max(x(view.to) - x(view.from) - 2, 2), 38);
  small.fillStyle = colours.accent;
  small.globalAlpha = 0.12;
  small.fillRect(x(view.from), 0, Math.max(x(view.to) - x(view.from), 2), 40);
  small.globalAlpha = 1;
}

// What is at a point of the canvas: the nearest arrow, else the smallest box.
function hitAt(x, y) {
  if (x < LABEL) return null;
  let best = null, near = 5;
  for (const hit of hits) {
    if (hit.line) {
      const distance = toLine(x, y, hit.line);
      if (distance < near) { near = distance; best = hit.item; }
    } else if (x >= hit.x0 - 1 && x <= hit.x1 + 1 && y >= hit.y0 && y <= hit.y1) {
      // Later ones lie above earlier ones.
      best = hit.item;
      near = 2;
    }
  }
  return best;
}

function toLine(x, y, [x0, y0, x1, y1]) {
  const dx = x1 - x0, dy = y1 - y0;
  const along = Math.max(0, Math.min(1, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(x - x0 - along * dx, y - y0 - along * dy);
}
