import { svg } from "./dom";
import { number } from "./words";

export interface Point {
  x: number;
  y: number;
  hollow: boolean;
  title: string;
}

const HEIGHT = 240;
const LEFT = 56;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 34;

/** Round numbers that cover 0..top in at most `most` steps. */
function ticks(top: number, most: number): number[] {
  const rough = top / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
}

/** A line chart from zero, `width` units wide and drawn to the width it is given. The table beside it says the same, so it is one picture with a name for a screen reader. */
export function lineChart(points: readonly Point[], label: string, yLabel: string, width = 640): SVGElement {
  const top = Math.max(...points.map((p) => p.y)) || 1;
  const first = points[0]?.x ?? 0;
  const span = Math.max(1, (points.at(-1)?.x ?? 0) - first);
  const x = (value: number): number => LEFT + ((value - first) / span) * (width - LEFT - RIGHT);
  const y = (value: number): number => HEIGHT - BOTTOM - (value / (1.05 * top)) * (HEIGHT - TOP - BOTTOM);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const value of ticks(1.05 * top, 4)) {
    chart.append(
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { class: "tick", x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    );
  }
  for (const value of ticks(span, width / 70).map((tick) => first + tick).filter(Number.isInteger)) {
    chart.append(svg("text", { class: "tick", x: x(value), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, String(value)));
  }
  chart.append(
    svg("text", { class: "axis", x: width - RIGHT, y: HEIGHT - 2, "text-anchor": "end" }, "round"),
    svg("text", { class: "axis", x: LEFT + 6, y: TOP + 4 }, yLabel),
    svg("polyline", { class: "line", points: points.map((p) => `${x(p.x)},${y(p.y)}`).join(" ") }),
  );
  for (const p of points) {
    chart.append(svg("circle", { class: p.hollow ? "dot hollow" : "dot", cx: x(p.x), cy: y(p.y), r: 4 }, svg("title", {}, p.title)));
  }
  return chart;
}
