// The store's Durable Objects by themselves. A request's `key` names the object; at `/` and
// `/watch` the body is an operation and goes on to it. At `/clock` the clock of this isolate,
// which the objects share, is set ahead by so many milliseconds. `/alarms` gives the keys whose alarms have
// gone off; at `/answer` the body is an operation that the key's object sends to itself when that happens.
// Only tests use this entry.
import { StateCell as Cell } from "./index.js";
export { AuditLedger } from "./index.js";

const goneOff = [];
const answers = new Map();

export class StateCell extends Cell {
  #env;

  constructor(state, env) {
    super(state, env);
    this.#env = env;
  }

  async alarm() {
    const key = await (await super.alarm()).text();
    if (key === "") return;
    goneOff.push(key);
    const body = answers.get(key);
    if (body) await ask(this.#env, key, "/", body);
  }
}

function ask(env, key, path, body) {
  return env.STATE.get(env.STATE.idFromName(key)).fetch(`https://state${path}`, { method: "POST", body });
}

const unixMs = Date.now.bind(Date);
let ahead = 0;
Date.now = () => unixMs() + ahead;

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    if (url.pathname === "/clock") {
      ahead = Number(url.searchParams.get("ahead"));
      return new Response();
    }
    if (url.pathname === "/alarms") return Response.json(goneOff);
    const key = url.searchParams.get("key");
    const body = await request.arrayBuffer();
    if (url.pathname === "/answer") {
      answers.set(key, body);
      return new Response();
    }
    return ask(env, key, url.pathname, body);
  },
};
