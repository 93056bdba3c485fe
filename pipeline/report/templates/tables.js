// Sorting and filtering; without this script the tables are whole, in the order of the run.
if (window.DATATABLES) {
  const style = document.createElement("style");
  style.textContent = atob(window.DATATABLES_CSS);
  document.head.prepend(style);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const paint = () => document.documentElement.classList.toggle("dark", dark.matches);
  dark.addEventListener("change", paint);
  paint();
  const {ITable} = await import(window.DATATABLES);
  for (const table of document.querySelectorAll("table.display")) {
    new ITable(table, {pageLength: 25, order: [], autoWidth: false, layout: {topStart: "pageLength", topEnd: "search"}, language: {search: "Filter:"}});
  }
  document.body.dataset.ready = "true";
}
