// The ratings form in the browser: keys, focus, and what is sent. It knows the form's marks and nothing of ratings.
(() => {
  let last = null;
  const form = () => document.querySelector('#sheet');
  const groups = () => [...document.querySelectorAll('#sheet .item')];
  const answered = group => group.querySelector('input:checked');
  const point = (group, scroll) => {
    (answered(group) || group.querySelector('input')).focus({preventScroll: true});
    if (scroll) group.scrollIntoView({block: 'nearest'});
  };
  window.reviewCollect = () => {
    const values = {};
    if (form()) for (const [name, value] of new FormData(form())) values[name] = value;
    return JSON.stringify({serial: form() ? form().dataset.serial : '', values});
  };
  // The page is drawn some time after its values have come, so wait until the new view is really there.
  const drawn = serial => {
    if (serial.includes('-rate-')) return form()?.dataset.serial === serial;
    if (serial.includes('-diagnose-')) return !form() && document.querySelector('#own textarea, #own input');
    return true;
  };
  window.reviewReady = () => {
    const until = Date.now() + 30000;
    const look = () => {
      const serial = document.querySelector('[data-view]')?.dataset.view;
      if (serial && serial !== last && drawn(serial)) setTimeout(() => begin(serial), 60);
      else if (Date.now() < until) setTimeout(look, 40);
    };
    look();
  };
  const begin = serial => {
    if (serial === last) return;
    last = serial;
    window.scrollTo(0, 0);
    if (!form()) return document.querySelector('#own textarea, #own input')?.focus({preventScroll: true});
    form().reset();
    point(groups().find(group => !answered(group)) || groups()[0], false);
  };
  const choose = (group, key) => {
    const input = group.querySelector(`input[data-key="${key}"]`);
    if (!input) return;
    input.checked = true;
    group.classList.remove('missing');
    const next = groups()[groups().indexOf(group) + 1];
    if (next) return point(next, true);
    document.querySelector('#sheet textarea').focus({preventScroll: true});
    document.querySelector('#save')?.scrollIntoView({block: 'nearest'});
  };
  document.addEventListener('click', event => {
    if (event.target.matches('#pictures img')) event.target.classList.toggle('large');
  });
  document.addEventListener('change', event => event.target.closest('#sheet .item')?.classList.remove('missing'));
  document.addEventListener('keydown', event => {
    if (!form() || event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat)
      return;
    const target = event.target, typing = target.matches('textarea, input:not([type=radio])');
    if (event.key === 'Enter' && !event.shiftKey && !target.matches('button, a') && (!typing || form().contains(target))) {
      event.preventDefault();
      const open = groups().filter(group => !answered(group));
      open.forEach(group => group.classList.add('missing'));
      if (open.length) point(open[0], true); else document.querySelector('#save').click();
    } else if (!typing && /^[1-5yn]$/i.test(event.key)) {
      const group = target.closest('#sheet .item') || groups().find(group => !answered(group));
      if (group) { event.preventDefault(); choose(group, event.key.toLowerCase()); }
    }
  });
})();
