// JSON and configurations as texts: shown exactly, and compared by lines.

// One token of JSON: a string, a number or word, or a sign.
const TOKEN = /"(?:[^"\\]|\\.)*"|[^\s"{}[\],:]+|[{}[\],:]/g;
// What would not be seen, or would turn the text around it.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

/** A text in which everything can be seen. */
export const visible = (text) =>
  text.replace(HIDDEN, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`);

/**
 * The text of one member of a JSON object, as it came. Nothing is parsed: a number above 2^53 would
 * become another one, and somebody would agree to what is not done.
 */
export function member(json, name) {
  let depth = 0;
  let begin = -1;
  let key = null;
  for (const { 0: token, index } of json.matchAll(TOKEN)) {
    if (begin >= 0 && depth === 1 && (token === ',' || token === '}')) return json.slice(begin, index).trim();
    if (token === '{' || token === '[') depth += 1;
    else if (token === '}' || token === ']') depth -= 1;
    else if (depth === 1 && begin < 0) {
      if (token === ':' && key === name) begin = index + 1;
      else if (token.startsWith('"')) key = JSON.parse(token);
    }
  }
  return '';
}

/** The same JSON with a line for each member; only spaces between tokens differ. */
export function pretty(json) {
  let depth = 0;
  let before = '';
  let out = '';
  const line = () => `\n${'  '.repeat(depth)}`;
  for (const [token] of json.matchAll(TOKEN)) {
    const closes = token === '}' || token === ']';
    if (closes) depth -= 1;
    const opened = before === '{' || before === '[';
    if (closes ? !opened : opened || before === ',') out += line();
    if (token === '{' || token === '[') depth += 1;
    out += visible(token) + (token === ':' ? ' ' : '');
    before = token;
  }
  return out;
}

// More lines than that are not compared one by one.
const MOST = 3000;

/** Lines as `[sign, text]` with ` `, `-` or `+`. */
export function difference(from, to) {
  const a = from.split('\n');
  const b = to.split('\n');
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a.at(-1 - tail) === b.at(-1 - tail)) tail += 1;
  const same = (lines) => lines.map((text) => [' ', text]);
  const middle = compared(a.slice(head, a.length - tail), b.slice(head, b.length - tail));
  return [...same(a.slice(0, head)), ...middle, ...same(a.slice(a.length - tail))];
}

/** By the longest common subsequence. */
function compared(a, b) {
  const lines = [];
  if (a.length > MOST || b.length > MOST) {
    return [...a.map((text) => ['-', text]), ...b.map((text) => ['+', text])];
  }
  const width = b.length + 1;
  const common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      common[i * width + j] =
        a[i] === b[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      lines.push([' ', a[i]]);
      i += 1;
      j += 1;
    } else if (i < a.length && (j === b.length || common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      lines.push(['-', a[i]]);
      i += 1;
    } else {
      lines.push(['+', b[j]]);
      j += 1;
    }
  }
  return lines;
}
