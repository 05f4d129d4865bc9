// The list of samples. Only the rows in view exist.
const ROW = 64;
const list = byId('list');
const rows = byId('rows');

function showList() {
  const count = byId('count');
  const total = samples.length.toLocaleString('en');
  count.textContent = `${state.shown.length.toLocaleString('en')} of ${total} samples`;
  rows.style.height = `${state.shown.length * ROW}px`;
  if (!state.shown.length) {
    rows.replaceChildren(element('p', { class: 'empty' }, 'No sample fits these filters.'));
    list.removeAttribute('aria-activedescendant');
    return;
  }
  drawRows();
}

function drawRows() {
  if (!state.shown.length) return;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 3);
  const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 3);
  const kept = new Map([...rows.children].map((row) => [row.id, row]));
  const wanted = [];
  for (let position = first; position < last; position += 1) {
    const index = state.shown[position];
    const id = `row-${index}-${state.judge}-${state.model}`;
    const row = kept.get(id) || drawRow(index, id);
    row.style.top = `${position * ROW}px`;
    row.setAttribute('aria-selected', String(index === state.current));
    row.setAttribute('aria-posinset', position + 1);
    row.setAttribute('aria-setsize', state.shown.length);
    if (index === state.current) list.setAttribute('aria-activedescendant', id);
    wanted.push(row);
  }
  rows.replaceChildren(...wanted);
}

function drawRow(index, id) {
  const sample = samples[index];
  const image = element('img', { alt: '', width: 48, height: 48 });
  whenPictures(index, ([, target]) => { image.src = target; });
  const chips = element('span', { class: 'chips' });
  for (const [model, labels] of labelsOf(sample)) {
    const score = weighted(labels);
    const text = score === null ? '–' : score.toFixed(1);
    chips.append(element('span', { class: `chip ${band(score)}`, title: `${overview.models[model]}: ${text}` }, text));
  }
  if (!overview.judges.length) { // without scores the texts themselves
    const text = sample.texts.find((one, model) => typeof one === 'string' && (state.model < 0 || state.model === model));
    chips.append(element('span', { class: 'snippet', dir: 'auto' }, text || ''));
  }
  const what = element('span', { class: 'what' }, `${sample.type} · ${sample.id}`);
  const row = element('div', { class: 'row', id, role: 'option' }, image, element('div', {}, what, chips));
  row.addEventListener('click', () => select(index, { scroll: true }));
  return row;
}

function revealRow(index) {
  const position = state.shown.indexOf(index);
  if (position < 0) return;
  const top = position * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

// Goes `step` samples on in the list; stays at its ends.
function go(step) {
  if (!state.shown.length) return;
  const here = state.shown.indexOf(state.current);
  const there = here < 0 ? 0 : Math.min(state.shown.length - 1, Math.max(0, here + step));
  select(state.shown[there]);
}

list.addEventListener('scroll', () => requestAnimationFrame(drawRows), { passive: true });
addEventListener('resize', () => requestAnimationFrame(drawRows));
