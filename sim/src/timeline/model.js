'use strict';
// What the page knows: the data as objects, what is filtered out, what is searched for. Nothing here touches the screen.

// Whoever opens this page must learn that it is broken, rather than trust what is missing.
window.addEventListener('error', (event) => {
  const broken = document.getElementById('broken');
  broken.hidden = false;
  broken.textContent += `This page itself failed: ${event.message} (line ${event.lineno})\n`;
  document.body.dataset.errors = String(Number(document.body.dataset.errors || 0) + 1);
});
document.body.dataset.errors = '0';

const data = JSON.parse(document.getElementById('data').textContent);
const marked = new Set(data.violation ? data.violation.operations : []);
// What the lines of the logs are scaled to.
data.mostEntries = data.nodes.flatMap((node) => node.progress).reduce((most, row) => Math.max(most, row[6]), 1);

// Of messages these are worth an arrow even where there are too many.
const VOTE = data.messageKinds.indexOf('vote'), SNAPSHOT = data.messageKinds.indexOf('snapshot');

// Kinds of events that can be switched off, in the order of the filter.
const GROUPS = [
  ['client', 'client operations'],
  ['fault', 'faults'],
  ['process', 'processes: boots, kills, power, pauses'],
  ['raft', 'roles, snapshots, purges'],
  ['disk', 'disks: writes, syncs, what was lost'],
  ['net', 'connections and links'],
  ...data.messageKinds.map((name, kind) => [`m${kind}`, `messages: ${name}`]),
];

const FATES = {
  late: 'arrived late', reset: 'LOST: the connection was reset', died: 'LOST: a process at one end of it ended',
  'under way': 'had not arrived when the run ended',
};

// Everything that can be drawn, listed, found and hovered over: { t0, t1, nodes, group, kind, text, weight, ... }.
const items = buildItems();

const filter = { nodes: new Set(data.nodes.map((_, at) => at + 1)), groups: new Set(GROUPS.map(([group]) => group)), text: '' };

function buildItems() {
  const all = [];
  for (const [index, client, node, t0, end, op, outcome, answer, revision] of data.operations) {
    const t1 = end < 0 ? data.end : end;
    const text = `#${index} client ${client} asks n${node}: ${op} → ${outcome}${answer ? `: ${answer}` : ''}`;
    all.push({ type: 'operation', group: 'client', kind: outcome, t0, t1, nodes: [node], text, index, client, op, outcome,
      answer, revision, open: end < 0, weight: marked.has(index) ? 3 : 1, marked: marked.has(index) });
  }
  for (const [t0, t1, from, to, kind, fate, bytes, said] of data.messages) {
    const became = fate === 'arrived' ? `, ${duration(t1 - t0)} under way` : `; ${FATES[fate]}, after ${duration(t1 - t0)}`;
    const text = `n${from} → n${to}: ${said} (${bytes} B${became})`;
    const rare = kind === VOTE || kind === SNAPSHOT;
    const lost = fate !== 'arrived' && fate !== 'late';
    all.push({ type: 'message', group: `m${kind}`, kind: data.messageKinds[kind], t0, t1, nodes: [from, to], text, from, to,
      fate, lost, colour: `m${kind}`, weight: lost || rare ? 1 : 0 });
  }
  for (const [at, node, group, kind, text, weight, since] of data.marks) {
    all.push({ type: 'mark', group, kind, t0: since, t1: at, at, nodes: node ? [node] : [], text, weight, node });
  }
  for (const [t0, t1, text, hit] of data.faults) {
    const nodes = hit.split(' ').filter((name) => /^n\d+$/.test(name)).map((name) => Number(name.slice(1)));
    const full = nodes.length ? `${text} (hits ${hit})` : text;
    all.push({ type: 'fault', group: 'fault', kind: 'fault', t0, t1, nodes, text: full, label: text, weight: 2 });
  }
  for (const item of all) item.hay = `${item.kind} ${item.text} ${item.nodes.map((node) => `n${node}`).join(' ')}`.toLowerCase();
  // Listed by when they are known: a sync when it is done, a message when it is sent.
  for (const item of all) item.when = item.type === 'mark' ? item.at : item.t0;
  all.sort((a, b) => a.when - b.when);
  return all;
}

function passes(item) {
  return filter.groups.has(item.group) && (item.nodes.length === 0 || item.nodes.some((node) => filter.nodes.has(node)));
}

// A message is drawn only if both its ends are.
function drawable(item) {
  return passes(item) && (item.type !== 'message' || item.nodes.every((node) => filter.nodes.has(node)));
}

function matches(item) {
  return filter.text !== '' && item.hay.includes(filter.text);
}

// The index of the first item that is not before a time.
function firstAt(list, at) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].when < at) low = middle + 1; else high = middle;
  }
  return low;
}

// What a node last said of itself: [at, role, term, leader, commit, applied, last, snapshot, purged].
function progressAt(node, at) {
  const rows = data.nodes[node - 1].progress;
  let low = 0, high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle][0] <= at) low = middle + 1; else high = middle;
  }
  const row = rows[low - 1];
  return row && row[1] ? row : null;
}

function stateAt(node, at) {
  const span = data.nodes[node - 1].states.find(([from, to]) => from <= at && at < to);
  return span ? span[2] : '';
}

// A client that crashes goes on as another client, whose number is higher by a thousand.
function clientName(client) {
  if (client === 0) return 'check after healing';
  return client < 1000 ? `client ${client}` : `client ${client % 1000}, life ${Math.floor(client / 1000) + 1}`;
}

function time(ns, digits = 3) {
  return `${(ns / 1e9).toFixed(digits)} s`;
}

function duration(ns) {
  const abs = Math.abs(ns);
  if (abs >= 1e9) return `${(ns / 1e9).toFixed(3)} s`;
  if (abs >= 1e6) return `${(ns / 1e6).toFixed(2)} ms`;
  return `${(ns / 1e3).toFixed(1)} µs`;
}
