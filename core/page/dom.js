// Elements. Whatever comes from outside becomes a text node or an attribute here, never HTML.

const SVG = 'http://www.w3.org/2000/svg';

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element of HTML; `on…` attributes are listeners. */
export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

/** An element of SVG. */
export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

export const byId = (id) => document.getElementById(id);

const drawn = new WeakMap();

/** Shows what `draw` makes, unless the same data is shown already; the focus stays where it was. */
export function show(place, data, draw) {
  const same = JSON.stringify(data);
  if (drawn.get(place) === same) return;
  const open = [...place.querySelectorAll('details[open][id]')].map((one) => one.id);
  const focused = document.activeElement?.id;
  place.replaceChildren(...[draw()].flat(Infinity).filter(Boolean));
  drawn.set(place, same);
  for (const id of open) byId(id)?.setAttribute('open', '');
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus({ preventScroll: true });
}

/** What is there is to be drawn again, whatever the data. */
export const forget = (place) => drawn.delete(place);

let silence = 0;

/** Says something to everybody, readers of screens too, for a while. */
export function say(text, bad = false) {
  const said = byId('said');
  clearTimeout(silence);
  silence = setTimeout(() => said.replaceChildren(), 8000);
  said.textContent = text;
  said.className = bad ? 'said bad' : 'said';
}

/** Asks before something is done; true for a yes. */
export function confirmed(title, text, yes) {
  const dialog = byId('confirm');
  byId('confirm-title').textContent = title;
  byId('confirm-text').textContent = text;
  byId('confirm-yes').textContent = yes;
  return new Promise((resolve) => {
    const answer = (said) => () => {
      resolve(said);
      dialog.close();
    };
    byId('confirm-yes').onclick = answer(true);
    byId('confirm-no').onclick = answer(false);
    // The Escape key. It comes late: the dialog may be open again, with another question.
    dialog.onclose = () => dialog.open || resolve(false);
    dialog.showModal();
    // The harmless one is under the finger first.
    byId('confirm-no').focus();
  });
}
