'use strict';

// The token of a one-time link stands in the fragment, which is never sent by
// itself: it goes into the form, and out of the address.
const signIn = document.querySelector('[data-sign-in]');
function redeem() {
  if (location.hash.length < 2) return;
  signIn.elements.token.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, '', location.pathname);
  signIn.requestSubmit();
}
if (signIn) {
  addEventListener('hashchange', redeem);
  redeem();
}

// On a narrow screen the navigation is a strip: show where in it one is.
document.querySelector('[aria-current]')?.scrollIntoView({block: 'nearest', inline: 'center'});

const feed = document.querySelector('[data-feed]');
if (feed) follow(feed);

// follow shows events as they come, a second's together, and has the numbers of
// the page follow them.
function follow(feed) {
  const most = 40, list = feed.querySelector('ol'), item = feed.querySelector('template');
  const state = feed.querySelector('[data-feed-state]'), pause = feed.querySelector('button');
  let waiting = [], paused = false, stale = false;

  pause.hidden = false;
  pause.addEventListener('click', () => {
    paused = !paused;
    pause.setAttribute('aria-pressed', paused);
    pause.textContent = paused ? 'Go on' : 'Pause';
  });

  const source = new EventSource('/v1/events');
  source.addEventListener('open', () => { state.textContent = 'Connected: events show here as they happen.'; state.dataset.feedState = 'open'; });
  source.addEventListener('error', () => {
    state.dataset.feedState = '';
    state.textContent = source.readyState === EventSource.CLOSED ? 'Not connected. Load the page again.' : 'Connection lost. It is tried again.';
  });
  for (const kind of feed.dataset.feed.split(' ')) {
    source.addEventListener(kind, (event) => {
      waiting = waiting.concat(JSON.parse(event.data)).slice(-most);
      stale = true;
    });
  }

  setInterval(() => {
    if (paused || waiting.length === 0) return;
    for (const event of waiting) list.prepend(entry(item, event));
    while (list.children.length > most) list.lastElementChild.remove();
    waiting = [];
  }, 1000);
  setInterval(() => {
    if (!stale || paused || document.hidden) return;
    stale = false;
    refresh();
  }, 10000);
}

// entry returns the item of an event. All of it is text.
function entry(item, event) {
  const made = item.content.cloneNode(true).firstElementChild;
  const time = made.querySelector('time');
  made.dataset.kind = event.kind;
  made.querySelector('strong').textContent = event.code || event.kind;
  made.querySelector('p span').textContent = [event.enrolee || event.who, event.what].filter(Boolean).join(': ').replace(/\b[0-9a-f]{64}\b/g, (digest) => digest.slice(0, 12) + '…');
  time.dateTime = event.time;
  time.textContent = event.time.slice(11, 19);
  return made;
}

// refresh takes up what the server shows now, but where somebody is reading.
async function refresh() {
  const response = await fetch('/', {headers: {Accept: 'text/html'}});
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), 'text/html');
  for (const part of document.querySelectorAll('[data-live]')) {
    const now = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (now && !part.contains(document.activeElement) && !part.querySelector('details[open]')) part.replaceWith(now);
  }
}
