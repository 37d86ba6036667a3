// What operators decide: rollouts, calls that wait for a word; and what people say of answers.

import { Refused, ask, read, send } from './api.js';
import { confirmed, el, say } from './dom.js';
import { nameOf, table } from './figures.js';
import { pair, share } from './plot.js';
import { member, pretty, visible } from './texts.js';
import { count, moment, ms, percent, t } from './words.js';

/** A button that asks first. `act` gives what is said afterwards. */
export function action(id, name, kind, title, text, act) {
  const press = async ({ currentTarget: button }) => {
    if (!(await confirmed(title, text, name))) return;
    button.disabled = true;
    try {
      say(await act());
    } catch (error) {
      say(t('refused', error.message), true);
    }
    button.disabled = false;
  };
  return el('button', { id, type: 'button', class: kind, onclick: press }, name);
}

// What each state leaves to be ordered.
const ORDERS = {
  running: ['promote', 'hold', 'roll_back'],
  held: ['promote', 'resume', 'roll_back'],
  promoted: ['roll_back'],
  rolled_back: ['resume', 'promote'],
};
const SURE = { hold: 'sureHold', resume: 'sureResume', promote: 'surePromote', roll_back: 'sureRollBack' };

export const rolloutsData = () => read('/v1/admin/rollouts');

export function rolloutsPage({ rollouts }, again) {
  const cards = rollouts.map((rollout) => rolloutCard(rollout, again));
  return [el('h2', {}, t('rollouts')), cards.length ? cards : el('p', {}, t('noRollouts'))];
}

function rolloutCard(rollout, again) {
  const { intent, state, finding, running, candidate } = rollout;
  const part = rollout.shareBasisPoints / 10000;
  const order = (name) => {
    const whom = name === 'roll_back' ? running.profile : candidate.profile;
    const kind = { promote: 'main', roll_back: 'danger' }[name] ?? '';
    return action(`${name}-${intent}`, t(name), kind, `${t(name)}: ${intent}`, t(SURE[name], whom), async () => {
      const { changed } = await send('/v1/admin/rollouts', { intent, order: name });
      await again();
      return t(changed ? 'ordered' : 'unchanged', `${t(name)} ${intent}`);
    });
  };
  const worse = finding && el('p', { class: 'bad' }, t('verdict', t(finding.what), moment(finding.at)));
  return el(
    'article',
    { class: 'card', 'data-intent': intent, 'data-state': state },
    el('h3', {}, intent, ' ', el('span', { class: `chip ${state}` }, t(`state_${state}`))),
    el('p', {}, t('gets', percent(part), Math.min(rollout.step + 1, rollout.steps), rollout.steps, moment(rollout.since))),
    share(part, 'new', percent(part)),
    rollout.allowed ? null : el('p', { class: 'warn' }, t('forbidden')),
    worse || el('p', {}, t('verdictNone')),
    sideBySide(running, candidate),
    el('p', { class: 'row' }, (ORDERS[state] ?? []).map(order)),
  );
}

/** Both versions, number by number. */
function sideBySide(running, candidate) {
  const part = (field) => (one) => (one.turns ? one[field] / one.turns : null);
  const shown = (value) => (value === null ? '–' : percent(value));
  const rows = [
    [t('turnsSeen'), (one) => one.turns, count],
    [t('failed'), part('failed'), shown],
    [t('empty'), part('empty'), shown],
    [t('schema'), part('schemaFailed'), shown],
    ['p50', (one) => one.p50Ms, ms],
    ['p95', (one) => one.p95Ms, ms],
    ['p99', (one) => one.p99Ms, ms],
    [t('average'), (one) => one.averageTokens, count],
    [t('disliked'), ({ up, down }) => (up + down ? down / (up + down) : null), shown],
  ].map(([name, of, format]) =>
    el(
      'tr',
      {},
      el('th', { scope: 'row' }, name),
      el('td', {}, format(of(running))),
      el('td', {}, format(of(candidate))),
      el('td', { class: 'drawn' }, pair(of(running), of(candidate), format)),
    ),
  );
  const head = (name, profile, kind) => [el('span', { class: `dot ${kind}` }), `${name} ${profile}`];
  return table(['', head(t('old'), running.profile, 'old'), head(t('new'), candidate.profile, 'new'), ''], rows);
}

// A grant is good for ten minutes; a question is asked for again before that.
const FRESH = 300000;
const questions = new Map();

/** The list, and each question as it was shown: its text, since numbers in it are to stay as they are. */
export async function approvalsData() {
  const { approvals } = await read('/v1/admin/approvals');
  for (const { approvalId: id } of approvals) {
    if (Date.now() - (questions.get(id)?.at ?? 0) < FRESH) continue;
    try {
      questions.set(id, { at: Date.now(), text: await ask('GET', `/v1/admin/approvals/${encodeURIComponent(id)}`) });
    } catch (error) {
      if (!(error instanceof Refused) || error.status === 401) throw error;
      questions.delete(id);
    }
  }
  return approvals.map((one) => ({ ...one, text: questions.get(one.approvalId)?.text ?? '' }));
}

export function approvalsPage(waiting, again) {
  const cards = waiting.map((one) => approvalCard(one, again));
  return [el('h2', {}, t('approvals')), cards.length ? cards : el('p', {}, t('noApprovals'))];
}

function approvalCard({ approvalId: id, expiresAt, text }, again) {
  if (!text) return el('article', { class: 'card', 'data-approval': id }, el('h3', {}, id), el('p', {}, t('gone')));
  const shown = JSON.parse(text);
  const decide = async (decision) => {
    try {
      const path = `/v1/admin/approvals/${encodeURIComponent(id)}`;
      const said = await send(path, { decision, grant: shown.grant });
      return t('decided', said.decision);
    } finally {
      questions.delete(id);
      await again();
    }
  };
  const button = (decision, kind, sure) =>
    action(`${decision}-${id}`, t(decision), kind, `${t(decision)}: ${shown.tool}`, t(sure), () => decide(decision));
  return el(
    'article',
    { class: 'card', 'data-approval': id },
    el('h3', {}, shown.tool, ' ', el('span', { class: 'chip held' }, t('until', moment(expiresAt ?? shown.expiresAt)))),
    el('p', {}, shown.description ?? ''),
    el('h4', {}, t('exact')),
    el('pre', { class: 'exact', tabindex: '0' }, pretty(member(text, 'arguments'))),
    el(
      'p',
      { class: 'muted' },
      `SHA-256 ${shown.sha256?.slice(0, 16)}… · ${shown.need} · `,
      el('a', { href: `#turns/${encodeURIComponent(shown.requestId)}` }, shown.requestId),
      shown.given ? ` · ${t('given', shown.given, 2)}` : '',
    ),
    el('p', { class: 'row' }, button('approve', 'main', 'sureApprove'), button('refuse', 'danger', 'sureRefuse')),
  );
}

export const feedbackData = () => read('/v1/admin/feedback');

export function feedbackPage({ feedback = [], counts = [] }) {
  const row = ({ up, down, ...whose }) =>
    el(
      'tr',
      {},
      el('th', { scope: 'row' }, nameOf(whose)),
      el('td', {}, count(up)),
      el('td', {}, count(down)),
      el('td', { class: 'drawn' }, share(up / (up + down || 1), 'good', percent(up / (up + down || 1)))),
    );
  const word = (one) =>
    el(
      'li',
      {},
      el('span', { class: `chip ${one.rating === 'down' ? 'rolled_back' : 'promoted'}` }, t(one.rating)),
      ` ${moment(one.at)} `,
      el('a', { href: `#turns/${encodeURIComponent(one.traceId)}` }, one.traceId),
      one.comment ? el('p', {}, visible(one.comment)) : null,
    );
  return [
    el('h2', {}, t('feedback')),
    table([t('version'), t('up'), t('down'), ''], counts.map(row)),
    el('h3', {}, t('newest')),
    feedback.length ? el('ul', { class: 'plain' }, feedback.map(word)) : el('p', {}, t('noFeedback')),
  ];
}
