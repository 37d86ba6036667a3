// Requests to the operator's routes, with the session's cookie and what proves that they are ours.

import { language } from './words.js';

const PATIENCE = 15000;
let csrf = '';

/** An answer that is no success: its status, and the gateway's own words. */
export class Refused extends Error {
  constructor(status, text) {
    let error = {};
    try {
      error = JSON.parse(text).error ?? {};
    } catch {
      // Something between us and the gateway said it.
    }
    super(error.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = error.code;
    this.traceId = error.traceId;
  }
}

/** The answer's text. */
export async function ask(method, path, body) {
  const headers = { 'accept-language': language() };
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (method !== 'GET' && csrf) headers['x-csrf-token'] = csrf;
  const answer = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    credentials: 'same-origin',
    cache: 'no-store',
    redirect: 'error',
    signal: AbortSignal.timeout(PATIENCE),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Refused(answer.status, text);
  return text;
}

export const read = async (path) => JSON.parse(await ask('GET', path));
export const send = async (path, body) => JSON.parse(await ask('POST', path, body));

const SESSION = '/v1/admin/session';

function known(session) {
  csrf = session.csrf ?? '';
  return session;
}

/** Whoever is logged in; throws a 401 when nobody is. */
export const whoIsIn = async () => known(await read(SESSION));
export const logIn = async (key) => known(await send(SESSION, { key }));

export async function logOut() {
  await ask('DELETE', SESSION);
  csrf = '';
}
