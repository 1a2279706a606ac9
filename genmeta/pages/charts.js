"use strict";
// Values under the pointer, or under the cursor that the arrow keys move when a chart has the focus.
(() => {
  const tip = document.getElementById("tip");
  const short = value => Math.abs(value) >= 1e5 ? value.toExponential(2) : String(value);

  const prepare = figure => {
    const svg = figure.querySelector("svg");
    const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map(side => Number(svg.dataset[side]));
    const steps = [...new Set(data.lines.flatMap(line => line.points.map(([x]) => x)))].sort((a, b) => a - b);
    const cursor = document.createElementNS(svg.namespaceURI, "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", top);
    cursor.setAttribute("y2", bottom);
    const place = x => left + (x - data.x[0]) / (data.x[1] - data.x[0]) * (right - left);
    const reach = 0.03 * (data.x[1] - data.x[0]);
    let at = -1;

    const nearest = (points, x) => points.reduce((best, p) => Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best);
    const hide = () => { cursor.remove(); tip.hidden = true; };
    const show = () => {
      const x = steps[at], box = svg.getBoundingClientRect();
      cursor.setAttribute("x1", place(x));
      cursor.setAttribute("x2", place(x));
      svg.append(cursor);
      tip.textContent = "";
      const head = document.createElement("b");
      head.textContent = `${data.label} ${x}`;
      tip.append(head);
      const groups = new Map();
      for (const line of data.lines) {
        const [step, value] = nearest(line.points, x);
        if (Math.abs(step - x) > reach) continue;
        if (!groups.has(line.group)) groups.set(line.group, { colour: line.colour, values: [], step });
        groups.get(line.group).values.push(value);
      }
      for (const [name, { colour, values, step }] of groups) {
        const row = document.createElement("div"), n = values.length;
        row.className = `c${colour}`;
        const mean = Number((values.reduce((a, b) => a + b) / n).toPrecision(4));
        const range = n > 1 ? ` (${n} lines, ${short(Math.min(...values))} to ${short(Math.max(...values))})` : "";
        const at = step === x ? "" : ` (${data.label} ${step})`;
        row.append(document.createElement("i"), `${name}: ${short(mean)}${range}${at}`);
        tip.append(row);
      }
      tip.hidden = false;
      const middle = box.left + place(x) * box.width / svg.viewBox.baseVal.width;
      const room = document.documentElement.clientWidth;
      const beside = middle + 12 + tip.offsetWidth < room ? middle + 12 : middle - 12 - tip.offsetWidth;
      tip.style.left = `${Math.max(4, beside) + window.scrollX}px`;
      tip.style.top = `${box.top + 12 + window.scrollY}px`;
    };

    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      const wanted = data.x[0] + (x - left) / (right - left) * (data.x[1] - data.x[0]);
      at = steps.reduce((best, step, i) => Math.abs(step - wanted) < Math.abs(steps[best] - wanted) ? i : best, 0);
      show();
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", event => {
      const by = { ArrowLeft: -1, ArrowRight: 1, Home: -steps.length, End: steps.length }[event.key];
      if (event.key === "Escape") hide();
      if (by === undefined) return;
      event.preventDefault();
      at = Math.min(steps.length - 1, Math.max(0, at + by));
      show();
    });
  };

  document.querySelectorAll("figure.chart").forEach(prepare);
})();
