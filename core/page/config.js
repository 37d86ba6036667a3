// Versions of the configuration: what each would change against the one that runs, and the way back.

import { Refused, read, send } from './api.js';
import { el } from './dom.js';
import { table } from './figures.js';
import { difference, visible } from './texts.js';
import { moment, t } from './words.js';
import { action } from './work.js';

const PATH = '/v1/admin/config';
// A version's text never changes.
const texts = new Map();

async function textOf(version) {
  if (!texts.has(version)) texts.set(version, (await read(`${PATH}/${encodeURIComponent(version)}`)).text);
  return texts.get(version);
}

/** The running one's; empty where nothing is remembered of it. */
async function runningText(version) {
  try {
    return version ? await textOf(version) : '';
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return '';
    throw error;
  }
}

/** The versions; with one chosen, both texts too. */
export async function configData(chosen) {
  const { version, versions } = await read(PATH);
  if (!chosen) return { version, versions };
  return { version, versions, chosen, from: await runningText(version), to: await textOf(chosen) };
}

export function configPage({ version, versions = [], chosen, from, to }, again) {
  // After a rollback a version is there twice: the newest entry is the one that runs.
  const runs = versions.find((one) => one.version === version);
  const row = (one) =>
    el(
      'tr',
      { 'data-version': one.version },
      el('th', { scope: 'row' }, el('a', { href: `#config/${encodeURIComponent(one.version)}` }, one.version.slice(0, 12))),
      el('td', {}, one === runs ? el('span', { class: 'chip promoted' }, t('running_config')) : ''),
      el('td', { class: 'when' }, moment(one.at)),
      el('td', {}, [one.by, one.note].filter(Boolean).map(visible).join(' · ')),
    );
  return [
    el('h2', {}, t('config')),
    versions.length ? table([t('version'), '', '', t('by')], versions.map(row)) : el('p', {}, t('noVersions')),
    chosen ? comparison(version, chosen, from, to, again) : null,
  ];
}

function comparison(version, chosen, from, to, again) {
  const lines = difference(from, to);
  const signs = { '-': 'removed', '+': 'added', ' ': '' };
  const differs = lines.some(([sign]) => sign !== ' ');
  const back = async () => {
    await send(`${PATH}/rollback`, { version: chosen });
    await again();
    return t('ordered', `${t('backTo')} ${chosen.slice(0, 12)}`);
  };
  const button = () => action('back', t('backTo'), 'danger', t('backTo'), t('sureConfig', chosen.slice(0, 12)), back);
  return el(
    'section',
    { id: 'comparison', 'data-version': chosen },
    el('h3', {}, `${t('compare')}: ${chosen.slice(0, 12)}`),
    chosen === version ? null : el('p', { class: 'row' }, button()),
    differs ? null : el('p', {}, t('same')),
    el('pre', { class: 'diff', tabindex: '0' }, lines.map(([sign, text]) => el('span', { class: signs[sign] }, `${sign} ${visible(text)}\n`))),
  );
}
