// The whole story of a turn: found by its trace id, drawn as stages, told as decisions.

import { ask } from './api.js';
import { el, say } from './dom.js';
import { timeline } from './plot.js';
import { pretty, visible } from './texts.js';
import { moment, ms, t } from './words.js';

export const PATH = '/v1/admin/trace/';

/** What is known of an id: its text too, which is shown as it is. */
export async function turnData(id) {
  const text = await ask('GET', PATH + encodeURIComponent(id));
  return { id, text, ...JSON.parse(text) };
}

/** The search, and below it what was found; `open` is called with an id to look for. */
export function turnPage(id, found, open) {
  const input = el('input', {
    id: 'trace', name: 'trace', value: id, autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', required: true,
  });
  const submit = (event) => {
    event.preventDefault();
    open(input.value.trim());
  };
  const form = el(
    'form',
    { id: 'search', class: 'row', role: 'search', onsubmit: submit },
    el('label', { for: 'trace' }, t('traceId')),
    input,
    el('button', { type: 'submit', class: 'main' }, t('find')),
  );
  return [el('h2', {}, t('turns')), form, el('p', { class: 'muted' }, t('findHelp')), found ? story(found) : null];
}

function story(found) {
  // A ledger's line has its record in it.
  const records = (found.records ?? []).map((line) => line.record ?? line);
  if (!records.length && !found.turn) return el('p', { id: 'story', 'data-found': '0' }, t('nothingFound', found.id));
  return el(
    'section',
    { id: 'story', 'data-found': String(records.length) },
    records.length ? [el('h3', {}, t('stages')), stages(records)] : null,
    el('h3', {}, t('records')),
    el('ol', { class: 'plain' }, records.map(record)),
    found.turn ? [el('h3', {}, t('turnNow')), el('pre', { tabindex: '0' }, pretty(JSON.stringify(found.turn)))] : null,
    found.feedback?.length ? [el('h3', {}, t('feedback')), el('ul', {}, found.feedback.map(opinion))] : null,
    replay(found.id),
    el('details', { id: 'raw' }, el('summary', {}, t('asItIs')), el('pre', { tabindex: '0' }, pretty(found.text))),
  );
}

/** A record's end is its time; what it took lies before that. */
function span(record) {
  const end = Date.parse(record.at);
  return { begin: end - (record.ms ?? 0), end };
}

const titleOf = (record) => [record.kind, record.part, record.status, record.code].filter((part) => part !== undefined && part !== null).join(' · ');

function stages(records) {
  const timed = records.filter((one) => !Number.isNaN(Date.parse(one.at)));
  const zero = Math.min(...timed.map((one) => span(one).begin));
  const rows = timed.map((one) => {
    const { begin, end } = span(one);
    const [from, to] = [begin - zero, end - zero];
    const { queuedMs, upstreamMs } = one.times ?? {};
    const asked = Math.min(to, from + (queuedMs ?? 0));
    const first = Math.min(to, asked + (upstreamMs ?? 0));
    const part = (begins, ends, kind, name) => ({ from: begins, to: ends, kind, name: `${name}: ${ms(ends - begins)}` });
    const parts = [];
    if (asked > from) parts.push(part(from, asked, 'queued', t('queued')));
    if (first > asked) parts.push(part(asked, first, 'model', t('toFirst')));
    if (to > first || !parts.length) parts.push(part(first, to, one.code ? 'bad' : 'a', t('rest')));
    return { name: `${titleOf(one)} · ${ms(one.ms)}`, parts };
  });
  const legend = [['queued', 'queued'], ['model', 'toFirst'], ['a', 'rest']];
  return el(
    'figure',
    {},
    timeline(rows, ms, rows.map(({ name }) => name).join('; ')),
    el('figcaption', { class: 'legend' }, legend.map(([kind, name]) => el('span', {}, el('span', { class: `dot ${kind}` }), t(name)))),
  );
}

/** What a record says beside its decisions. */
const TOLD = ['route', 'intent', 'subject', 'config', 'host', 'env', 'program'];

function record(one) {
  const told = TOLD.filter((name) => one[name]).map((name) => `${name} ${one[name]}`);
  if (one.usage) told.push(`${t('tokens')} ${one.usage.input} + ${one.usage.output}`);
  const texts = ['input', 'answer'].filter((name) => one[name]?.text);
  return el(
    'li',
    { class: 'card' },
    el('h4', {}, `${moment(one.at)} · `, el('span', { class: one.code ? 'bad' : '' }, titleOf(one)), ` · ${ms(one.ms)}`),
    el('ol', { class: 'decisions', 'aria-label': t('decisions') }, (one.decisions ?? []).map(decision)),
    texts.map((name) => el('pre', { tabindex: '0' }, `${name}: ${visible(one[name].text)}`)),
    el('p', { class: 'muted small' }, told.join(' · ')),
  );
}

/** One decision: what it was about, how it came out, and the rest as it was written down. */
function decision({ what, outcome, ...rest }) {
  const bad = outcome && !/^(passed|kept|done|waiting|now\(.*\))$/.test(outcome);
  const more = Object.entries(rest)
    .filter(([, value]) => value !== null && value !== false && value !== '' && !(Array.isArray(value) && !value.length))
    .map(([name, value]) => `${name} ${visible(typeof value === 'string' ? value : JSON.stringify(value))}`);
  return el(
    'li',
    { 'data-what': what },
    el('strong', {}, what),
    outcome ? [' ', el('span', { class: `chip ${bad ? 'rolled_back' : 'promoted'}` }, outcome)] : null,
    more.length ? el('span', { class: 'muted' }, ` ${more.join(' · ')}`) : null,
  );
}

const opinion = (one) => el('li', {}, `${moment(one.at)} · ${t(one.rating)} `, one.comment ? visible(one.comment) : '');

/** Running it again is the native host's, offline; the page gives the very command. */
function replay(id) {
  const command = `minigate replay ${id}`;
  const copy = async () => {
    await navigator.clipboard.writeText(command);
    say(t('copied'));
  };
  return [
    el('h3', {}, t('replay')),
    el('p', { class: 'muted' }, t('replayHelp')),
    el('p', { class: 'row' }, el('code', { id: 'replay' }, command), el('button', { id: 'copy', type: 'button', onclick: copy }, t('copy'))),
  ];
}
