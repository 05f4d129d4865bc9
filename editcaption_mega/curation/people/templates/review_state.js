// What was answered: kept in the browser after each change, read from and written to files of lines.
const data = JSON.parse(document.getElementById('data').textContent);
const { form, tasks } = data;
const KEY = `editcaption-review:${data.batch}`;
const TAGS = Object.keys(form.tags);
const SEVERITIES = Object.keys(form.severities);
const MOST_IDLE_SECONDS = 60; // without a key or a click the clock of a task stands still

const places = new Map(tasks.map((task, at) => [task.task, at]));
const state = { annotator: '', answers: {}, at: 0 };

const answerOf = (at) => {
  const name = tasks[at].task;
  if (!Object.hasOwn(state.answers, name)) {
    state.answers[name] = { verdict: null, text: tasks[at].text, tags: [], severity: null, spans: [], remark: '', seconds: 0, time: null };
  }
  return state.answers[name];
};

const load = () => {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) || 'null');
    if (kept && typeof kept.annotator === 'string' && kept.answers && typeof kept.answers === 'object') {
      state.annotator = kept.annotator;
      for (const [name, answer] of Object.entries(kept.answers)) {
        if (places.has(name)) Object.assign(answerOf(places.get(name)), answer);
      }
      state.at = Math.min(Math.max(0, kept.at | 0), tasks.length - 1);
    }
    return true;
  } catch {
    return false;
  }
};

const keep = () => {
  try {
    localStorage.setItem(KEY, JSON.stringify(state));
    return true;
  } catch {
    return false;
  }
};

const words = (text) => text.normalize('NFKC').toLowerCase().replace(/\s+/g, ' ').trim().replace(/[.。\s]+$/, '');
const hasWords = (text) => /[\p{L}\p{N}]/u.test(text);
const isChanged = (at) => words(answerOf(at).text) !== words(tasks[at].text);

// What an answer still lacks, in words; none: it can be saved. The importer checks the same and has the last word.
const lacks = (at) => {
  const answer = answerOf(at);
  if (!answer.verdict) return ['a verdict'];
  if (answer.verdict === 'unusable') return hasWords(answer.remark) ? [] : ['a remark that says why'];
  if (answer.verdict === 'already_correct') return isChanged(at) ? ['the draft as it was, or another verdict: you changed the text'] : [];
  const missing = [];
  if (!hasWords(answer.text)) missing.push('a text');
  else if (!isChanged(at)) missing.push('a change of the text (case and blanks do not count)');
  if (!answer.tags.length) missing.push('what was wrong');
  if (SEVERITIES.length && !answer.severity) missing.push('a severity');
  return missing;
};

const isBegun = (at) => {
  const answer = state.answers[tasks[at].task];
  return Boolean(answer && (answer.verdict || answer.tags.length || answer.remark || answer.text !== tasks[at].text));
};
const isDone = (at) => isBegun(at) && lacks(at).length === 0;
const doneCount = () => tasks.filter((_, at) => isDone(at)).length;

const lineOf = (at) => {
  const task = tasks[at];
  const answer = answerOf(at);
  const line = { task: task.task, annotator: state.annotator.trim(), verdict: answer.verdict };
  if (answer.verdict === 'corrected') {
    line.text = answer.text.trim();
    line.tags = answer.tags;
    if (answer.severity) line.severity = answer.severity;
    const spans = answer.spans.filter((span) => answer.tags.includes(span.tag));
    if (spans.length) line.spans = spans;
  }
  if (answer.remark.trim()) line.remark = answer.remark.trim();
  line.pictures = [task.source_sha256, task.target_sha256];
  line.seconds = Math.round(answer.seconds * 10) / 10;
  if (answer.time) line.time = answer.time;
  return line;
};

const takeLine = (line) => {
  if (!line || !places.has(line.task)) return false;
  const answer = answerOf(places.get(line.task));
  const strings = (list) => (Array.isArray(list) ? list : []);
  answer.verdict = Object.hasOwn(form.verdicts, line.verdict) ? line.verdict : null;
  answer.text = typeof line.text === 'string' ? line.text : tasks[places.get(line.task)].text;
  answer.tags = strings(line.tags).filter((tag) => TAGS.includes(tag));
  answer.severity = SEVERITIES.includes(line.severity) ? line.severity : null;
  answer.spans = [];
  for (const span of strings(line.spans)) {
    if (TAGS.includes(span?.tag) && span.start >= 0 && span.end > span.start) addSpan(answer, tasks[places.get(line.task)].text, span.tag, span);
  }
  answer.remark = typeof line.remark === 'string' ? line.remark : '';
  answer.seconds = Number(line.seconds) || 0;
  answer.time = typeof line.time === 'string' ? line.time : null;
  if (typeof line.annotator === 'string' && !state.annotator) state.annotator = line.annotator;
  return true;
};
