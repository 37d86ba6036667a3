// What is counted: rates and times of each profile over the last minutes, queues and breakers, and
// what of it needs a person. Counters come as totals; rates are differences between two looks.

import { el } from './dom.js';
import { lines, share } from './plot.js';
import { count, moment, ms, percent, rate, t } from './words.js';

/** How long is drawn at most, and how long is said in numbers (and drawn at least), in seconds. */
const DRAWN = 300;
const SAID = 60;
// From so many requests in the last minute on a share says something.
const ENOUGH = 5;
const COUNTERS = ['requests', 'errors', 'timeouts', 'refusals', 'rejected', 'fallbacks', 'schemaFailures', 'cacheHits', 'tokens'];

/** Looks at the overview, the oldest first. */
const looks = [];

/** One more look; `at` is this browser's time, in milliseconds. */
export function seen(overview, at) {
  looks.push({ at, overview });
  while (looks.length && at - looks[0].at > (DRAWN + 10) * 1000) looks.shift();
}

/** How long there is something to draw. */
const drawn = () => Math.min(DRAWN, Math.max(SAID, (looks.at(-1).at - looks[0].at) / 1000));

// Which side of a rollout a profile is on.
const SIDES = { running: 'old', candidate: 'new' };

/** A profile, and what it is to a rollout. */
export const nameOf = ({ profile, version }) => [profile, version && t(SIDES[version] ?? version)].filter(Boolean).join(' · ');
const keyOf = ({ profile }) => profile;
const find = (look, key) => look.overview.profiles?.find((one) => keyOf(one) === key);

/** What a counter grew by between two looks; a host that began anew counts from zero. */
function grown(before, after, counter) {
  const [from, to] = [before?.[counter] ?? 0, after?.[counter] ?? 0];
  return to >= from ? to - from : to;
}

/** Pairs of seconds ago and growth per second. */
function rates(key, counter) {
  const newest = looks.at(-1)?.at;
  return looks.slice(1).map((look, index) => {
    const before = looks[index];
    const seconds = (look.at - before.at) / 1000;
    const value = seconds > 0 && seconds < 15 ? grown(find(before, key), find(look, key), counter) / seconds : null;
    return [(newest - look.at) / 1000, value];
  });
}

/** Pairs of seconds ago and a time in milliseconds. */
function times(key, kind, quantile) {
  const newest = looks.at(-1)?.at;
  return looks.map((look) => [(newest - look.at) / 1000, find(look, key)?.[kind]?.[quantile] ?? null]);
}

/** What counters grew by in the last minute, and in how many seconds that was. */
function lately(of, counters) {
  const last = looks.at(-1);
  const from = looks.findIndex((look) => last.at - look.at <= SAID * 1000);
  const span = looks.slice(from);
  const sums = { seconds: (last.at - span[0].at) / 1000 };
  for (const counter of counters) {
    sums[counter] = span.slice(1).reduce((sum, look, at) => sum + grown(of(span[at]), of(look), counter), 0);
  }
  return sums;
}

const recent = (key) => lately((look) => find(look, key), COUNTERS);

/** Turns that came to nothing, by a fault or by the clock. */
const failures = ({ errors, timeouts }) => errors + timeouts;

const figure = (name, value, kind = '') =>
  el('div', { class: `figure ${kind}` }, el('dt', {}, name), el('dd', {}, value));

function profileCard(profile) {
  const key = keyOf(profile);
  const sums = recent(key);
  const of = (part) => (sums.requests ? percent(part / sums.requests) : '–');
  const title = nameOf(profile);
  const { latencyMs = {}, firstTokenMs = {} } = profile;
  const counters = [
    { name: t('requests'), kind: 'a', values: rates(key, 'requests') },
    { name: t('errors'), kind: 'bad', values: rates(key, 'errors') },
    { name: t('timeouts'), kind: 'c', values: rates(key, 'timeouts') },
    { name: t('fallbacks'), kind: 'warn', values: rates(key, 'fallbacks') },
  ];
  const clocks = [
    { name: 'p50', kind: 'a', values: times(key, 'latencyMs', 'p50') },
    { name: 'p95', kind: 'b', values: times(key, 'latencyMs', 'p95') },
    { name: 'p99', kind: 'c', values: times(key, 'latencyMs', 'p99') },
    { name: t('firstToken'), kind: 'dash', values: times(key, 'firstTokenMs', 'p95') },
  ];
  const spoken = `${title}: p50 ${ms(latencyMs.p50)}, p95 ${ms(latencyMs.p95)}, p99 ${ms(latencyMs.p99)}`;
  const totals = COUNTERS.map((name) => `${t(name)} ${count(profile[name])}`).join(' · ');
  return el(
    'article',
    { class: 'card', 'data-profile': profile.profile },
    el('h3', {}, title),
    el(
      'dl',
      { class: 'figures' },
      figure(t('requests'), sums.seconds ? rate(sums.requests / sums.seconds) : '–'),
      figure(t('errors'), of(failures(sums)), failures(sums) ? 'bad' : ''),
      figure(t('refusals'), of(sums.refusals)),
      figure(t('fallbacks'), of(sums.fallbacks), sums.fallbacks ? 'warn' : ''),
      figure('p50', ms(latencyMs.p50)),
      figure('p95', ms(latencyMs.p95)),
      figure('p99', ms(latencyMs.p99)),
      figure(t('firstToken'), ms(firstTokenMs.p95)),
    ),
    el('h4', {}, t('rates')),
    lines(counters, (value) => rate(value), `${title}: ${t('rates')}: ${rate(sums.requests / (sums.seconds || 1))}`, drawn()),
    el('h4', {}, t('latency')),
    lines(clocks, ms, spoken, drawn()),
    el('p', { class: 'muted totals' }, totals),
  );
}

/** The overview; the busiest profile first, one in trouble before that. */
export function overviewPage(overview) {
  const weight = (profile) => {
    const sums = recent(keyOf(profile));
    return (failures(sums) + sums.fallbacks) * 1000 + sums.requests;
  };
  const profiles = [...(overview.profiles ?? [])].sort((a, b) => weight(b) - weight(a));
  return [
    el('h2', {}, t('overview')),
    el(
      'p',
      { class: 'muted' },
      `${t('lastMinute')} · `,
      t('sinceStart', moment(overview.startedAt)),
      looks.length < 2 ? ` · ${t('waitForSecond')}` : '',
    ),
    profiles.length ? el('div', { class: 'cards' }, profiles.map(profileCard)) : el('p', {}, t('noTurns')),
  ];
}

/** The name of a breaker's state; it may come as a number. */
const breakerOf = ({ breaker }) => ['closed', 'half_open', 'open'][breaker] ?? breaker ?? 'closed';

/** Upstreams, tools and signs of abuse. */
export function queuePage(overview) {
  const upstreams = overview.upstreams ?? [];
  const most = Math.max(1, ...upstreams.map((one) => (one.running ?? 0) + (one.waiting ?? 0)));
  const row = (one) =>
    el(
      'tr',
      {},
      el('th', { scope: 'row' }, one.name),
      el('td', {}, count(one.running), share((one.running ?? 0) / most, 'a', t('running'))),
      el('td', {}, count(one.waiting), share((one.waiting ?? 0) / most, 'warn', t('waiting'))),
      el('td', { class: breakerOf(one) === 'closed' ? '' : 'bad' }, t(breakerOf(one))),
    );
  const tool = (one) =>
    el(
      'tr',
      {},
      el('th', { scope: 'row' }, one.tool),
      el('td', {}, count(one.calls)),
      el('td', { class: one.failures ? 'bad' : '' }, count(one.failures)),
      el('td', {}, share(one.calls ? one.failures / one.calls : 0, 'bad', t('failures'))),
    );
  const signs = Object.entries(overview.abuse ?? {});
  return [
    el('h2', {}, t('queue')),
    table([t('upstreams'), t('running'), t('waiting'), t('breaker')], upstreams.map(row)),
    el('h2', {}, t('tools')),
    table([t('tools'), t('calls'), t('failures'), ''], (overview.tools ?? []).map(tool)),
    el('h2', {}, t('abuse')),
    el('dl', { class: 'figures' }, signs.map(([name, value]) => figure(t(name), count(value)))),
  ];
}

/** A table with a head; it scrolls by itself where it is too wide. */
export const table = (names, rows) =>
  el(
    'div',
    { class: 'wide', tabindex: '0', role: 'region', 'aria-label': names[0] },
    el(
      'table',
      {},
      el('thead', {}, el('tr', {}, names.map((name) => el('th', { scope: 'col' }, name)))),
      el('tbody', {}, rows.length ? rows : el('tr', {}, el('td', { colspan: names.length }, '–'))),
    ),
  );

/** What needs a person, the worst first: `{bad, text, tab}`. */
export function attention(overview) {
  const found = [];
  const note = (bad, tab, text) => found.push({ bad, tab, text });
  for (const one of overview.upstreams ?? []) {
    const state = breakerOf(one);
    if (state !== 'closed') note(state === 'open', 'queue', t('breakerOpen', one.name, t(state)));
    if (one.waiting > Math.max(3, one.running)) note(false, 'queue', t('queueLong', one.name, count(one.waiting)));
  }
  for (const profile of overview.profiles ?? []) {
    const sums = recent(keyOf(profile));
    if (sums.requests < ENOUGH) continue;
    const failing = failures(sums) / sums.requests;
    const falling = sums.fallbacks / sums.requests;
    if (failing >= 0.02) note(failing >= 0.1, 'overview', t('failing', nameOf(profile), percent(failing)));
    if (falling >= 0.1) note(false, 'overview', t('falling', nameOf(profile), percent(falling)));
  }
  for (const { tool } of overview.tools ?? []) {
    const sums = lately((look) => look.overview.tools?.find((one) => one.tool === tool), ['calls', 'failures']);
    const failing = sums.failures / sums.calls;
    if (sums.calls >= ENOUGH && failing >= 0.1) note(failing >= 0.5, 'queue', t('toolFails', tool, percent(failing)));
  }
  for (const { intent, state, finding } of overview.rollouts ?? []) {
    const what = finding?.what ?? finding;
    if (state === 'rolled_back' && what) note(true, 'rollouts', t('rolledBack', intent, t(what)));
  }
  if (overview.approvals) note(false, 'approvals', t('toApprove', count(overview.approvals)));
  return found.sort((a, b) => b.bad - a.bad);
}
