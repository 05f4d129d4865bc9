// Words of the draft that are marked, in characters (not in the 16-bit units of JavaScript), and what an edit changed.
const element = (name, text, properties = {}) => Object.assign(document.createElement(name), { textContent: text, ...properties });
const characters = (text) => Array.from(text);

// The selected characters of the draft as {start, end}, or null; blanks at the ends are left out.
const selectedSpan = (draft) => {
  const selection = getSelection();
  if (!selection.rangeCount || selection.isCollapsed) return null;
  const range = selection.getRangeAt(0);
  if (!draft.contains(range.startContainer) || !draft.contains(range.endContainer)) return null;
  const before = document.createRange();
  before.selectNodeContents(draft);
  before.setEnd(range.startContainer, range.startOffset);
  const text = range.toString();
  const start = characters(before.toString()).length + characters(text.match(/^\s*/)[0]).length;
  const length = characters(text.trim()).length;
  return length ? { start, end: start + length } : null;
};

const addSpan = (answer, draft, tag, { start, end }) => {
  answer.spans = answer.spans.filter((span) => span.end <= start || span.start >= end);
  answer.spans.push({ start, end, tag, text: characters(draft).slice(start, end).join('') });
  answer.spans.sort((a, b) => a.start - b.start);
};

// The draft as text and marks; a click on a mark takes it away.
const draftNodes = (draft, spans, remove) => {
  const signs = characters(draft);
  const nodes = [];
  let reached = 0;
  for (const span of spans) {
    nodes.push(signs.slice(reached, span.start).join(''));
    const mark = element('mark', signs.slice(span.start, span.end).join(''), {
      className: `tag-${TAGS.indexOf(span.tag)}`,
      title: `${span.tag}; click to take the mark away`,
    });
    mark.addEventListener('click', () => getSelection().isCollapsed && remove(span));
    nodes.push(mark);
    reached = span.end;
  }
  nodes.push(signs.slice(reached).join(''));
  return nodes;
};

// Longest common subsequence of words: what stays, what was cut, what was added.
const differenceNodes = (before, after) => {
  const split = (text) => text.match(/[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+|\s+/g) || [];
  const a = split(before);
  const b = split(after);
  if (a.length * b.length > 400000) return [element('ins', after)];
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const nodes = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      nodes.push(a[i]);
      i++;
      j++;
    } else if (j >= b.length || (i < a.length && common[i + 1][j] >= common[i][j + 1])) {
      nodes.push(element('del', a[i++]));
    } else {
      nodes.push(element('ins', b[j++]));
    }
  }
  return nodes;
};
