"use strict";
// A click on a column's head sorts its table by that column; a second click turns the order round.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent;
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const compare = (a, b) => key(a, column).localeCompare(key(b, column), "en", { numeric: true });
    const numeric = (a, b) => Number(key(a, column)) - Number(key(b, column));
    const numbers = [...body.rows].every((row) => row.cells[column].dataset.key !== undefined);
    const rows = [...body.rows].sort(numbers ? numeric : compare);
    body.append(...(down ? rows.reverse() : rows));
  }));
}
