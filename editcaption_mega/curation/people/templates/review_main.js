// What a person does: choose, mark, edit, go on, save.
let lastTouch = performance.now();
const touch = () => {
  const now = performance.now();
  if (document.visibilityState === 'visible') answerOf(state.at).seconds += Math.min((now - lastTouch) / 1000, MOST_IDLE_SECONDS);
  lastTouch = now;
};

const changed = () => {
  touch();
  answerOf(state.at).time = new Date().toISOString();
  showAnswer();
  if (!keep()) notice('This browser keeps nothing for files on disk: save often.');
};

const go = (at) => {
  if (at < 0 || at >= tasks.length) return;
  touch();
  state.at = at;
  overlay(false);
  showTask();
  keep();
  scrollTo(0, 0);
};

const goToUndone = () => {
  const order = tasks.map((_, i) => (state.at + 1 + i) % tasks.length);
  const next = order.find((at) => !isDone(at));
  if (next === undefined) notice('All tasks of this page are done: save them.', true);
  else go(next);
};

const chooseVerdict = (verdict) => {
  const answer = answerOf(state.at);
  answer.verdict = answer.verdict === verdict ? null : verdict;
  changed();
};
const chooseSeverity = (severity) => {
  const answer = answerOf(state.at);
  answer.severity = answer.severity === severity ? null : severity;
  if (!answer.verdict) answer.verdict = 'corrected';
  changed();
};
const chooseTag = (tag) => {
  const answer = answerOf(state.at);
  const span = selectedSpan(get('draft'));
  if (span) {
    addSpan(answer, tasks[state.at].text, tag, span);
    getSelection().removeAllRanges();
  }
  if (!answer.tags.includes(tag)) answer.tags.push(tag);
  else if (!span) {
    answer.tags = answer.tags.filter((other) => other !== tag);
    answer.spans = answer.spans.filter((other) => other.tag !== tag);
  }
  if (!answer.verdict) answer.verdict = 'corrected';
  changed();
};

const save = () => {
  const done = tasks.map((_, at) => at).filter(isDone);
  const begun = tasks.filter((_, at) => isBegun(at) && !isDone(at)).length;
  if (!hasWords(state.annotator)) {
    notice('Give a pseudonym first: answers are filed under it.');
    get('annotator').focus();
    return;
  }
  if (state.annotator.includes('@')) {
    notice('A pseudonym, please, and no e-mail address: it stands in the data.');
    return;
  }
  if (!done.length) {
    notice('No task is done yet, so there is nothing to save.');
    return;
  }
  const lines = done.map((at) => JSON.stringify(lineOf(at)) + '\n').join('');
  const link = element('a', '', { href: URL.createObjectURL(new Blob([lines], { type: 'application/jsonl' })) });
  const safe = state.annotator.trim().replace(/[^\p{L}\p{N}_-]+/gu, '_');
  link.download = `answers-${form.form}-${data.batch}-${safe}.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  const left = begun ? ` ${begun} begun, but not done, ${begun === 1 ? 'is' : 'are'} not in it.` : '';
  notice(`${done.length} answer${done.length === 1 ? '' : 's'} saved as ${link.download}.${left}`, true);
};

const open = async (file) => {
  let taken = 0;
  let other = 0;
  for (const text of (await file.text()).split('\n')) {
    if (!text.trim()) continue;
    let line = null;
    try {
      line = JSON.parse(text);
    } catch {
      // counted below
    }
    if (takeLine(line)) taken++;
    else other++;
  }
  get('annotator').value = state.annotator;
  keep();
  showTask();
  notice(`${taken} answers taken up${other ? `; ${other} lines are not of this page` : ''}.`, !other);
};

const inField = (target) => ['TEXTAREA', 'INPUT'].includes(target.tagName);
const keys = {
  s: save, e: () => get('text').focus(), n: () => go(state.at + 1), b: () => go(state.at - 1), Enter: goToUndone,
  '?': () => get('help').click(),
};
for (const [place, verdict] of Object.keys(form.verdicts).entries()) keys[String(place + 1)] = () => chooseVerdict(verdict);
for (const [place, severity] of SEVERITIES.entries()) keys[String(place + 7)] = () => chooseSeverity(severity);
for (const [place, tag] of TAGS.entries()) keys[String(place + 4)] = () => chooseTag(tag);

addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && inField(event.target)) return event.target.blur();
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) return goToUndone();
  if (event.ctrlKey || event.metaKey || event.altKey || inField(event.target) || get('large').open) return undefined;
  if (event.key === 'f' || event.key === ' ') {
    event.preventDefault();
    return overlay(true);
  }
  if (event.key === 'Enter' && event.target.tagName === 'BUTTON') return undefined;
  if (Object.hasOwn(keys, event.key)) {
    event.preventDefault();
    keys[event.key]();
  }
  return undefined;
});
addEventListener('keyup', (event) => (event.key === 'f' || event.key === ' ') && overlay(false));
addEventListener('blur', () => overlay(false));
addEventListener('pagehide', () => {
  touch();
  keep();
});

for (const [at] of tasks.entries()) {
  const button = element('button', String(at + 1), { type: 'button' });
  button.addEventListener('click', () => go(at));
  get('list').append(button);
}
for (const button of buttons('[data-verdict]')) button.addEventListener('click', () => chooseVerdict(button.dataset.verdict));
for (const button of buttons('[data-severity]')) button.addEventListener('click', () => chooseSeverity(button.dataset.severity));
for (const button of buttons('[data-tag]')) {
  button.addEventListener('mousedown', (event) => event.preventDefault()); // keeps what is selected
  button.addEventListener('click', () => chooseTag(button.dataset.tag));
}
for (const name of ['text', 'remark']) {
  get(name).addEventListener('input', () => {
    const answer = answerOf(state.at);
    answer[name] = get(name).value;
    if (name === 'text' && !answer.verdict && isChanged(state.at)) answer.verdict = 'corrected';
    changed();
  });
}
for (const id of ['picture-1', 'picture-2']) {
  get(id).addEventListener('click', () => {
    get('large').firstElementChild.src = get(id).firstElementChild.src;
    get('large').showModal();
  });
}
get('large').addEventListener('click', () => get('large').close());
get('annotator').addEventListener('input', () => {
  state.annotator = get('annotator').value;
  keep();
});
get('save').addEventListener('click', save);
get('open').addEventListener('click', () => get('file').click());
get('file').addEventListener('change', () => get('file').files.length && open(get('file').files[0]));
get('help').addEventListener('click', () => {
  get('keys').hidden = !get('keys').hidden;
  get('help').setAttribute('aria-expanded', String(!get('keys').hidden));
});
get('next').addEventListener('click', () => go(state.at + 1));
get('back').addEventListener('click', () => go(state.at - 1));
get('todo').addEventListener('click', goToUndone);

if (!load()) notice('This browser keeps nothing for files on disk: save often.');
get('annotator').value = state.annotator;
showTask();
