// The script of every report. The page is whole without it: it adds values under the pointer and the
// slider of heat maps over time.
#include "train/report/page.h"

namespace sluice::report {

const std::string_view kScript = R"js(
(() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const number = (value) => {
    if (value === null || !isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size !== 0 && size < 1e-4) return value.toExponential(2);
    if (size >= 1e4) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(5)));
  };
  const data = (canvas) => {
    const island = canvas.querySelector('script[type="application/json"]');
    return island ? JSON.parse(island.textContent) : null;
  };

  // One box for all plots; its text is set as text, never as markup.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const show = (event, head, rows) => {
    const title = document.createElement("b");
    title.textContent = head;
    tip.replaceChildren(title);
    for (const [colour, text] of rows) {
      const line = document.createElement("div");
      if (colour) {
        const dot = document.createElement("i");
        dot.className = colour;
        line.append(dot);
      }
      line.append(text);
      tip.append(line);
    }
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth;
    const left = event.clientX + 16 + box.width > room ? event.clientX - box.width - 12 : event.clientX + 16;
    tip.style.transform = `translate(${Math.max(4, left) + scrollX}px, ${event.clientY + 14 + scrollY}px)`;
  };
  const hide = () => { tip.hidden = true; };

  const inside = (svg, event) => {
    const point = new DOMPoint(event.clientX, event.clientY);
    return point.matrixTransform(svg.getScreenCTM().inverse());
  };

  const nearest = (points, x) => {
    let low = 0;
    let high = points.length / 2 - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[2 * middle] < x) low = middle; else high = middle;
    }
    return Math.abs(points[2 * low] - x) <= Math.abs(points[2 * high] - x) ? low : high;
  };

  const lineChart = (svg, chart) => {
    const [left, top, width, height] = svg.dataset.frame.split(" ").map(Number);
    const [x0, x1] = svg.dataset.x.split(" ").map(Number);
    const [low, high, kind] = svg.dataset.y.split(" ");
    const place = (y) => {
      const share = kind === "log" ? Math.log(y / low) / Math.log(high / low) : (y - low) / (high - low);
      return top + height * (1 - share);
    };
    const marks = make("g", {});
    svg.append(marks);
    svg.addEventListener("pointermove", (event) => {
      const at = inside(svg, event);
      if (at.x < left - 4 || at.x > left + width + 4) { marks.replaceChildren(); hide(); return; }
      const x = x0 + (at.x - left) / width * (x1 - x0);
      const rows = [];
      marks.replaceChildren();
      let shown = x;
      let distance = Infinity;
      for (const line of chart.lines) {
        if (line.points.length === 0) continue;
        const i = nearest(line.points, x);
        const [px, py] = [line.points[2 * i], line.points[2 * i + 1]];
        if (Math.abs(px - x) > 0.06 * (x1 - x0)) continue;
        if (Math.abs(px - x) < distance) { distance = Math.abs(px - x); shown = px; }
        marks.append(make("circle", {class: `dot ${line.colour}`, r: 4,
                                     cx: left + (px - x0) / (x1 - x0) * width, cy: place(py)}));
        rows.push([line.colour, `${line.name}  ${number(py)}`]);
      }
      if (rows.length === 0) { hide(); return; }
      const cx = left + (shown - x0) / (x1 - x0) * width;
      marks.prepend(make("line", {class: "cursor", x1: cx, x2: cx, y1: top, y2: top + height}));
      show(event, `${chart.x} ${number(shown)}`, rows);
    });
    svg.addEventListener("pointerleave", () => { marks.replaceChildren(); hide(); });
  };

  const heatMap = (figure, svg, map) => {
    const [left, top, width, height, gap] = map.grid;
    let current = map.values;
    const colour = (thousandths) => {
      if (thousandths === 0 && map.zero) return "zero";
      const value = thousandths / 1000;
      const placed = map.log ? Math.log2(Math.max(value, 1e-6)) : value;
      const step = Math.floor((placed - map.low) / (map.high - map.low) * map.steps);
      return map.palette + Math.max(0, Math.min(map.steps - 1, step));
    };
    const cells = svg.querySelector(".cells");
    const draw = (values) => {
      current = values;
      const paths = new Map();
      const across = Math.round((1 - gap / width) * 100) / 100;
      values.forEach((row, r) => row.forEach((value, c) => {
        if (value === null) return;
        const key = colour(value);
        paths.set(key, (paths.get(key) || "") + `M${c} ${r}h${across}`);
      }));
      cells.replaceChildren(...[...paths].map(([key, d]) => make("path", {class: key, d})));
    };
    const mark = make("rect", {class: "outline", width: width - gap, height: height - gap, visibility: "hidden"});
    svg.append(mark);
    svg.addEventListener("pointermove", (event) => {
      const at = inside(svg, event);
      const r = Math.floor((at.y - top) / height);
      const c = Math.floor((at.x - left) / width);
      const value = current[r] && current[r][c];
      if (value === undefined || value === null) { mark.setAttribute("visibility", "hidden"); hide(); return; }
      mark.setAttribute("x", left + width * c);
      mark.setAttribute("y", top + height * r);
      mark.setAttribute("visibility", "visible");
      const text = value === 0 && map.zero ? map.zero : `${map.value}  ${number(value / 1000)}`;
      show(event, `${map.row} ${map.rows[r]}, ${map.column} ${map.columns[c] ?? c}`, [["", text]]);
    });
    svg.addEventListener("pointerleave", () => { mark.setAttribute("visibility", "hidden"); hide(); });

    const slider = figure.querySelector(".slider");
    if (!slider) return;
    const [button, input, output] = slider.children;
    let timer = 0;
    const turn = () => {
      const frame = map.frames[Number(input.value)];
      output.textContent = frame ? frame.label : map.label;
      draw(frame ? frame.values : map.values);
    };
    const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
    input.addEventListener("input", () => { stop(); turn(); });
    button.addEventListener("click", () => {
      if (timer) { stop(); return; }
      if (input.value === input.max) input.value = -1;
      button.textContent = "Pause";
      timer = setInterval(() => {
        input.value = Number(input.value) + 1;
        turn();
        if (input.value === input.max) stop();
      }, 160);
    });
    slider.hidden = false;
  };

  let plots = 0;
  for (const figure of document.querySelectorAll("figure.chart")) {
    const canvas = figure.querySelector(".canvas");
    if (!canvas) continue;
    const content = data(canvas);
    for (const svg of canvas.querySelectorAll("svg.plot")) {
      const box = svg.getBoundingClientRect();
      if (box.width > 0 && box.height > 0) ++plots;
      if (!content) continue;
      if (content.lines) lineChart(svg, content); else heatMap(figure, svg, content);
    }
  }
  addEventListener("scroll", hide, {passive: true});
  document.documentElement.dataset.plots = plots;  // those that can be seen
})();
)js";

}  // namespace sluice::report
