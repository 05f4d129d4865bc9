// The cards of mended and broken pairs: a card's pictures are filled in when it comes near the view.
function fillCard(card) {
  whenPictures(Number(card.dataset.sample), (urls) => {
    card.querySelectorAll('img').forEach((image, i) => {
      image.addEventListener('load', () => image.classList.toggle('crisp', image.naturalWidth < 200));
      image.src = urls[i];
    });
  });
}

const cardsInView = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) {
      cardsInView.unobserve(target);
      fillCard(target);
    }
  }
}, { rootMargin: '300px' });
document.querySelectorAll('.pair-card').forEach((card) => cardsInView.observe(card));
