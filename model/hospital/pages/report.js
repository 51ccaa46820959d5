"use strict";
const table = document.getElementById("studies");
if (table) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], rows = [...body.rows];
  const value = (row, at) => row.cells[at].dataset.value;
  function sort(at, falling) {
    const text = heads[at].dataset.kind === "text";
    rows.sort((one, other) => {
      const a = value(one, at), b = value(other, at);
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = text ? a.localeCompare(b) : Number(a) - Number(b);
      return falling ? -order : order;
    });
    body.append(...rows);
    heads.forEach((head, i) => i === at ? head.setAttribute("aria-sort", falling ? "descending" : "ascending")
                                        : head.removeAttribute("aria-sort"));
  }
  heads.forEach((head, at) => head.querySelector("button")?.addEventListener("click", () => {
    const first = head.dataset.kind === "text" ? "ascending" : "descending";
    const again = head.getAttribute("aria-sort") === first;
    sort(at, first === "ascending" ? again : !again);
  }));
  const [, name, way] = /^#sort=([a-z_]+)(,rising)?$/.exec(location.hash) || [];
  const at = heads.findIndex(head => head.dataset.name === (name || ""));
  if (at >= 0) sort(at, !way);
  const find = document.getElementById("find"), shown = document.getElementById("shown");
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
  });
}
