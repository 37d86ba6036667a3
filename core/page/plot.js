// Drawings in SVG: lines over time, bars side by side, the stages of a turn.

import { el, svg } from './dom.js';

/** A round number at or above a value: where a scale ends. */
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((end) => end >= value);
}

/**
 * Lines over time. `series` is `[{name, kind, values}]`, `values` pairs of seconds before now and a
 * number or null, where the line has a gap. `label` says all of it in words.
 */
export function lines(series, format, label, seconds) {
  const [width, height, top, bottom] = [320, 96, 8, 14];
  const most = ceiling(Math.max(0, ...series.flatMap(({ values }) => values.map(([, value]) => value ?? 0))));
  const x = (ago) => (width * (1 - ago / seconds)).toFixed(1);
  const y = (value) => (height - bottom - (height - top - bottom) * (value / most)).toFixed(1);
  const path = (values) => {
    let pen = 'M';
    return values
      .map(([ago, value]) => {
        if (value === null || ago > seconds) {
          pen = 'M';
          return '';
        }
        const step = `${pen}${x(ago)} ${y(value)}`;
        pen = 'L';
        return step;
      })
      .join('');
  };
  const grid = [0, 0.5, 1].map((part) =>
    svg('line', { x1: 0, x2: width, y1: y(most * part), y2: y(most * part), class: 'grid' }),
  );
  const drawing = svg(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label, class: 'plot' },
    grid,
    svg('text', { x: 2, y: top + 9 }, format(most)),
    svg('text', { x: 2, y: height - 3 }, `−${Math.floor(seconds / 60)}:${String(Math.round(seconds % 60)).padStart(2, '0')}`),
    svg('text', { x: width - 2, y: height - 3, 'text-anchor': 'end' }, '0'),
    series.map(({ kind, values }) => svg('path', { d: path(values), class: `line ${kind}` })),
  );
  const legend = series.map(({ name, kind }) => el('span', {}, swatch(kind), name));
  return el('figure', {}, drawing, el('figcaption', { class: 'legend' }, legend));
}

const swatch = (kind) =>
  svg(
    'svg',
    { viewBox: '0 0 14 6', width: 14, height: 6, 'aria-hidden': 'true' },
    svg('path', { d: 'M0 3H14', class: `line ${kind}` }),
  );

/** Two bars on one scale, `null` for what was not seen. */
export function pair(first, second, format) {
  const most = Math.max(first ?? 0, second ?? 0) || 1;
  const bar = (value, kind, at) => [
    svg('rect', { x: 0, y: at, width: ((value ?? 0) / most) * 100, height: 6, class: `fill ${kind}` }),
  ];
  return svg(
    'svg',
    {
      viewBox: '0 0 100 14', preserveAspectRatio: 'none', class: 'pair', role: 'img',
      'aria-label': `${format(first)} / ${format(second)}`,
    },
    bar(first, 'old', 0),
    bar(second, 'new', 8),
  );
}

/** A share of a whole, 0 to 1. */
export const share = (part, kind, label) =>
  svg(
    'svg',
    { viewBox: '0 0 100 6', preserveAspectRatio: 'none', class: 'share', role: 'img', 'aria-label': label },
    svg('rect', { x: 0, y: 0, width: 100, height: 6, class: 'track' }),
    svg('rect', { x: 0, y: 0, width: Math.max(0, Math.min(1, part)) * 100, height: 6, class: `fill ${kind}` }),
  );

/** Rows of `{name, parts: [{from, to, kind, name}]}` in milliseconds on one axis. */
export function timeline(rows, format, label) {
  const [width, line] = [320, 26];
  const end = Math.max(1, ...rows.flatMap(({ parts }) => parts.map(({ to }) => to)));
  const x = (ms) => (ms / end) * width;
  const height = rows.length * line + 14;
  return svg(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label, class: 'plot timeline' },
    rows.map(({ name, parts }, row) => [
      svg('text', { x: 2, y: row * line + 10 }, name),
      parts.map(({ from, to, kind, name: what }) =>
        svg(
          'rect',
          { x: x(from), y: row * line + 13, width: Math.max(1.5, x(to) - x(from)), height: 9, class: `fill ${kind}` },
          svg('title', {}, what),
        ),
      ),
    ]),
    svg('text', { x: 2, y: height - 2 }, '0'),
    svg('text', { x: width - 2, y: height - 2, 'text-anchor': 'end' }, format(end)),
  );
}
