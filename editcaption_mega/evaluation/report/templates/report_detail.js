// One sample: its ground truth, and every model's instruction with what the judge and people say of it.
function showTruth(sample) {
  const place = byId('truth');
  place.replaceChildren();
  if (!sample.truth) {
    place.append(element('h4', {}, 'Ground truth'), element('p', { class: 'note' }, 'none for this pair'));
    return;
  }
  for (const [title, changes] of [['Primary changes', sample.truth.primary], ['Secondary changes', sample.truth.secondary]]) {
    if (!changes.length) continue;
    const items = changes.map(([id, text]) => element('li', {}, element('code', {}, id), element('span', {}, text)));
    place.append(element('h4', {}, title), element('ul', { class: 'changes' }, ...items));
  }
  if (!sample.truth.primary.some(([, text]) => text === sample.truth.overall)) {
    place.append(element('h4', {}, 'Overall'), element('p', { class: 'said' }, sample.truth.overall));
  }
}

function showAnswers(sample) {
  const answers = overview.models.map((name, model) => {
    const text = sample.texts[model];
    return text === null || (state.model >= 0 && state.model !== model) ? null : answer(sample, model, name, text);
  });
  byId('answers').replaceChildren(element('h4', {}, 'Instructions'), ...answers.filter(Boolean));
  if (!sample.texts.some((text) => text !== null)) byId('answers').append(element('p', { class: 'note' }, 'none for this pair'));
}

function answer(sample, model, name, text) {
  const labels = (sample.labels[state.judge] || [])[model];
  const header = element('header', {}, element('h5', {}, name));
  if (labels) header.append(...scores(labels));
  const { nodes, unplaced } = typeof text === 'string' ? marked(text, labels) : { nodes: [], unplaced: [] };
  const said = typeof text === 'string'
    ? element('p', { class: 'said', dir: 'auto' }, ...(text ? nodes : ['(an empty instruction)']))
    : element('p', { class: 'said nothing' }, `no instruction: ${text.reason}`);
  const box = element('section', { class: 'answer', 'aria-label': name }, header, said);
  if (labels) box.append(chipsOf(labels));
  if (unplaced.length) {
    const items = unplaced.map((claim) => element('li', {}, element('mark', { class: claim.verdict }, claim.text), ` ${claim.title}`));
    box.append(element('p', { class: 'note' }, 'Labels that the judge worded in its own way:'), element('ul', { class: 'claims' }, ...items));
  }
  if (labels && labels.words) box.append(wordsOf(labels.words));
  const people = sample.people ? sample.people[model] : [];
  if (people.length) {
    box.append(element('ul', { class: 'labels' }, ...people.map(([who, severity, table, remark]) => {
      const rows = table.length ? `, checklist ${table.join(', ')}` : '';
      return element('li', { class: severity === 'correct' ? 'good' : 'bad' }, `${who}: ${severity}${rows}${remark ? `: ${remark}` : ''}`);
    })));
  }
  return box;
}

function scores(labels) {
  const number = (value, i) => {
    const spread = labels.spread && labels.spread[i] ? ` ± ${labels.spread[i].toFixed(2)}` : '';
    return value === null ? 'unscored' : value.toFixed(2) + spread;
  };
  const [total, ...parts] = labels.scores.map(number);
  const names = overview.measures.slice(1);
  const repeats = labels.n > 1 ? ` · mean of ${labels.n} repeats` : '';
  return [
    element('span', { class: `total ${band(weighted(labels))}` }, total),
    element('span', { class: 'parts' }, names.map((name, i) => `${name} ${parts[i]}`).join(' · ') + repeats),
  ];
}

function chipsOf(labels) {
  const times = (n) => (n < labels.n ? ` (${n} of ${labels.n})` : '');
  const items = [];
  const add = (kind, text) => items.push(element('li', { class: kind }, text));
  if (labels.correct !== undefined) add(labels.correct ? 'good' : 'bad', labels.correct ? '✓ wholly correct' : '✗ not wholly correct');
  for (const [id, n] of Object.entries(labels.hits || {})) add('good', `hit ${id}${times(n)}`);
  for (const [id, n] of Object.entries(labels.secondary || {})) add('good', `secondary hit ${id}${times(n)}`);
  for (const [id, n] of Object.entries(labels.misses || {})) add('bad', `missed ${id}${times(n)}`);
  for (const [term, n] of Object.entries(labels.forbidden || {})) add('bad', `forbidden: ${term}${times(n)}`);
  for (const fault of labels.faults || []) if (fault < 3) add('bad', overview.faults[fault]);
  for (const [name, why] of Object.entries(labels.unscored || {})) add('warn', `${name} unscored: ${why}`);
  for (const [name, n] of Object.entries(labels.partly || {})) add('warn', `${name}: ${n} of ${labels.n} repeats unscored`);
  return element('ul', { class: 'labels' }, ...items);
}

// What else is known of the pair: sizes, license, who made it.
function showFacts(sample) {
  const items = (sample.facts || []).flatMap(([name, value]) => [element('dt', {}, name), element('dd', { dir: 'auto' }, value)]);
  byId('facts').replaceChildren(...(items.length ? [element('h4', {}, 'About this pair'), element('dl', { class: 'known' }, ...items)] : []));
}

// What the judge wrote: its reasons, or a reply that was of no use.
function wordsOf(words) {
  const items = Object.entries(words).flatMap(([name, texts]) => texts.map(
    (text) => element('li', {}, element('b', {}, `${name}: `), element('span', { dir: 'auto' }, text)),
  ));
  return element('details', { class: 'note' }, element('summary', {}, "the judge's words"), element('ul', { class: 'claims' }, ...items));
}

// The text in pieces, each marked with the labels that cover it; `unplaced` are those whose words are not in the text.
function marked(text, labels) {
  const ranges = [];
  const unplaced = [];
  for (const [words, verdict, change, n] of (labels && labels.claims) || []) {
    const about = change ? `, about ${change}` : '';
    const title = `${verdict}${about}${n < labels.n ? ` (${n} of ${labels.n} repeats)` : ''}`;
    const found = words.trim() ? find(text, words.trim().replace(/\.$/, '')) : [];
    if (found.length) ranges.push({ ...found[0], verdict, title });
    else unplaced.push({ text: words, verdict, title });
  }
  for (const term of Object.keys((labels && labels.forbidden) || {})) {
    const stem = term.includes(' ') || term.length < 5 ? term : term.replace(/[ey]$/, '');
    for (const place of find(text, stem, true)) ranges.push({ ...place, verdict: 'forbidden', title: 'forbidden term' });
  }
  const cuts = [...new Set([0, text.length, ...ranges.flatMap((r) => [r.start, r.end])])].sort((a, b) => a - b);
  const nodes = [];
  for (let i = 0; i + 1 < cuts.length; i += 1) {
    const piece = text.slice(cuts[i], cuts[i + 1]);
    const over = ranges.filter((r) => r.start <= cuts[i] && r.end >= cuts[i + 1]);
    const attributes = { class: over.map((r) => r.verdict).join(' '), title: over.map((r) => r.title).join('; ') };
    nodes.push(over.length ? element('mark', attributes, piece) : piece);
  }
  return { nodes, unplaced };
}

// Where the words are in the text, case aside. whole: as words, with any ending.
function find(text, words, whole = false) {
  const literal = words.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&').replace(/\s+/g, '\\s+');
  const pattern = new RegExp(whole ? `(?<![\\p{L}\\p{N}])${literal}\\p{L}*` : literal, 'giu');
  return [...text.matchAll(pattern)].map((match) => ({ start: match.index, end: match.index + match[0].length }));
}
