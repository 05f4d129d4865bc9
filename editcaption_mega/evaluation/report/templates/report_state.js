// The data of the page and what of it is shown. Data goes into the page as text only, never as markup.
const byId = (id) => document.getElementById(id);
const overview = JSON.parse(byId('overview').textContent);
const samples = [];
for (const chunk of document.querySelectorAll('script.samples')) {
  for (const sample of JSON.parse(chunk.textContent)) samples.push(sample);
  chunk.remove();
}
const state = { judge: 0, model: -1, shown: [], current: -1 };

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// One judge's labels of a sample: [[model number, labels]], of the chosen model or of all.
function labelsOf(sample) {
  const found = [];
  (sample.labels[state.judge] || []).forEach((labels, model) => {
    if (labels && (state.model < 0 || state.model === model)) found.push([model, labels]);
  });
  return found;
}

const weighted = (labels) => labels.scores[0];

function weightedScores(sample) {
  return labelsOf(sample).map(([, labels]) => weighted(labels)).filter((score) => score !== null);
}

// How far the models are apart on a sample, whatever model is chosen.
function distance(sample) {
  const scores = (sample.labels[state.judge] || []).map((one) => (one ? weighted(one) : null)).filter((s) => s !== null);
  return scores.length > 1 ? Math.max(...scores) - Math.min(...scores) : 0;
}

function band(score) {
  if (score === null) return 'none';
  return `band-${[2, 3, 4, 4.75].filter((least) => score >= least).length}`;
}

function haystack(sample) {
  if (sample.text === undefined) {
    const parts = [sample.id, sample.category, sample.type];
    for (const text of sample.texts) if (text) parts.push(typeof text === 'string' ? text : text.reason);
    if (sample.truth) {
      parts.push(sample.truth.overall);
      for (const [id, text] of [...sample.truth.primary, ...sample.truth.secondary]) parts.push(id, text);
    }
    sample.text = parts.join('\n').toLowerCase();
  }
  return sample.text;
}

// `wish`: the values of the filters' form. A sample stays when one of its labels fulfils all that is about labels.
function fits(sample, wish) {
  if (wish.set !== '' && sample.set !== Number(wish.set)) return false;
  if (wish.category && sample.category !== wish.category) return false;
  if (wish.type && sample.type !== wish.type) return false;
  if (wish.text && !wish.text.toLowerCase().split(/\s+/).every((word) => haystack(sample).includes(word))) return false;
  if (wish.disagree && distance(sample) < overview.disagree) return false;
  if (state.model >= 0 && sample.texts[state.model] === null) return false;
  const [least, most] = [Number(wish.least), Number(wish.most)];
  const ranged = least > 1 || most < 5;
  if (!ranged && !wish.fault && !wish.unscored) return true;
  return labelsOf(sample).some(([, labels]) => {
    const score = weighted(labels);
    if (ranged && (score === null || score < least || score > most)) return false;
    if (wish.unscored && labels.scores.every((one) => one !== null)) return false;
    if (wish.fault === 'correct') return labels.correct === true;
    if (wish.fault === 'any') return (labels.faults || []).length > 0;
    return !wish.fault || (labels.faults || []).includes(Number(wish.fault));
  });
}

function ordered(indices, order) {
  if (!order) return indices;
  const mean = (sample) => {
    const scores = weightedScores(sample);
    return scores.length ? scores.reduce((a, b) => a + b, 0) / scores.length : null;
  };
  const worth = (sample) => {
    if (order === 'apart') return -distance(sample);
    const score = mean(sample); // samples without a score come last
    return score === null ? Infinity : order === 'low' ? score : -score;
  };
  const keys = new Map(indices.map((i) => [i, worth(samples[i])]));
  return [...indices].sort((a, b) => (keys.get(a) === keys.get(b) ? a - b : keys.get(a) < keys.get(b) ? -1 : 1));
}

// The pictures of a sample as [source, target] data URLs, or null while the file is still being read.
function pictures(index) {
  const holder = byId(`pictures-${index}`);
  // The browser puts a long text into its place piece by piece: it is whole when something follows, or at the end.
  if (!holder || (document.readyState === 'loading' && !holder.nextSibling)) return null;
  return holder.textContent.split(' ').map((text) => {
    const comma = text.indexOf(',');
    return `data:${text.slice(0, comma)};base64,${text.slice(comma + 1)}`;
  });
}

// Calls `use` with the pictures, now or as soon as they are there.
function whenPictures(index, use) {
  const found = pictures(index);
  if (found) use(found);
  else if (document.readyState === 'loading') setTimeout(() => whenPictures(index, use), 50);
}
