// The Workers entry: hands requests to the instance, and makes another one when it has
// failed. The class of the store's Durable Object is exported from here.
//
// The core runs behind a guard of its own, and a panic in it never gets here. What is left
// is a trap in the glue itself, seen as an exception or by the mark that the panic hook of
// `worker` leaves: then the instance cannot be trusted, and the next request gets a new one.
import * as glue from "./index.js";
import facts from "./facts.mjs";

glue.describe(facts.sha256, facts.bytes);
let broken = false;

export { StateCell } from "./index.js";

export default {
  async fetch(request, env, context) {
    const mark = globalThis.__worker_init_state;
    if (broken || mark?.criticalError) {
      if (mark) mark.criticalError = false;
      glue.__wbg_reset_state();
      glue.describe(facts.sha256, facts.bytes);
      broken = false;
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
