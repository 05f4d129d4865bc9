// Source and target: a slider, a flip, or side by side.
const compare = byId('compare');
const stage = byId('stage');
const cut = byId('cut');

function moveCut(percent) {
  cut.value = String(percent);
  stage.style.setProperty('--cut', `${cut.value}%`);
}

function setMode(mode) {
  compare.dataset.mode = mode;
  for (const button of compare.querySelectorAll('button[data-mode]')) {
    button.setAttribute('aria-pressed', String(button.dataset.mode === mode));
  }
  tellShown();
}

function flip() {
  const to = compare.dataset.mode === 'flip' && compare.dataset.shows === 'source' ? 'target' : 'source';
  compare.dataset.shows = to;
  setMode('flip');
}

function tellShown() {
  byId('shown').textContent = compare.dataset.mode === 'flip' ? `shown: ${compare.dataset.shows}` : '';
}

function showPictures(index) {
  const sample = samples[index];
  const images = ['source', 'target'].map(byId);
  images.forEach((image) => {
    image.removeAttribute('src');
    image.alt = `${image.id} picture of ${sample.id}`;
  });
  whenPictures(index, (urls) => {
    if (state.current !== index) return;
    images.forEach((image, i) => { image.src = urls[i]; });
  });
}

for (const image of [byId('source'), byId('target')]) {
  image.addEventListener('load', () => {
    image.classList.toggle('crisp', image.naturalWidth < 200);
    if (image.id === 'source') stage.style.setProperty('--ratio', (image.naturalWidth / image.naturalHeight).toFixed(4));
  });
}
for (const button of compare.querySelectorAll('button[data-mode]')) {
  button.addEventListener('click', () => (button.dataset.mode === 'flip' ? flip() : setMode(button.dataset.mode)));
}
cut.addEventListener('input', () => moveCut(cut.value));

function cutAt(event) {
  const box = stage.getBoundingClientRect();
  moveCut(Math.round((100 * (event.clientX - box.left)) / box.width));
}
stage.addEventListener('pointerdown', (event) => {
  if (compare.dataset.mode !== 'slider') return;
  stage.setPointerCapture(event.pointerId);
  cutAt(event);
});
stage.addEventListener('pointermove', (event) => {
  if (compare.dataset.mode === 'slider' && stage.hasPointerCapture(event.pointerId)) cutAt(event);
});
stage.addEventListener('click', () => { if (compare.dataset.mode === 'flip') flip(); });
