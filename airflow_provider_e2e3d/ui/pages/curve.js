// A curve of PSNR over training steps, small and without a library.

import { s } from "./dom.js";
import { number } from "./words.js";

const WIDTH = 360;
const HEIGHT = 150;
const EDGE = { left: 34, right: 8, top: 8, bottom: 22 };

function ticks(low, high, most) {
  const step = [0.5, 1, 2, 5, 10, 20, 50].find((each) => (high - low) / each <= most) ?? 100;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + 1e-9; at += step) found.push(at);
  return found;
}

export function curve(points, total) {
  const known = points.filter((each) => Number.isFinite(each.psnr_training) && Number.isFinite(each.step));
  if (known.length < 2) return null;
  const end = Math.max(total ?? 0, known.at(-1).step);
  const values = known.map((each) => each.psnr_training);
  const low = Math.floor(Math.min(...values) - 0.3);
  const high = Math.ceil(Math.max(...values) + 0.3);
  const x = (step) => EDGE.left + ((WIDTH - EDGE.left - EDGE.right) * step) / end;
  const y = (value) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (1 - (value - low) / (high - low));
  const line = known.map((each, at) => `${at ? "L" : "M"}${x(each.step).toFixed(1)} ${y(each.psnr_training).toFixed(1)}`).join("");
  const last = known.at(-1);
  const words = `PSNR on training photos: ${values[0].toFixed(1)} dB at step ${known[0].step}, ${last.psnr_training.toFixed(1)} dB at step ${last.step}`;
  return s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "curve", role: "img", "aria-label": words },
    ticks(low, high, 4).map((value) => [
      s("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value), class: "grid" }),
      s("text", { x: EDGE.left - 5, y: y(value) + 3.5, "text-anchor": "end" }, `${value}`),
    ]),
    s("text", { x: EDGE.left, y: HEIGHT - 6 }, "0"),
    s("text", { x: WIDTH - EDGE.right, y: HEIGHT - 6, "text-anchor": "end" }, `${number(end)} steps`),
    s("path", { d: `${line}L${x(last.step)} ${y(low)}L${x(known[0].step)} ${y(low)}Z`, class: "under" }),
    s("path", { d: line, class: "line" }),
    s("circle", { cx: x(last.step), cy: y(last.psnr_training), r: 3, class: "tip" }),
  );
}
