// The Workers entry: hands requests to the instance, and makes another one when it has
// failed. The class of the store's Durable Object is exported from here; what its alarm begins runs
// inside of it. This also brings the compiled configuration: the file beside it, or what KV has.
//
// The core runs behind a guard of its own, and a panic in it never gets here. What is left
// is a trap in the glue itself, seen as an exception or by the mark that the panic hook of
// `worker` leaves: then the instance cannot be trusted, and the next request gets a new one.
import * as glue from "./index.js";
import facts from "./facts.mjs";
import catalog from "./catalog.bin";

// When the configuration in KV is looked at again. KV itself keeps a value for a minute.
const LOOK_MS = 60_000;
const RETRY_MS = 5_000;

let broken = false;
// How often there was another instance.
let generation = 0;
let looked = false;
let next = 0;

function begin() {
  glue.describe(facts.sha256, facts.bytes);
  glue.configure(new Uint8Array(catalog));
  looked = false;
}
begin();

// The configuration in KV, if there is one, in place of the one beside this file. What cannot
// be read changes nothing.
async function configure(env) {
  next = Date.now() + LOOK_MS;
  try {
    const stored = await env.CONFIG.get("catalog", "arrayBuffer");
    if (!glue.configure(new Uint8Array(stored ?? catalog))) throw new Error("not a configuration of this version");
  } catch (error) {
    next = Date.now() + RETRY_MS;
    console.error(JSON.stringify({ level: "error", event: "configuration_refused", host: "edge", problem: String(error) }));
  }
  looked = true;
}

// Makes another instance when the last one has failed.
function renew() {
  const mark = globalThis.__worker_init_state;
  if (!broken && !mark?.criticalError) return;
  if (mark) mark.criticalError = false;
  glue.__wbg_reset_state();
  begin();
  broken = false;
  generation += 1;
}

// Only the first events of an isolate wait for the configuration; later ones have what is there.
async function configured(env, waitUntil) {
  if (!env.CONFIG || (looked && Date.now() < next)) return;
  const looking = configure(env);
  if (looked) waitUntil(looking);
  else await looking;
}

function failed(error) {
  if (error instanceof WebAssembly.RuntimeError) broken = true;
  console.error(JSON.stringify({ level: "error", event: "glue_failed", host: "edge", problem: String(error) }));
}

// One key of the store. An object outlives an instance that has failed.
export class StateCell {
  #state;
  #env;
  #cell;
  #generation;

  constructor(state, env) {
    this.#state = state;
    this.#env = env;
  }

  #current() {
    renew();
    if (this.#generation !== generation) {
      this.#cell = new glue.StateCell(this.#state, this.#env);
      this.#generation = generation;
    }
    return this.#cell;
  }

  fetch(request) {
    return this.#current().fetch(request);
  }

  // What fails after the object has set its next alarm is tried again then, and not by the platform.
  async alarm() {
    const due = await (await this.#current().alarm()).text();
    if (due === "") return;
    await configured(this.#env, (looking) => this.#state.waitUntil(looking));
    try {
      await glue.alarm(due, this.#env);
    } catch (error) {
      failed(error);
    }
  }
}

export { AuditLedger } from "./index.js";

export default {
  async fetch(request, env, context) {
    renew();
    await configured(env, (looking) => context.waitUntil(looking));
    try {
      return await glue.fetch(request, env, context);
    } catch (error) {
      failed(error);
      throw error;
    }
  },
};
