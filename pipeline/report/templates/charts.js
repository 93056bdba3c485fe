"use strict";
// The library takes a second to start: it is fetched when the page is there and its table can be used.
window.addEventListener("load", () => setTimeout(() => {
  const library = document.createElement("script");
  library.src = "assets/plotly.min.js";
  library.onload = draw;
  document.body.append(library);
}, 50));

function draw() {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    return {"font.color": ink, "xaxis.gridcolor": line, "yaxis.gridcolor": line, "xaxis.linecolor": line, "yaxis.linecolor": line};
  };
  const boxes = charts.map((chart, number) => {
    const box = document.getElementById(`chart-${number}`);
    window.Plotly.newPlot(box, chart.data, chart.layout, {responsive: true, displaylogo: false, displayModeBar: false}).then(() => window.Plotly.relayout(box, colours()));
    return box;
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => boxes.forEach((box) => window.Plotly.relayout(box, colours())));
}
