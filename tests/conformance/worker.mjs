// Runs the module by its raw exports, as a host does. Every import throws: what the core
// does it does without help of JavaScript.
import module from "index_bg.wasm";
import bytes from "index_bg.bytes";

const STEP = 0;
const REDUCE = 1;

function instantiate() {
  const imports = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    if (kind !== "function") throw new Error(`import ${from}.${name} is a ${kind}`);
    (imports[from] ??= {})[name] = () => {
      throw new Error(`the module called ${from}.${name}`);
    };
  }
  return new WebAssembly.Instance(module, imports).exports;
}

/** Copies bytes into the module. */
function write(core, data) {
  if (data.length === 0) return [0, 0];
  const at = core.mg_alloc(data.length) >>> 0;
  if (at === 0) throw new Error("the module is out of memory");
  new Uint8Array(core.memory.buffer, at, data.length).set(data);
  return [at, data.length];
}

/** Copies a result out of the module; null when the frame was not understood. */
function take(core, result) {
  const whole = BigInt.asUintN(64, result);
  if (whole === 0n) return null;
  const [at, length] = [Number(whole >> 32n), Number(whole & 0xffffffffn)];
  const data = new Uint8Array(core.memory.buffer, at, length).slice();
  core.mg_free(at, length);
  return data;
}

function step(core, policy, frame, payload) {
  const settings = write(core, policy);
  const understood = core.mg_configure(...settings);
  core.mg_free(...settings);
  if (understood !== 1) throw new Error("the module does not understand the policy");
  const [parts, beside] = [write(core, frame), write(core, payload)];
  const result = core.mg_step(...parts, ...beside);
  core.mg_free(...parts);
  core.mg_free(...beside);
  return take(core, result);
}

function reduce(core, frame) {
  const part = write(core, frame);
  const result = core.mg_reduce(...part);
  core.mg_free(...part);
  return take(core, result);
}

/** The parts of a call: a kind, then three ranges, each after its length. */
function parse(buffer) {
  const view = new DataView(buffer);
  const ranges = [];
  for (let at = 4; at < buffer.byteLength; ) {
    const length = view.getUint32(at, true);
    ranges.push(new Uint8Array(buffer, at + 4, length));
    at += 4 + length;
  }
  return [view.getUint32(0, true), ...ranges];
}

// Two instances take turns: an exchange goes on in another instance than it came from.
let [next, other] = [null, null];

async function facts() {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const sha256 = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return Response.json({ sha256, abi: instantiate().mg_abi_version() });
}

export default {
  async fetch(request) {
    if (request.method === "GET") return facts();
    const [kind, policy, frame, payload] = parse(await request.arrayBuffer());
    [next, other] = [other, next];
    next ??= instantiate();
    try {
      if (kind !== STEP && kind !== REDUCE) throw new Error(`no such call: ${kind}`);
      const reply = kind === STEP ? step(next, policy, frame, payload) : reduce(next, frame);
      return reply === null ? new Response(null, { status: 204 }) : new Response(reply);
    } catch (error) {
      next = null;
      return new Response(String(error), { status: 500 });
    }
  },
};
