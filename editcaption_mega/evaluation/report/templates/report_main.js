// Filters, keys and the address: what ties the parts of the browser together.
const filters = byId('filters');
const hashOf = (sample) => `#${encodeURIComponent(overview.benchmarks[sample.set])}/${encodeURIComponent(sample.id)}`;

function options(name, values, all) {
  const field = filters.elements[name];
  const made = values.map(([value, text]) => element('option', { value }, text));
  field.replaceChildren(...(all === null ? [] : [element('option', { value: '' }, all)]), ...made);
  field.closest('label').hidden = values.length < 2;
}

function fillFilters() {
  const distinct = (key) => [...new Set(samples.map((sample) => sample[key]))].sort().map((value) => [value, value]);
  const named = (names) => names.map((name, i) => [String(i), name]);
  options('set', named(overview.benchmarks), 'all');
  options('category', distinct('category'), 'all');
  options('type', distinct('type'), 'all');
  options('model', named(overview.models), 'any');
  options('judge', named(overview.judges), null);
  const present = new Set(samples.flatMap((s) => s.labels.flatMap((by) => by.flatMap((one) => (one && one.faults) || []))));
  const faults = named(overview.faults).filter(([i]) => present.has(Number(i)));
  options('fault', [['any', 'any fault'], ...faults, ['correct', 'none: wholly correct']], 'all');
  for (const part of document.querySelectorAll('.of-judges')) part.hidden = !overview.judges.length;
  filters.elements.disagree.closest('label').title = `Weighted scores of two models are ${overview.disagree} or more apart`;
}

function wishes() {
  const values = Object.fromEntries(new FormData(filters));
  return { ...values, judge: values.judge || '0', unscored: 'unscored' in values, disagree: 'disagree' in values };
}

// stay: keep the sample that is shown, where it still fits; else the first of the list is shown.
function applyFilters(stay) {
  const wish = wishes();
  state.judge = Number(wish.judge);
  state.model = wish.model === '' ? -1 : Number(wish.model);
  const found = [];
  samples.forEach((sample, i) => { if (fits(sample, wish)) found.push(i); });
  state.shown = ordered(found, wish.order);
  const active = ['set', 'category', 'type', 'model', 'fault', 'unscored', 'disagree'].filter((name) => wish[name] !== '' && wish[name] !== false).length
    + (Number(wish.least) > 1 || Number(wish.most) < 5 ? 1 : 0);
  byId('active-filters').textContent = active ? `(${active} active)` : '';
  list.scrollTop = 0;
  showList();
  if (stay && state.shown.includes(state.current)) select(state.current, { address: false });
  else if (state.shown.length) select(state.shown[0], { address: false });
}

// address: write the sample into the address; scroll: bring it into view where the list stands above it.
function select(index, { address = true, scroll = false } = {}) {
  const sample = samples[index];
  state.current = index;
  byId('sample-title').textContent = sample.id;
  byId('sample-kind').textContent = `${overview.benchmarks[sample.set]} · ${sample.category} · ${sample.type}`;
  const position = state.shown.indexOf(index);
  byId('position').textContent = position < 0 ? 'not in the list' : `${position + 1} / ${state.shown.length}`;
  showPictures(index);
  showTruth(sample);
  showAnswers(sample);
  showFacts(sample);
  revealRow(index);
  drawRows();
  if (address) history.replaceState(null, '', hashOf(sample));
  if (scroll && matchMedia('(max-width: 900px)').matches) byId('detail').scrollIntoView({ block: 'start' });
}

function openAddress() {
  const [, name, id] = /^#([^/]+)\/(.+)$/.exec(location.hash) || [];
  if (!id) return;
  let index = -1;
  try {
    const set = overview.benchmarks.indexOf(decodeURIComponent(name));
    index = samples.findIndex((sample) => sample.set === set && sample.id === decodeURIComponent(id));
  } catch { /* an address that is no valid encoding names no sample */ }
  if (index < 0) {
    byId('count').textContent = `This report has no sample ${location.hash.slice(1)}.`;
    return;
  }
  select(index, { address: false });
  byId('samples').scrollIntoView();
}

function inBrowser() {
  const { activeElement } = document;
  if (byId('browser').contains(activeElement)) return true;
  if (activeElement && activeElement !== document.body) return false;
  const box = byId('browser').getBoundingClientRect();
  return box.top < innerHeight / 2 && box.bottom > innerHeight / 2;
}

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || !inBrowser()) return;
  const { target, key } = event;
  const range = target === cut;
  if (!range && target.matches('input, select, textarea')) return;
  let done = true;
  if (key === ' ' && !target.matches('button, summary, a')) flip();
  else if (key === 'ArrowLeft' && !range) go(-1);
  else if (key === 'ArrowRight' && !range) go(1);
  else if (key === 'ArrowUp' && target === list) go(-1);
  else if (key === 'ArrowDown' && target === list) go(1);
  else if (key === 'Home' && target === list) go(-samples.length);
  else if (key === 'End' && target === list) go(samples.length);
  else done = false;
  if (done) event.preventDefault();
});
filters.addEventListener('submit', (event) => event.preventDefault());
filters.addEventListener('input', ({ target }) => applyFilters(['model', 'judge'].includes(target.name)));
filters.addEventListener('reset', () => setTimeout(() => applyFilters(false)));
byId('previous').addEventListener('click', () => go(-1));
byId('next').addEventListener('click', () => go(1));
addEventListener('hashchange', openAddress);
addEventListener('beforeprint', () => document.querySelectorAll('details').forEach((one) => { one.open = true; }));

fillFilters();
byId('more-filters').open = matchMedia('(min-width: 901px)').matches;
byId('browser').hidden = false;
moveCut(50);
applyFilters(false);
openAddress();
