// What is in the lanes: axis, nodes, messages, marks, faults, operations, what is in conflict.

function drawAxis() {
  const { all, digits } = ticks();
  for (const at of all) {
    const x = toX(at);
    pen.fillStyle = colours.faint;
    pen.fillRect(x, AXIS, 1, layout.height);
    text(pen, time(at, digits), x + 3, 11, colours.soft, FINE);
    pen.fillStyle = colours.line;
    pen.fillRect(x, 4, 1, AXIS - 6);
  }
  if (data.healed !== null) {
    const x = toX(data.healed);
    pen.fillStyle = colours.ok;
    pen.fillRect(x, AXIS, 1.5, layout.height);
    text(pen, '◂ faults · everything heals ▸', x, layout.height - 8, colours.ok, BOLD, 'center');
  }
}

// Where the violation is.
function drawFocus() {
  if (!data.violation) return;
  const [from, to] = data.violation.focus, x0 = toX(from), wide = Math.max(toX(to) - x0, 2);
  pen.fillStyle = colours['bad-soft'];
  if (wide < width - LABEL) pen.fillRect(x0, AXIS, wide, layout.height);
  pen.fillStyle = colours.bad;
  pen.fillRect(x0, AXIS - 3, wide, 3);
}

function drawNode(node) {
  const y = layout.nodes.get(node), lane = data.nodes[node - 1];
  pen.fillStyle = colours.line;
  pen.fillRect(LABEL, y, width, 1);
  for (const [from, to, state] of lane.states) {
    if (to < view.from || from > view.to || state === 'up') continue;
    const x0 = toX(from), x1 = Math.max(toX(to), x0 + 1), idle = state === 'booting';
    pen.fillStyle = colours[idle ? 'booting' : 'down'];
    pen.fillRect(x0, y + 4, x1 - x0, 20);
    if (!idle) hatch(x0, y + 4, x1 - x0, 20, colours['not-applied']);
    label(from === 0 && state === 'down' ? 'not started' : STATES[state], x0, x1, y + 14, colours[idle ? 'booting-ink' : 'down-ink']);
    shown.drawn += 1;
  }
  for (const { from, to, role, term } of roles[node - 1]) {
    if (to < view.from || from > view.to) continue;
    const x0 = toX(from), x1 = Math.max(toX(to), x0 + 1), leads = role === 'leader';
    pen.fillStyle = colours[role] || colours.down;
    pen.fillRect(x0, y + 4, x1 - x0, 20);
    pen.fillStyle = colours.back;
    pen.fillRect(x0, y + 4, 1, 20);
    label(`${leads ? 'LEADER' : role} · term ${term}`, x0, x1, y + 14, colours[`${role}-ink`] || colours.ink,
      leads ? BOLD : FINE);
    shown.drawn += 1;
  }
  for (const [from, to] of lane.pauses) {
    if (to < view.from || from > view.to) continue;
    const x0 = toX(from), x1 = Math.max(toX(to), x0 + 2);
    pen.fillStyle = colours.back;
    pen.fillRect(x0, y + 10, x1 - x0, 8);
    hatch(x0, y + 4, x1 - x0, 20, colours.ink, 4);
    label('stands still', x0, x1, y + 14, colours.ink, BOLD);
  }
  drawLog(node, y + 28, 22);
  drawLinks(node, y + 70);
  pen.fillStyle = colours.soft;
  pen.fillRect(LABEL, wire(node), width, 1);
}

// The log: last entry, committed, applied, as lines; the numbers where they change and there is room.
function drawLog(node, y, height) {
  const rows = data.nodes[node - 1].progress;
  const most = data.mostEntries;
  const scale = (index) => y + height - Math.max(index, 0) / most * height;
  for (const [column, colour, wide] of [[6, 'last', 1], [4, 'commit', 1.4], [5, 'applied', 1.4]]) {
    pen.strokeStyle = colours[colour];
    pen.lineWidth = wide;
    pen.beginPath();
    let drawing = false, lastX = -1;
    for (let at = 0; at < rows.length; at += 1) {
      const end = at + 1 < rows.length ? rows[at + 1][0] : data.end;
      if (end < view.from || rows[at][0] > view.to) continue;
      if (!rows[at][1] || rows[at][column] < 0) { drawing = false; continue; }
      const x0 = Math.max(toX(rows[at][0]), LABEL - 5), x1 = Math.min(toX(end), width + 5), level = scale(rows[at][column]);
      if (!drawing) pen.moveTo(x0, level);
      if (drawing && x1 - lastX < 1) continue;
      pen.lineTo(x0, level);
      pen.lineTo(x1, level);
      lastX = x1;
      drawing = true;
    }
    pen.stroke();
  }
  let free = LABEL;
  for (let at = 0; at < rows.length; at += 1) {
    const [from, role, , , commit, applied] = rows[at];
    const end = at + 1 < rows.length ? rows[at + 1][0] : data.end;
    const x0 = Math.max(toX(from), LABEL), x1 = toX(end);
    if (!role || x1 < free || x0 > width || x1 - x0 < 74 || commit < 0) continue;
    const said = commit === applied ? `commit ${commit}, applied` : `commit ${commit}, applied ${applied < 0 ? 'none' : applied}`;
    label(said, x0, x1, commit * 2 > most ? y + height - 4 : y + 5, colours.soft, FINE);
    free = x1;
  }
}

// With whom it cannot speak, one way or the other.
function drawLinks(node, y) {
  if (!filter.groups.has('net')) return;
  const rows = new Map();
  for (const [from, to, source, target, how] of data.links) {
    if ((source !== node && target !== node) || to < view.from || from > view.to) continue;
    const key = `${from} ${to}`;
    const row = rows.get(key) || { from, to, how, out: [], back: [] };
    if (source === node) row.out.push(`n${target}`); else row.back.push(`n${source}`);
    rows.set(key, row);
  }
  for (const { from, to, how, out, back } of rows.values()) {
    const x0 = toX(from), x1 = Math.max(toX(to), x0 + 2);
    pen.fillStyle = colours.cut;
    pen.fillRect(x0, y + 1, x1 - x0, 3);
    const both = out.filter((name) => back.includes(name));
    const said = [both.length && `no link with ${both.join(' ')}`,
      out.length > both.length && `not heard by ${out.filter((name) => !both.includes(name)).join(' ')}`,
      back.length > both.length && `does not hear ${back.filter((name) => !both.includes(name)).join(' ')}`];
    const words = `${said.filter(Boolean).join('; ')} (${how})`;
    box({ type: 'link', t0: from, t1: to, group: 'net', kind: 'link', nodes: [node], text: words }, x0, y - 2, x1, y + 7);
  }
}

function drawMessages(messages) {
  const arrows = messages.length <= ARROWS_MAX ? messages : messages.filter((item) => item.weight > 0).slice(0, ARROWS_MAX);
  if (arrows.length < messages.length) {
    shown.barred = messages.length - arrows.length;
    drawTraffic(messages);
  }
  shown.arrows = arrows.length;
  const faint = arrows.length > 500 ? 0.35 : arrows.length > 200 ? 0.6 : 0.95;
  for (const item of arrows) drawArrow(item, item === chosen ? 1 : faint);
}

// How many messages a node sent, for every four pixels, where arrows would hide each other.
function drawTraffic(messages) {
  for (const [node] of layout.nodes) {
    const counts = new Map();
    for (const item of messages) {
      if (item.from !== node || item.t0 < view.from) continue;
      const slot = Math.floor((toX(item.t0) - LABEL) / 4);
      counts.set(slot, (counts.get(slot) || 0) + 1);
    }
    pen.fillStyle = colours.m1;
    for (const [slot, count] of counts) {
      const height = Math.min(3 + 3 * Math.log2(count), 16);
      pen.fillRect(LABEL + slot * 4, wire(node) - height, 3, height);
      shown.drawn += 1;
    }
  }
}

function drawArrow(item, alpha) {
  const x0 = toX(item.t0), y0 = wire(item.from);
  let x1 = toX(item.t1), y1 = wire(item.to);
  if (item.fate === 'under way') x1 = Math.min(x1, width);
  if (item.lost) {
    // It does not get there: it ends half way, and not far from where it began.
    x1 = Math.min(x1, x0 + 40);
    y1 = y0 + (y1 - y0) * 0.45;
  }
  pen.globalAlpha = item.lost ? 1 : alpha;
  pen.strokeStyle = pen.fillStyle = item.lost && item.fate !== 'under way' ? colours.bad : colours[item.colour];
  pen.lineWidth = item === chosen ? 2.5 : item.weight > 0 ? 1.4 : 1;
  pen.setLineDash(item.fate === 'arrived' ? [] : item.fate === 'late' ? [6, 3] : [2, 3]);
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
  pen.setLineDash([]);
  if (item.lost) {
    pen.beginPath();
    pen.moveTo(x1 - 3, y1 - 3); pen.lineTo(x1 + 3, y1 + 3);
    pen.moveTo(x1 - 3, y1 + 3); pen.lineTo(x1 + 3, y1 - 3);
    pen.stroke();
  } else {
    const angle = Math.atan2(y1 - y0, x1 - x0);
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x1 - 6 * Math.cos(angle - 0.4), y1 - 6 * Math.sin(angle - 0.4));
    pen.lineTo(x1 - 6 * Math.cos(angle + 0.4), y1 - 6 * Math.sin(angle + 0.4));
    pen.fill();
  }
  pen.globalAlpha = 1;
  shown.drawn += 1;
  hits.push({ item, line: [x0, y0, x1, y1] });
}

function drawMarks(marks) {
  const last = new Map(), symbols = [];
  for (const item of marks) {
    if (item.group === 'fault' && item.node === 0) continue;
    const y = layout.nodes.get(item.node);
    if (y === undefined) continue;
    const x0 = toX(item.t0), x1 = toX(item.t1);
    const row = item.group === 'disk' ? y + 54 : item.group === 'process' ? y + 4 : y + 46;
    const plain = item.weight === 0;
    const bar = item.group === 'disk' && (item.kind === 'sync' || item.kind === 'failed sync');
    // One mark in one pixel is enough, of each kind.
    const key = `${item.node} ${item.group} ${plain ? item.kind : item.text}`;
    if (plain && last.get(key) !== undefined && x1 - last.get(key) < 1) continue;
    last.set(key, x1);
    if (bar) {
      pen.fillStyle = item.kind === 'sync' ? colours.sync : colours.bad;
      pen.fillRect(x0, row + 2, Math.max(x1 - x0, 1), 8);
      if (x1 - x0 > 40) label(item.text, x0, x1, row + 6, colours.ink, '9px system-ui, "DejaVu Sans", sans-serif');
      box(item, x0, row, x1, row + 12);
    } else if (plain) {
      pen.fillStyle = colours[item.group === 'disk' ? 'write' : 'line'];
      pen.fillRect(x1, row + 2, 1, 8);
      box(item, x1 - 2, row, x1 + 2, row + 12);
    }
    if (item.weight > 0) symbols.push([item, x1, row + 6]);
  }
  drawSymbols(symbols);
}

// The weightiest of those that would hide each other, and a word where there is room.
function drawSymbols(symbols) {
  const taken = new Map();
  symbols.sort((a, b) => b[0].weight - a[0].weight);
  const kept = symbols.filter(([, x, y]) => {
    const slot = `${y} ${Math.round(x / 5)}`;
    return !taken.has(slot) && taken.set(slot, true);
  });
  kept.sort((a, b) => a[1] - b[1]);
  kept.forEach(([item, x, y], at) => {
    const next = kept.find(([, otherX, otherY], other) => other > at && otherY === y);
    const bold = item.weight > 1 && item.group === 'disk';
    if (bold) label(item.text, x + 4, Math.min(next ? next[1] - 6 : width, x + 330), y, colours.bad, FINE);
    drawSymbol(item, x, y);
  });
}

// A turning point gets a diamond.
function drawSymbol(item, x, y) {
  const bad = item.group === 'disk' || ['kill', 'power loss', 'over', 'reset', 'log cut back'].includes(item.kind);
  const size = item.weight > 1 ? 5 : 3.5;
  pen.fillStyle = item.group === 'raft' ? colours.m4 : item.kind === 'boot' || item.kind === 'up' ? colours.ok : bad ? colours.bad : colours.soft;
  pen.strokeStyle = colours.back;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x, y - size); pen.lineTo(x + size, y); pen.lineTo(x, y + size); pen.lineTo(x - size, y);
  pen.closePath();
  pen.fill();
  pen.stroke();
  box(item, x - size, y - size, x + size, y + size);
}

function drawFaults(faults) {
  shown.crowded = stackFaults(faults);
  for (const item of faults) {
    const y = layout.faults + item.row * FAULT_ROW + 2, x0 = toX(item.t0), x1 = Math.max(toX(item.t1), x0 + 3);
    pen.fillStyle = colours.fault;
    pen.fillRect(x0, y, x1 - x0, FAULT_ROW - 4);
    pen.fillStyle = colours.bad;
    pen.fillRect(x0, y, 2, FAULT_ROW - 4);
    // Its text may run beyond its end: that row is free there.
    if (!item.crowded) label(item.label, x0, item.until, y + (FAULT_ROW - 4) / 2, colours['fault-ink']);
    box(item, x0, y, x1, y + FAULT_ROW - 4);
    for (const node of item.nodes) {
      const top = layout.nodes.get(node);
      if (top === undefined) continue;
      pen.fillStyle = colours.bad;
      pen.fillRect(x0, top + 1, Math.max(x1 - x0, 2), 2);
    }
  }
}

function drawOperations(operations) {
  const last = new Map();
  // What is in conflict lies above what is not.
  for (const item of [...operations.filter((it) => !it.marked), ...operations.filter((it) => it.marked)]) {
    const y = layout.clients.get(item.client);
    if (y === undefined) continue;
    const x0 = toX(item.t0), x1 = Math.max(toX(item.t1), x0 + 2);
    const key = `${item.client} ${item.outcome}`;
    if (!item.marked && last.get(key) !== undefined && x1 - last.get(key) < 1) continue;
    last.set(key, x1);
    const colour = colours[item.outcome.replace(' ', '-')] || colours.open;
    pen.fillStyle = colour;
    pen.globalAlpha = item.outcome === 'not applied' ? 0.45 : 0.85;
    pen.fillRect(x0, y + 2, x1 - x0, CLIENT_ROW - 5);
    pen.globalAlpha = 1;
    if (item.outcome === 'unknown' || item.open) {
      pen.globalAlpha = 0.3;
      hatch(x0, y + 2, x1 - x0, CLIENT_ROW - 5, colours.back, 7);
      pen.globalAlpha = 1;
    }
    const answered = item.revision >= 0 ? ` → rev ${item.revision}` : ` → ${item.outcome}`;
    label(`${item.marked ? `#${item.index} ` : ''}${item.op}${answered}`, x0, x1, y + CLIENT_ROW / 2, '#fff');
    box(item, x0, y, x1, y + CLIENT_ROW);
    if (item.marked || item === chosen) drawAsking(item, x0, x1, y);
  }
}

// A marked operation: framed, numbered, and tied to the node that it asked.
function drawAsking(item, x0, x1, y) {
  const colour = item.marked ? colours.bad : colours.accent;
  pen.strokeStyle = colour;
  pen.lineWidth = 2;
  pen.strokeRect(x0 - 1, y + 1, x1 - x0 + 2, CLIENT_ROW - 3);
  const node = item.nodes[0], top = layout.nodes.get(node);
  if (top !== undefined) {
    pen.setLineDash([4, 3]);
    pen.lineWidth = 1.3;
    pen.beginPath();
    pen.moveTo(x0, y + 1); pen.lineTo(x0, top + 24);
    pen.moveTo(x1, y + 1); pen.lineTo(x1, top + 24);
    pen.stroke();
    pen.setLineDash([]);
    pen.strokeRect(x0 - 1, top + 3, Math.max(x1 - x0, 2) + 2, 22);
  }
  const name = `#${item.index}`;
  pen.font = 'bold 12px system-ui, "DejaVu Sans", sans-serif';
  const wide = pen.measureText(name).width + 8;
  const at = x1 - x0 > 200 ? x1 - wide : x0 - wide - 2;
  pen.fillStyle = colour;
  pen.fillRect(at, y + 1, wide, CLIENT_ROW - 3);
  text(pen, name, at + 4, y + CLIENT_ROW / 2, colours.back, 'bold 12px system-ui, "DejaVu Sans", sans-serif');
}

// What the oracles observed in nodes, and when the violation was found.
function drawMoments() {
  if (!data.violation) return;
  for (const [node, at] of data.violation.moments) {
    const y = layout.nodes.get(node);
    if (y === undefined) continue;
    pen.strokeStyle = colours.bad;
    pen.lineWidth = 2;
    pen.strokeRect(toX(at) - 6, y + 2, 12, NODE - 6);
    shown.drawn += 1;
  }
  const x = toX(data.violation.found);
  pen.fillStyle = colours.bad;
  pen.fillRect(x - 1, AXIS, 2, layout.height);
  text(pen, 'found here', x - 5, layout.height - 8, colours.bad, BOLD, 'right');
}

function drawChosen() {
  if (!chosen) return;
  pen.fillStyle = colours.accent;
  pen.globalAlpha = 0.15;
  const x0 = toX(chosen.t0), x1 = Math.max(toX(chosen.t1), x0 + 1);
  pen.fillRect(x0, AXIS, x1 - x0, layout.height);
  pen.globalAlpha = 1;
}
