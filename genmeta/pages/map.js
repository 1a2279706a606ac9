"use strict";
// A map of points: each has a thumbnail in the atlas, and for every way of colouring a kind.
if (document.getElementById("map")) (() => {
  const el = id => document.getElementById(id);
  const data = JSON.parse(el("data").textContent);
  const canvas = el("map"), pen = canvas.getContext("2d"), tip = el("tip"), atlas = el("atlas");
  const [width, height, columns] = ["width", "height", "columns"].map(name => Number(atlas.dataset[name]));
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // on light ground the same colours as in the PNG files (genmeta/explore/drawing.py)
  const colour = i => `hsl(${i * 137.508 % 360} 65% ${(dark.matches ? [62, 78, 50] : [42, 58, 30])[i % 3]}%)`;
  let view, places, alone = null, dragged = null;

  const add = (parent, tag, text) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const whole = () => {
    const { x, y } = data.maps[el("which").value];
    const range = v => [v.reduce((a, b) => Math.min(a, b)), v.reduce((a, b) => Math.max(a, b))];
    const [x0, x1] = range(x), [y0, y1] = range(y);
    const scale = 0.94 * Math.min(canvas.clientWidth / (x1 - x0 || 1), canvas.clientHeight / (y1 - y0 || 1));
    view = { scale, x: canvas.clientWidth / 2 - scale * (x0 + x1) / 2, y: canvas.clientHeight / 2 + scale * (y0 + y1) / 2 };
  };
  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    pen.scale(ratio, ratio);
    const { x, y } = data.maps[el("which").value], kind = data.kinds[el("by").value];
    places = x.map((value, i) => [view.x + view.scale * value, view.y - view.scale * y[i]]);
    places.forEach(([px, py], i) => {
      const faded = alone !== null && kind.of[i] !== alone;
      pen.globalAlpha = faded ? 0.15 : 0.9;
      pen.fillStyle = faded ? "#999" : colour(kind.of[i]);
      pen.beginPath();
      pen.arc(px, py, 2.8, 0, 7);
      pen.fill();
    });
  };
  const legend = () => {
    el("legend").textContent = "";
    data.kinds[el("by").value].names.forEach((name, i) => {
      const entry = add(el("legend"), "button");
      entry.type = "button";
      entry.setAttribute("aria-pressed", alone === i);
      add(entry, "i").style.background = colour(i);
      entry.append(name);
      entry.onclick = () => only(alone === i ? null : i);
    });
  };
  const only = kind => {
    alone = kind;
    [...el("legend").children].forEach((entry, i) => entry.setAttribute("aria-pressed", i === kind));
    draw();
  };
  const nearest = event => {
    const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    let best = -1, least = 12 * 12;
    places.forEach(([x, y], i) => {
      const d = (x - px) ** 2 + (y - py) ** 2;
      if (d < least) { least = d; best = i; }
    });
    return best;
  };
  const show = event => {
    const i = nearest(event);
    tip.hidden = i < 0;
    if (i < 0) return;
    const small = tip.querySelector("canvas"), text = tip.querySelector("div");
    small.width = width;
    small.height = height;
    small.getContext("2d").drawImage(atlas, i % columns * width, Math.floor(i / columns) * height, width, height, 0, 0, width, height);
    text.textContent = "";
    for (const [name, kind] of Object.entries(data.kinds)) add(text, "div", `${name}: ${kind.names[kind.of[i]]}`);
    const room = document.documentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, room)) + window.scrollX}px`;
    tip.style.top = `${event.pageY + 14}px`;
  };
  canvas.onpointermove = event => {
    if (!dragged) return show(event);
    view = { ...view, x: view.x + event.clientX - dragged.x, y: view.y + event.clientY - dragged.y };
    dragged = { x: event.clientX, y: event.clientY, moved: dragged.moved + Math.abs(event.movementX) + Math.abs(event.movementY) };
    draw();
  };
  canvas.onpointerdown = event => {
    dragged = { x: event.clientX, y: event.clientY, moved: 0 };
    canvas.setPointerCapture(event.pointerId);
    tip.hidden = true;
  };
  canvas.onpointerup = event => {
    const still = dragged && dragged.moved < 4;
    dragged = null;
    if (!still) return;
    const i = nearest(event);
    only(i < 0 ? null : data.kinds[el("by").value].of[i]);
  };
  canvas.onpointerleave = () => { tip.hidden = true; };
  canvas.onpointercancel = () => { dragged = null; };
  canvas.ondblclick = () => { whole(); only(null); };
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
    const factor = Math.exp(-event.deltaY / 400);
    view = { scale: view.scale * factor, x: px + factor * (view.x - px), y: py + factor * (view.y - py) };
    draw();
  }, { passive: false });
  el("which").onchange = () => { whole(); draw(); };
  el("by").onchange = () => { alone = null; legend(); draw(); };
  dark.onchange = () => { legend(); draw(); };
  window.onresize = () => { whole(); draw(); };
  whole();
  legend();
  draw();
})();
