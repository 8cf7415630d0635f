// The ratings form in the browser: keys, focus, and what is sent. It knows the form's marks and nothing of ratings.
(() => {
  let last = null;
  const opened = new Set(); // pictures that this page has uncovered
  const form = () => document.querySelector('#sheet');
  const groups = () => [...document.querySelectorAll('#sheet .item')];
  const field = group => group.querySelector('textarea') || group.querySelector('input:checked') || group.querySelector('input');
  const answered = group => {
    const text = group.querySelector('textarea');
    return text ? !text.required || text.value.trim() !== '' : group.querySelector('input:checked') !== null;
  };
  const covered = () => document.querySelector('#pictures details.cover:not([open]) > summary');
  const point = (group, scroll) => {
    field(group).focus({preventScroll: true});
    if (scroll) group.scrollIntoView({block: 'nearest'});
  };
  // To what comes next: a picture that is still covered, or the first question without an answer.
  const goOn = () => {
    const group = groups().find(each => !answered(each)) || groups()[0];
    const cover = covered();
    if (cover) cover.focus({preventScroll: true});
    else if (group) point(group, false);
    else document.querySelector('#save')?.focus({preventScroll: true});
  };
  // Gradio turns the old form's fields into the new one's: until `begin` has emptied them they hold the last answer.
  const begun = () => form()?.dataset.view === last;
  window.reviewCollect = () => {
    const values = {};
    if (!begun()) return JSON.stringify({serial: '', values});
    for (const [name, value] of new FormData(form())) values[name] = value;
    return JSON.stringify({serial: last, values});
  };
  // The page is drawn some time after its values have come, and part by part: wait until title, pictures and
  // questions are all of the new view. Nothing but a newer view ends the wait, however slow the browser is.
  let waiting = null;
  window.reviewReady = () => {
    clearTimeout(waiting);
    const title = document.querySelector('header[data-view]')?.dataset;
    const isDrawn = title && title.view !== last
      && document.querySelector('#sheet, .done')?.dataset.view === title.view
      && document.querySelector('#pictures')?.dataset.key === title.pictures;
    waiting = isDrawn ? setTimeout(() => begin(title.view), 60) : setTimeout(window.reviewReady, 40);
  };
  const begin = serial => {
    last = serial;
    window.scrollTo(0, 0);
    form()?.reset();
    for (const cover of document.querySelectorAll('#pictures details.cover'))
      if (opened.has(cover.dataset.key)) cover.open = true;
    goOn();
  };
  const choose = (group, key) => {
    const input = group.querySelector(`input[data-key="${key}"]`);
    if (!input) return;
    input.checked = true;
    group.classList.remove('missing');
    const next = groups()[groups().indexOf(group) + 1];
    if (next) return point(next, true);
    (document.querySelector('#comment') || input).focus({preventScroll: true});
    document.querySelector('#save')?.scrollIntoView({block: 'nearest'});
  };
  document.addEventListener('click', event => {
    if (event.target.matches('#pictures img')) event.target.classList.toggle('large');
  });
  // What is clicked before the view has begun would be emptied with the last answers, or be sent for another form.
  document.addEventListener('click', event => {
    if (!form() || begun() || !event.target.closest('#sheet, #buttons')) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }, true);
  document.addEventListener('toggle', event => {
    if (!event.target.matches('#pictures details.cover')) return;
    const {open, dataset} = event.target;
    if (open === opened.has(dataset.key)) return;
    opened[open ? 'add' : 'delete'](dataset.key);
    if (open) goOn();
  }, true);
  for (const kind of ['change', 'input'])
    document.addEventListener(kind, event => event.target.closest('#sheet .item')?.classList.remove('missing'));
  const send = () => {
    const open = groups().filter(group => !answered(group));
    open.forEach(group => group.classList.add('missing'));
    if (open.length) point(open[0], true); else document.querySelector('#save').click();
  };
  document.addEventListener('keydown', event => {
    if (form() && !begun() && form().contains(event.target)) return event.preventDefault();
    if (!form() || event.altKey || event.isComposing || event.repeat) return;
    const target = event.target, typing = target.matches('textarea, input:not([type=radio])');
    const long = target.matches('.text textarea'); // here Enter begins a line
    const held = event.ctrlKey || event.metaKey;
    if (event.key === 'Enter' && long && held) {
      event.preventDefault();
      send();
    } else if (held || long) {
      return;
    } else if (event.key === 'Enter' && !event.shiftKey && !target.matches('button, a, summary')
        && (!typing || form().contains(target))) {
      event.preventDefault();
      send();
    } else if (!typing && /^[1-5yn]$/i.test(event.key)) {
      const group = target.closest('#sheet .item') || groups().find(group => !answered(group));
      if (group) { event.preventDefault(); choose(group, event.key.toLowerCase()); }
    }
  });
})();
