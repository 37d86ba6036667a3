// The store's Durable Objects by themselves. A request's `key` names the object; at `/` and
// `/watch` the body is an operation and goes on to it. At `/clock` the clock of this isolate,
// which the objects share, is set ahead by so many milliseconds. Only tests use this entry.
export { StateCell } from "./index.js";

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
    const cell = env.STATE.get(env.STATE.idFromName(url.searchParams.get("key")));
    const body = await request.arrayBuffer();
    return cell.fetch(`https://state${url.pathname}`, { method: "POST", body });
  },
};
