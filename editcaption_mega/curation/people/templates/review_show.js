// What is on the screen: one task, the list of all, and what the answer still lacks. Texts are set as text alone.
const get = (id) => document.getElementById(id);
const buttons = (selector) => [...document.querySelectorAll(selector)];

const pictureUrls = (at) =>
  get(`pictures-${at}`).textContent.trim().split(' ').map((text) => {
    const comma = text.indexOf(',');
    return `data:${text.slice(0, comma)};base64,${text.slice(comma + 1)}`;
  });

const notice = (text, isGood = false) => {
  get('notice').textContent = text;
  get('notice').className = isGood ? 'good' : '';
  get('notice').hidden = !text;
};

const showList = () => {
  for (const [at, button] of buttons('#list button').entries()) {
    button.className = isDone(at) ? 'done' : isBegun(at) ? 'begun' : '';
    button.setAttribute('aria-current', String(at === state.at));
  }
  get('progress').textContent = `${doneCount()} of ${tasks.length} done`;
};

const showAnswer = () => {
  const { at } = state;
  const answer = answerOf(at);
  get('draft').replaceChildren(
    ...draftNodes(tasks[at].text, answer.spans, (span) => {
      answer.spans = answer.spans.filter((other) => other !== span);
      changed();
    }),
  );
  for (const button of buttons('[data-verdict]')) button.setAttribute('aria-checked', String(button.dataset.verdict === answer.verdict));
  for (const button of buttons('[data-severity]')) button.setAttribute('aria-checked', String(button.dataset.severity === answer.severity));
  for (const button of buttons('[data-tag]')) {
    const place = answer.tags.indexOf(button.dataset.tag);
    button.setAttribute('aria-pressed', String(place >= 0));
    button.querySelector('i').textContent = place === 0 && answer.tags.length > 1 ? '(the main one)' : '';
  }
  get('corrected').className = answer.verdict && answer.verdict !== 'corrected' ? 'off' : '';
  get('difference').replaceChildren(...(isChanged(at) ? differenceNodes(tasks[at].text, answer.text) : []));
  const missing = isBegun(at) ? lacks(at) : [];
  get('missing').textContent = missing.length ? `Still needed: ${missing.join('; ')}.` : isDone(at) ? 'Done.' : '';
  get('missing').className = isDone(at) ? 'done' : '';
  showList();
};

const showTask = () => {
  const { at } = state;
  const answer = answerOf(at);
  const [source, target] = pictureUrls(at);
  get('picture-1').firstElementChild.src = source;
  get('picture-2').firstElementChild.src = target;
  get('picture-1').dataset.over = target;
  get('picture-1').dataset.own = source;
  get('pair').textContent = `task ${at + 1}, pair ${tasks[at].pair}`;
  get('hints').textContent = tasks[at].hints.join('; ');
  get('hints').hidden = !tasks[at].hints.length;
  get('text').value = answer.text;
  get('remark').value = answer.remark;
  showAnswer();
  buttons('#list button')[at].scrollIntoView({ block: 'nearest' });
};

// Picture 2 over picture 1: what moved is seen.
const overlay = (isOver) => {
  const box = get('picture-1');
  box.firstElementChild.src = isOver ? box.dataset.over : box.dataset.own;
  box.classList.toggle('over', isOver);
};
