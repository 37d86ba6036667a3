// The Workers entry: hands requests to the instance, and makes another one when it has
// failed. The class of the store's Durable Object is exported from here. It also brings the
// compiled configuration: the file beside it, or what KV has.
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

export { StateCell } from "./index.js";

export default {
  async fetch(request, env, context) {
    const mark = globalThis.__worker_init_state;
    if (broken || mark?.criticalError) {
      if (mark) mark.criticalError = false;
      glue.__wbg_reset_state();
      begin();
      broken = false;
    }
    if (env.CONFIG && (!looked || Date.now() >= next)) {
      // Only the first requests wait for it; later ones are answered with what is there.
      const looking = configure(env);
      if (looked) context.waitUntil(looking);
      else await looking;
    }
    try {
      return await glue.fetch(request, env, context);
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) broken = true;
      console.error(JSON.stringify({ level: "error", event: "glue_failed", host: "edge", problem: String(error) }));
      throw error;
    }
  },
};
