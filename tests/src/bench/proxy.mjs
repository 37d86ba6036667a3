// The least that a worker can do: pass everything on.
export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    return fetch(env.UPSTREAM + pathname.replace(/^\/stream/, ""), request);
  },
};
