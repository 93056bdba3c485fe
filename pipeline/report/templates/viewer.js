"use strict";
// Slices of a study: scrolling, window and level, points in pixels of the stack. Sizes on the screen are in mm.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = {"L1/L2": "#ff7b7b", "L2/L3": "#ffc24d", "L3/L4": "#7ee787", "L4/L5": "#79b8ff", "L5/S1": "#e3a6ff"};
let chosen = null;
let marksShown = true, outlinesShown = true;

class Viewer {
  constructor(box, number) {
    this.content = data.viewers[number];
    this.flat = this.content.stacks.flatMap((stack, s) => stack.slices.map((slice, index) => ({stack, slice, s, index})));
    this.screen = box.querySelector(".screen");
    this.canvas = box.querySelector("canvas");
    this.svg = box.querySelector("svg");
    this.slider = box.querySelector("input");
    this.where = box.querySelector(".where");
    this.shown = box.querySelector(".window");
    this.images = this.content.stacks.map((stack) => {
      const image = new Image();
      image.onload = () => this.draw();
      image.src = stack.image;
      return image;
    });
    // A linear map of grey levels, in the picture's own space; without it a browser would bend them.
    this.filter = `window-${number}`;
    const holder = document.createElementNS(SVG, "svg");
    holder.setAttribute("width", 0); holder.setAttribute("height", 0); holder.setAttribute("aria-hidden", "true");
    holder.style.position = "absolute";
    holder.innerHTML = `<filter id="${this.filter}" color-interpolation-filters="sRGB" x="0" y="0" width="1" height="1"><feComponentTransfer><feFuncR type="linear"/><feFuncG type="linear"/><feFuncB type="linear"/></feComponentTransfer></filter>`;
    document.body.append(holder);
    this.transfer = holder.querySelectorAll("feFuncR, feFuncG, feFuncB");
    this.canvas.style.filter = `url(#${this.filter})`;
    this.slider.max = this.flat.length - 1;
    this.at = this.content.start;
    this.windows = this.content.stacks.map((stack) => ({width: stack.window[1] - stack.window[0], centre: (stack.window[0] + stack.window[1]) / 2}));
    this.first = this.windows.map((window) => ({...window}));
    this.slider.addEventListener("input", () => this.go(Number(this.slider.value)));
    this.screen.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.turned = (this.turned || 0) + event.deltaY;
      if (Math.abs(this.turned) >= 30) { this.go(this.at + Math.sign(this.turned)); this.turned = 0; }
    }, {passive: false});
    this.screen.addEventListener("keydown", (event) => this.key(event));
    this.screen.addEventListener("pointerdown", (event) => { this.screen.setPointerCapture(event.pointerId); this.drag = [event.clientX, event.clientY]; });
    this.screen.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      this.change((event.clientX - this.drag[0]) / 200, (event.clientY - this.drag[1]) / 200);
      this.drag = [event.clientX, event.clientY];
    });
    for (const name of ["pointerup", "pointercancel"]) this.screen.addEventListener(name, () => { this.drag = null; });
    this.screen.addEventListener("dblclick", () => this.reset());
    new ResizeObserver(() => this.draw()).observe(this.screen);
  }

  go(slice) {
    this.at = Math.max(0, Math.min(this.flat.length - 1, slice));
    if (this.flat[this.at].stack.plane === "axial") drawAll();  // its line on the others moves with it
    else this.draw();
  }

  key(event) {
    const steps = {ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -5, PageDown: 5, Home: -1e6, End: 1e6};
    if (!(event.key in steps)) return;
    event.preventDefault();
    if (event.shiftKey && event.key.startsWith("Arrow")) {
      const across = {ArrowLeft: -0.05, ArrowRight: 0.05}[event.key] || 0, down = {ArrowUp: -0.05, ArrowDown: 0.05}[event.key] || 0;
      this.change(across, down);
    } else this.go(this.at + steps[event.key]);
  }

  // Shares of the first window's width: wider to the right, brighter upwards.
  change(across, down) {
    const s = this.flat[this.at].s, window = this.windows[s], unit = this.first[s].width;
    window.width = Math.max(unit / 50, window.width + across * unit);
    window.centre += down * unit;
    this.draw();
  }

  reset() {
    this.windows = this.first.map((window) => ({...window}));
    this.draw();
  }

  draw() {
    const {stack, slice, s, index} = this.flat[this.at];
    const image = this.images[s], [tileWidth, tileHeight] = stack.tile;
    const width = stack.cols * stack.col_mm, height = stack.rows * stack.row_mm;
    const side = this.screen.clientWidth;
    if (!image.complete || !image.naturalWidth || !side) return;
    this.scale = side / Math.max(width, height);
    const left = (side - width * this.scale) / 2, top = (side - height * this.scale) / 2;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = this.canvas.height = Math.round(side * ratio);
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (index % stack.across) * tileWidth, Math.floor(index / stack.across) * tileHeight, tileWidth, tileHeight, left, top, width * this.scale, height * this.scale);
    const {width: wide, centre} = this.windows[s], [floor, ceiling] = stack.range;
    for (const part of this.transfer) {
      part.setAttribute("slope", (ceiling - floor) / wide);
      part.setAttribute("intercept", (floor - (centre - wide / 2)) / wide);
    }
    const x = (col) => left + (col + 0.5) * stack.col_mm * this.scale, y = (row) => top + (row + 0.5) * stack.row_mm * this.scale;
    this.svg.setAttribute("viewBox", `0 0 ${side} ${side}`);
    this.svg.replaceChildren();
    if (outlinesShown && chosen !== null) {
      for (const outline of data.outlines[chosen]) {
        if (outline.kind !== this.content.kind || outline.stack !== s || !outline.slices.includes(index)) continue;
        this.add("polygon", {points: outline.corners.map(([col, row]) => `${x(col)},${y(row)}`).join(" "), fill: "none", stroke: "#ffffff", "stroke-width": 1, "stroke-dasharray": "4 3"});
      }
    }
    this.reference(stack, slice, x, y);
    if (marksShown) for (const point of slice.points) this.mark(point, x(point.x), y(point.y), side);
    const [l, r, t, b] = slice.letters;
    const middle = side / 2;
    this.text(l, 8, middle, "start", "letter left"); this.text(r, side - 8, middle, "end", "letter right");
    this.text(t, middle, 18, "middle", "letter top"); this.text(b, middle, side - 8, "middle", "letter bottom");
    this.ruler(side);
    this.slider.value = this.at;
    this.slider.setAttribute("aria-valuetext", `slice ${this.at + 1} of ${this.flat.length}`);
    this.where.textContent = `slice ${this.at + 1}/${this.flat.length}, image ${slice.instance}${slice.place ? ", " + slice.place : ""}, series ${stack.series}`;
    this.shown.textContent = `W ${Math.round(wide)} C ${Math.round(centre)}`;
  }

  // On a sagittal slice, where the axial slice that is shown beside it crosses it.
  reference(stack, slice, x, y) {
    const axial = viewers.find((other) => other !== this && other.flat[other.at].stack.plane === "axial");
    if (stack.plane !== "sagittal" || !axial || !slice.affine) return;
    const {stack: shown, slice: crossing} = axial.flat[axial.at];
    if (!crossing.affine) return;
    const column = (matrix, n) => matrix.map((row) => row[n]);
    const dot = (a, b) => a.reduce((sum, value, n) => sum + value * b[n], 0);
    const minus = (a, b) => a.map((value, n) => value - b[n]);
    const unit = (a) => a.map((value) => value / Math.hypot(...a));
    const [right, down, normal, origin] = [0, 1, 2, 3].map((n) => column(slice.affine, n));
    const across = unit(column(crossing.affine, 0));
    const ends = [0, shown.rows - 1].map((row) => {
      const edge = crossing.affine.map((line) => line[0] * (shown.cols - 1) / 2 + line[1] * row + line[3]);
      const way = dot(minus(origin, edge), normal) / dot(across, normal);  // along the axial slice to the sagittal one
      const place = minus(edge.map((value, n) => value + across[n] * way), origin);
      return [x(dot(place, right) / dot(right, right)), y(dot(place, down) / dot(down, down))];
    });
    if (ends.flat().every(Number.isFinite)) this.add("path", {d: `M${ends[0]}L${ends[1]}`, stroke: "#ffffff", "stroke-width": 1, "stroke-opacity": 0.7, "stroke-dasharray": "1 4", class: "reference"});
  }

  add(name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    this.svg.append(element);
    return element;
  }

  text(words, x, y, anchor, kind, colour = "#ffffff", size = 15) {
    const element = this.add("text", {x, y, "text-anchor": anchor, class: kind, fill: colour, "font-size": size, "font-weight": 600, "font-family": "system-ui, sans-serif", stroke: "#000", "stroke-width": 3, "paint-order": "stroke"});
    element.textContent = words;
  }

  mark(point, x, y, side) {
    const colour = COLOURS[point.level];
    const strong = point.cell === chosen;
    const shape = point.by === "reader"
      ? this.add("path", {d: `M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z`, fill: "none", stroke: "#ffffff", "stroke-width": 1.5})
      : this.add("circle", {cx: x, cy: y, r: strong ? 7 : 4.5, fill: "none", stroke: colour, "stroke-width": strong ? 3 : 2});
    shape.setAttribute("class", `point ${point.by}`);
    shape.dataset.cell = point.cell;
    shape.append(Object.assign(document.createElementNS(SVG, "title"), {textContent: point.name}));
    if (!point.label) return;
    const right = this.flat[this.at].stack.plane === "axial" ? !point.label.endsWith(" R") : x < side * 0.78;
    this.text(point.label, right ? x + 9 : x - 9, y + 4, right ? "start" : "end", "level", colour, 12);
  }

  ruler(side) {
    const mm = [100, 50, 20, 10, 5].find((length) => length * this.scale < side * 0.35) || 5;
    const length = mm * this.scale, y = side - 12;
    this.add("path", {d: `M10 ${y - 4}V${y}H${10 + length}V${y - 4}`, fill: "none", stroke: "#000", "stroke-width": 4});
    this.add("path", {d: `M10 ${y - 4}V${y}H${10 + length}V${y - 4}`, fill: "none", stroke: "#fff", "stroke-width": 2, class: "ruler", "data-mm": mm});
    this.text(`${mm} mm`, 10, y - 8, "start", "ruler", "#ffffff", 12);
  }

  show(cell) {
    const find = (by) => this.flat.findIndex(({slice}) => slice.points.some((point) => point.cell === cell && point.by === by));
    const outline = (data.outlines[cell] || []).find(({kind}) => kind === this.content.kind);
    let at = find("network");
    if (at < 0 && outline) at = this.flat.findIndex(({s, index}) => s === outline.stack && index === outline.slices[outline.slices.length >> 1]);
    if (at >= 0) this.at = at;
    this.draw();
  }
}

const viewers = [];
viewers.push(...[...document.querySelectorAll(".viewer")].map((box) => new Viewer(box, Number(box.dataset.viewer))));
const drawAll = () => viewers.forEach((viewer) => viewer.draw());

function choose(cell) {
  chosen = cell;
  for (const button of document.querySelectorAll("[data-cell]")) if (button.tagName === "BUTTON") button.setAttribute("aria-pressed", String(Number(button.dataset.cell) === cell));
  for (const section of document.querySelectorAll(".cell")) section.hidden = section.id !== `cell-${cell}`;
  viewers.forEach((viewer) => viewer.show(cell));
}

for (const button of document.querySelectorAll("button[data-cell]")) button.addEventListener("click", () => choose(Number(button.dataset.cell)));
const toggles = {
  marks: (on) => { marksShown = on; drawAll(); },
  outlines: (on) => { outlinesShown = on; drawAll(); },
  heat: (on) => document.body.classList.toggle("plain", !on),
};
for (const [id, act] of Object.entries(toggles)) {
  const box = document.getElementById(id);
  if (!box) continue;
  box.addEventListener("change", () => act(box.checked));
  document.addEventListener("keydown", (event) => {
    if (event.key !== id[0] || event.ctrlKey || event.metaKey || event.altKey) return;
    box.checked = !box.checked;
    act(box.checked);
  });
}
const resetAll = () => viewers.forEach((viewer) => viewer.reset());
const resetButton = document.getElementById("reset");
if (resetButton) resetButton.addEventListener("click", resetAll);
document.addEventListener("keydown", (event) => { if (event.key === "r" && !event.ctrlKey && !event.metaKey) resetAll(); });
if (data.worst !== null) choose(data.worst);
