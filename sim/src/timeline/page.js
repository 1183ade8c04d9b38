// The page around the drawing: what is said in words, and what the mouse and the keys do.

const byId = (id) => document.getElementById(id);
const ROWS_AROUND = 40;
let pending = false, past = [], drag = null, found = { list: [], at: -1 };

// Text only: whatever a client wrote, it is never read as HTML.
function element(tag, what = '', classes = '') {
  const made = document.createElement(tag);
  made.textContent = what;
  if (classes) made.className = classes;
  return made;
}

function add(parent, ...children) {
  for (const child of children) parent.append(child);
  return parent;
}

function line(name, what) {
  return add(element('p'), element('span', name, 'label'), ` ${what}`);
}

function writeHead() {
  const broken = data.violation;
  byId('title').textContent = data.title;
  document.body.classList.toggle('violated', Boolean(broken));
  const verdict = byId('verdict');
  if (broken) {
    verdict.className = 'bad';
    add(verdict, line('The rule:', broken.demands), line('Broken:', broken.broken), line('Checker:', broken.explanation));
    if (broken.story.length) add(verdict, element('h2', 'What happened (click to zoom there)'), story(broken.story));
    add(verdict, line('Source:', broken.source));
  } else {
    add(verdict, element('p', 'All properties held: every oracle is satisfied with this run, and the cluster recovered after its faults.'));
  }
  byId('to-violation').hidden = !broken;
  const facts = byId('facts');
  if (broken) {
    add(facts, element('h2', `What the nodes were at ${time(broken.nodes.at)}`), table(broken.nodes.rows));
  }
  add(facts, element('h2', 'Commands'));
  for (const [what, command] of data.commands) add(facts, add(element('div'), element('span', `${what}: `, 'label'), element('code', command)));
  add(facts, fold('Figures', table(data.figures)), fold('The plan of this run', element('pre', data.plan)));
  const notes = element('ul');
  for (const note of data.notes) add(notes, element('li', note));
  add(facts, fold('What is not on this page', notes));
}

function story(lines) {
  const list = element('ol');
  for (const [said, operations, at] of lines) {
    const entry = element('li', '', operations.length > 1 ? 'clash' : ''), button = element('button');
    button.type = 'button';
    // The numbers of operations stand out.
    for (const part of said.split(/(#\d+)/)) add(button, /^#\d+$/.test(part) ? element('span', part, 'op') : part);
    button.addEventListener('click', () => {
      const meant = items.filter((item) => item.type === 'operation' && operations.includes(item.index));
      if (at !== null) { cursor = at; show(at - 30e6, at + 30e6); }
      if (!meant.length) return;
      choose(meant[meant.length - 1]);
      showAround(meant);
    });
    add(list, add(entry, button));
  }
  return list;
}

function fold(title, content) {
  return add(element('details'), element('summary', title), content);
}

function table(rows) {
  const made = element('table');
  for (const row of rows) {
    const line = element('tr');
    row.forEach((cell, at) => add(line, element('td', cell, at === 0 ? 'label' : '')));
    add(made, line);
  }
  return made;
}

function writeFilters() {
  data.nodes.forEach((node, at) => add(byId('node-filter'), checkbox(node.name, `node-${at + 1}`, (on) => {
    if (on) filter.nodes.add(at + 1); else filter.nodes.delete(at + 1);
  })));
  const counts = new Map();
  for (const item of items) counts.set(item.group, (counts.get(item.group) || 0) + 1);
  for (const [group, name] of GROUPS) {
    add(byId('kind-filter'), checkbox(`${name} (${counts.get(group) || 0})`, `kind-${group}`, (on) => {
      if (on) filter.groups.add(group); else filter.groups.delete(group);
    }));
  }
  const all = element('button', 'all'), none = element('button', 'none');
  for (const [button, on] of [[all, true], [none, false]]) {
    button.type = 'button';
    button.addEventListener('click', () => {
      for (const box of byId('kind-filter').querySelectorAll('input')) if (box.checked !== on) box.click();
    });
  }
  add(byId('kind-filter'), all, none);
}

function checkbox(name, id, change) {
  const box = element('input');
  Object.assign(box, { type: 'checkbox', checked: true, id });
  box.addEventListener('change', () => { change(box.checked); find(0); redraw(); });
  return add(element('label'), box, name);
}

function writeLegend() {
  const legend = byId('legend');
  const swatches = [['leader', 'leader'], ['candidate', 'candidate'], ['follower', 'follower'], ['learner', 'learner'],
    ['booting', 'booting'], ['down', 'down'], ['ok', 'operation done'], ['unknown', 'outcome unknown'],
    ['not-applied', 'not applied'], ['commit', 'commit index'], ['applied', 'applied index'], ['last', 'last entry of the log'],
    ['sync', 'sync of a disk'], ['write', 'write'], ['fault', 'fault'], ['cut', 'link closed']];
  const colour = (name, what) => {
    const swatch = element('span', '', 'swatch');
    swatch.style.background = `var(--${name})`;
    return add(element('span'), swatch, ` ${what}   `);
  };
  add(legend, ...swatches.map(([name, what]) => colour(name, what)));
  const kinds = element('p', 'Messages: ');
  data.messageKinds.forEach((name, kind) => add(kinds, colour(`m${kind}`, name)));
  add(legend, kinds, element('p', 'An arrow goes from when a message was sent to when it had arrived. Solid: arrived. Long dashes: ' +
    'late, or held back by a closed link. Red, short, with a cross: lost. Dotted: under way when the run ended. In node lanes, from the ' +
    'top: what the process is; its log; its disk (bars are syncs); closed links; the line where messages leave and arrive. Diamonds are ' +
    'turning points. A red bar on top of a lane: a fault hits this node.'));
  add(legend, element('p', 'Wheel: zoom. Drag: move. Click: choose an event. Keys: + and - zoom, arrow keys move, 0 whole run, ' +
    'v violation, / search, n and p next and previous match, Backspace back, Escape choose nothing.'));
}

// Moving about

function show(from, to, remember = true) {
  const least = 20_000, span = Math.min(Math.max(to - from, least), data.end * 1.04 || 1);
  const start = Math.min(Math.max((from + to) / 2 - span / 2, -data.end * 0.02), data.end * 1.02 - span);
  if (remember && (past.length === 0 || past[past.length - 1][0] !== view.from || past[past.length - 1][1] !== view.to)) {
    past.push([view.from, view.to]);
    if (past.length > 100) past.shift();
  }
  view.from = start;
  view.to = start + span;
  redraw();
}

const showAll = () => show(0, data.end);

function showViolation() {
  if (!data.violation) return;
  const [from, to] = data.violation.focus, margin = (to - from) * 0.4;
  show(from - margin, to + margin);
}

function showAround(some) {
  const from = Math.min(...some.map((item) => item.t0)), to = Math.max(...some.map((item) => item.t1));
  const margin = Math.max((to - from) * 0.4, 1_000_000);
  show(from - margin, to + margin);
}

function zoom(factor, around = null) {
  const middle = around === null ? (view.from + view.to) / 2 : around;
  show(middle - (middle - view.from) * factor, middle + (view.to - middle) * factor, false);
}

function move(part) {
  const by = (view.to - view.from) * part;
  show(view.from + by, view.to + by, false);
}

function back() {
  const last = past.pop();
  if (last) show(last[0], last[1], false);
}

function choose(item) {
  chosen = item;
  if (item) cursor = item.when;
  redraw();
}

// Searching

function find(step) {
  filter.text = byId('search').value.trim().toLowerCase();
  found.list = filter.text ? items.filter((item) => passes(item) && matches(item)) : [];
  if (step !== 0 && found.list.length) {
    const from = chosen ? items.indexOf(chosen) : -1;
    const next = step > 0 ? found.list.find((item) => items.indexOf(item) > from)
      : [...found.list].reverse().find((item) => items.indexOf(item) < from);
    const item = next || found.list[step > 0 ? 0 : found.list.length - 1];
    found.at = found.list.indexOf(item);
    if (item.t0 < view.from || item.t1 > view.to) {
      const span = view.to - view.from, middle = (item.t0 + item.t1) / 2;
      show(middle - span / 2, middle + span / 2);
    }
    choose(item);
  }
  const which = found.at >= 0 && found.list[found.at] === chosen ? `${found.at + 1} of ` : '';
  byId('found').textContent = filter.text ? `${which}${found.list.length} found` : '';
  redraw();
}

// Words below the picture

function writeStatus() {
  const kinds = GROUPS.length - filter.groups.size, nodes = data.nodes.length - filter.nodes.size;
  const parts = [`${time(Math.max(view.from, 0), 4)} to ${time(Math.min(view.to, data.end), 4)}: ${shown.inView} of ${items.length} events`];
  if (shown.barred) parts.push(`${shown.barred} messages are drawn as bars (how many were sent); zoom in or switch kinds off to see them as arrows`);
  if (shown.crowded) parts.push(`${shown.crowded} faults share the last row of theirs`);
  if (kinds || nodes) parts.push(`switched off: ${[kinds && `${kinds} kinds`, nodes && `${nodes} nodes`].filter(Boolean).join(', ')}`);
  byId('status').textContent = parts.join(' · ');
  Object.assign(document.body.dataset, { from: String(Math.round(view.from)), to: String(Math.round(view.to)), items: String(items.length),
    shown: String(shown.inView), drawn: String(shown.drawn), arrows: String(shown.arrows), barred: String(shown.barred) });
}

function writeList() {
  const at = cursor === null ? (view.from + view.to) / 2 : cursor;
  const list = filter.text ? found.list : items.filter(passes);
  const middle = firstAt(list, at), start = Math.max(0, middle - ROWS_AROUND / 2);
  const some = list.slice(start, start + ROWS_AROUND);
  byId('events-title').textContent = `${filter.text ? 'What was found' : 'Events'} around ${time(at, 6)}: ` +
    (some.length ? `${start + 1} to ${start + some.length} of ${list.length}` : 'none');
  const rows = some.map((item) => {
    const row = element('tr');
    const who = item.type === 'operation' ? `c${item.client} → n${item.nodes[0]}` : item.nodes.map((node) => `n${node}`).join(' → ');
    const whoFault = item.type === 'fault' ? item.nodes.map((node) => `n${node}`).join(' ') : who;
    for (const cell of [time(item.when, 6), `${item.when >= at ? '+' : ''}${duration(item.when - at)}`, whoFault, item.kind, item.text]) {
      add(row, element('td', cell));
    }
    row.classList.toggle('here', item === list[middle]);
    row.classList.toggle('marked', Boolean(item.marked));
    row.classList.toggle('chosen', item === chosen);
    row.classList.toggle('match', matches(item));
    row.addEventListener('click', () => {
      choose(item);
      if (item.t1 < view.from || item.t0 > view.to) {
        const half = (view.to - view.from) / 2;
        show(item.when - half, item.when + half);
      }
    });
    return row;
  });
  byId('rows').replaceChildren(...rows);
}

function redraw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    draw();
    writeStatus();
    writeList();
  });
}

function tip(item, x, y) {
  const box = byId('tip');
  box.hidden = !item;
  canvas.style.cursor = item ? 'pointer' : '';
  if (!item) return;
  const lasts = item.t1 > item.t0 ? `, ${duration(item.t1 - item.t0)} long, until ${time(item.t1, 6)}` : '';
  box.textContent = `${item.kind}\n${item.text}\n${time(item.t0, 6)}${lasts}`;
  const { width: wide, height: high } = box.getBoundingClientRect();
  box.style.left = `${Math.min(x + 14, window.innerWidth - wide - 8)}px`;
  box.style.top = `${y + 18 + high > window.innerHeight ? y - high - 10 : y + 18}px`;
}

// Mouse and keys

function listen() {
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) move((event.deltaX || event.deltaY) / 1500);
    else zoom(Math.exp(event.deltaY / 500), toTime(event.offsetX));
  }, { passive: false });
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.offsetX, from: view.from, to: view.to, moved: false };
  });
  canvas.addEventListener('pointermove', (event) => {
    if (drag) {
      const by = (event.offsetX - drag.x) / (width - LABEL) * (drag.to - drag.from);
      drag.moved = drag.moved || Math.abs(event.offsetX - drag.x) > 3;
      canvas.classList.toggle('dragging', drag.moved);
      if (drag.moved) show(drag.from - by, drag.to - by, false);
      return;
    }
    tip(hitAt(event.offsetX, event.offsetY), event.clientX, event.clientY);
    if (!chosen) { cursor = event.offsetX > LABEL ? toTime(event.offsetX) : cursor; redraw(); }
  });
  canvas.addEventListener('pointerup', (event) => {
    const clicked = drag && !drag.moved;
    drag = null;
    canvas.classList.remove('dragging');
    if (!clicked) return;
    const item = hitAt(event.offsetX, event.offsetY);
    cursor = toTime(event.offsetX);
    choose(item && items.includes(item) ? item : null);
  });
  canvas.addEventListener('pointerleave', () => tip(null));
  canvas.addEventListener('dblclick', (event) => zoom(0.25, toTime(event.offsetX)));
  const travel = (event) => {
    const at = (event.offsetX - LABEL) / (width - LABEL) * data.end, half = (view.to - view.from) / 2;
    show(at - half, at + half, false);
  };
  overview.addEventListener('pointerdown', (event) => { overview.setPointerCapture(event.pointerId); travel(event); });
  overview.addEventListener('pointermove', (event) => { if (event.buttons) travel(event); });
  const buttons = { 'to-violation': showViolation, 'to-all': showAll, 'zoom-in': () => zoom(0.5), 'zoom-out': () => zoom(2),
    back, next: () => find(1), previous: () => find(-1) };
  for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener('click', action);
  byId('search').addEventListener('input', () => { found.at = -1; find(0); });
  byId('search').addEventListener('keydown', (event) => {
    if (event.key === 'Enter') find(event.shiftKey ? -1 : 1);
    if (event.key === 'Escape') byId('search').blur();
  });
  window.addEventListener('resize', redraw);
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readColours(); redraw(); });
  window.addEventListener('keydown', key);
}

function key(event) {
  if (event.target.tagName === 'INPUT' && event.target.type !== 'checkbox') return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { '+': () => zoom(0.5), '=': () => zoom(0.5), '-': () => zoom(2), ArrowLeft: () => move(-0.1), ArrowRight: () => move(0.1),
    0: showAll, Home: showAll, v: showViolation, n: () => find(1), p: () => find(-1), Backspace: back, '/': () => byId('search').focus(),
    Escape: () => choose(null) };
  const action = keys[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

writeHead();
writeFilters();
writeLegend();
readColours();
listen();
showViolation();
past = [];
// An address may say what to look at: #4.1-4.3 are seconds.
const asked = /^#(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/.exec(location.hash);
if (asked) show(Number(asked[1]) * 1e9, Number(asked[2]) * 1e9, false);
draw();
writeStatus();
writeList();
document.body.dataset.ready = 'yes';
