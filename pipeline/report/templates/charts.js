"use strict";
// The numbers of a mark are its name; they are shown below the chart. Arrow keys go from mark to mark.
for (const chart of document.querySelectorAll(".chart")) {
  const marks = [...chart.querySelectorAll(".role-mark [aria-label]")], says = chart.querySelector(".says");
  if (marks.length) says.textContent = "Numbers: by pointer or arrow keys.";
  marks.forEach((mark, at) => {
    mark.setAttribute("tabindex", at ? -1 : 0);  // one stop of the Tab key a chart
    const show = () => { says.textContent = mark.getAttribute("aria-label"); };
    mark.addEventListener("pointerover", show);
    mark.addEventListener("focus", show);
    mark.addEventListener("keydown", (event) => {
      const to = {ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1}[event.key];
      if (to === undefined) return;
      event.preventDefault();
      marks[to]?.focus();
    });
  });
}
