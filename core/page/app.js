// The operator's page: who is logged in, which section is open, and when is looked again.
//
// A look every two seconds while somebody can see the page, none otherwise: an open tab in the
// background costs the gateway nothing.

import { Refused, logIn, logOut, read, whoIsIn } from './api.js';
import { configData, configPage } from './config.js';
import { byId, el, forget, say, show } from './dom.js';
import { attention, overviewPage, queuePage, seen } from './figures.js';
import { turnData, turnPage } from './turn.js';
import { count, language, moment, switchLanguage, t, translate } from './words.js';
import { approvalsData, approvalsPage, feedbackData, feedbackPage, rolloutsData, rolloutsPage } from './work.js';

const INTERVAL = 2000;

/** To a turn; the same one again is looked for again. */
function lookFor(id) {
  const hash = `#turns/${encodeURIComponent(id)}`;
  if (location.hash === hash) openSection();
  else location.hash = hash;
}

let session = null;
let overview = null;
let overviewAt = 0;
// What runs: an answer of `/version`.
let host = null;

/**
 * The sections in their order. `data` gives what is drawn, of the part of the address behind the
 * section's name; `live` ones are looked at again and again, `counted` ones show the overview.
 */
const SECTIONS = {
  overview: { live: true, counted: true, data: async () => ({ overview, overviewAt }), draw: () => overviewPage(overview) },
  rollouts: { live: true, data: rolloutsData, draw: (data) => rolloutsPage(data, refresh) },
  approvals: { live: true, data: approvalsData, draw: (data) => approvalsPage(data, refresh) },
  turns: {
    data: async (id) => ({ id, found: id ? await turnData(id) : null }),
    draw: ({ id, found }) => turnPage(id, found, lookFor),
    // An id that nobody knows still has its search above it.
    failed: (id) => turnPage(id, { id }, lookFor),
  },
  feedback: { data: feedbackData, draw: feedbackPage },
  queue: { live: true, counted: true, data: async () => ({ overview, overviewAt }), draw: () => queuePage(overview) },
  config: { data: configData, draw: (data) => configPage(data, refresh) },
};

/** The open section and what its address says beside. */
function place() {
  const [name, rest = ''] = location.hash.slice(1).split('/', 2);
  return { name: Object.hasOwn(SECTIONS, name) ? name : 'overview', rest: decodeURIComponent(rest) };
}

function drawFrame() {
  translate(document);
  byId('language').textContent = language() === 'en' ? '中文' : 'English';
  byId('login').hidden = session !== null;
  byId('inside').hidden = session === null;
  byId('leave').hidden = session === null;
  byId('who').textContent = session ? [session.name?.slice(0, 8), session.role].filter(Boolean).join(' · ') : '';
  const open = place().name;
  const tabs = Object.keys(SECTIONS).map((name) =>
    el('a', { href: `#${name}`, id: `tab-${name}`, 'aria-current': name === open ? 'page' : null }, t(name)),
  );
  show(byId('tabs'), [open, language()], () => tabs);
}

function drawAttention(trouble) {
  const found = overview ? attention(overview) : [];
  const text = trouble instanceof Refused ? trouble.message : t('unreachable', moment(overviewAt || null));
  if (trouble) found.unshift({ bad: true, text, tab: 'overview' });
  const kindOf = ({ bad }) => (bad ? 'bad' : 'warn');
  const [worst] = found;
  byId('attention').className = `attention ${worst ? kindOf(worst) : 'good'}`;
  // One line, however much there is: what is below may not move away from under a finger.
  const line = () => [found.length > 1 ? el('span', { class: 'many' }, count(found.length)) : null, worst?.text ?? t('allWell')];
  show(byId('worst'), [found.length, worst, language()], line);
  const item = (one) => el('li', { class: kindOf(one) }, el('a', { href: `#${one.tab}` }, one.text));
  show(byId('findings'), [found, language()], () => (found.length ? found.map(item) : el('li', {}, t('allWell'))));
}

/** Draws the open section anew; says what was wrong, and whether the gateway was there. */
async function refresh() {
  const { name, rest } = place();
  const section = SECTIONS[name];
  const main = byId('main');
  const draw = (data, make) => {
    // Somebody may have gone on to another section meanwhile, or left.
    const now = place();
    if (session && now.name === name && now.rest === rest) show(main, [name, language(), data], () => make(data));
  };
  try {
    draw(await section.data(rest), section.draw);
  } catch (error) {
    if (!(error instanceof Refused) || error.status === 401) throw error;
    if (error.status === 404 && section.failed) return draw(rest, section.failed);
    draw(error.status === 404 ? t('absent') : error.message, (text) => [el('h2', {}, t(name)), el('p', { class: 'bad' }, text)]);
  }
}

/** One look at everything that is live. Without an overview the other sections still have theirs. */
async function look() {
  if (!session || document.hidden) return;
  let trouble = null;
  try {
    const found = await read('/v1/admin/overview');
    if (!session) return;
    overview = found;
    overviewAt = Date.now();
    seen(overview, overviewAt);
    host ??= await read('/version');
    const shown = [host.host?.name, host.environment, host.version, overview.config?.version?.slice(0, 8)];
    byId('build').textContent = shown.filter(Boolean).join(' · ');
  } catch (error) {
    if (isOver(error)) return;
    trouble = error;
  }
  await update(trouble);
}

/** Draws what is live, and on top what needs somebody. */
async function update(trouble) {
  const { live, counted } = SECTIONS[place().name];
  try {
    if (counted ? overview && !trouble : live) await refresh();
  } catch (error) {
    if (isOver(error)) return;
    trouble ??= error;
  }
  drawAttention(trouble);
}

/** Whether nobody is logged in any more: then that is shown. */
function isOver(error) {
  if (!(error instanceof Refused) || error.status !== 401) return false;
  if (session) byId('login-failed').textContent = t('timeOver');
  session = null;
  drawFrame();
  return true;
}

async function lookAgain() {
  await look();
  setTimeout(lookAgain, INTERVAL);
}

async function openSection() {
  drawFrame();
  if (!session) return;
  // Until there is something else.
  show(byId('main'), [place(), 'loading'], () => el('p', {}, t('loading')));
  if (SECTIONS[place().name].live) return look();
  try {
    await refresh();
  } catch (error) {
    if (!isOver(error)) drawAttention(error);
  }
}

async function enter(event) {
  event.preventDefault();
  const field = byId('key');
  byId('login-failed').textContent = '';
  try {
    session = await logIn(field.value);
    await openSection();
  } catch (error) {
    const wrong = error instanceof Refused && error.status === 401;
    byId('login-failed').textContent = wrong ? t('wrongKey') : error.message;
  }
  field.value = '';
}

async function leave() {
  try {
    await logOut();
  } catch (error) {
    return say(t('refused', error.message), true);
  }
  session = null;
  overview = null;
  byId('main').replaceChildren();
  forget(byId('main'));
  drawFrame();
}

byId('login').addEventListener('submit', enter);
byId('leave').addEventListener('click', leave);
byId('language').addEventListener('click', () => {
  switchLanguage();
  drawFrame();
  drawAttention(null);
  openSection();
});
addEventListener('hashchange', async () => {
  byId('attention').open = false;
  await openSection();
  byId('main').focus({ preventScroll: true });
});
document.addEventListener('visibilitychange', look);

try {
  session = await whoIsIn();
} catch {
  // Nobody is logged in: the form says what to do.
}
drawFrame();
await openSection();
lookAgain();
