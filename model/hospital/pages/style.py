"""How the report of a batch looks and what its table does: the style and the script that stand in the page itself."""

STYLE = """
:root { --ink: #1d2733; --soft: #5b6878; --line: #dde3ea; --paper: #fff; --ground: #f3f5f8; --accent: #1f5fa8;
  --warn: #8a5a00; --warn-ground: #fff6e0; --bad: #a3201d; --bad-ground: #fdecea; --bar: #4a7fb8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 "Segoe UI", system-ui, -apple-system,
  "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
.notice { background: #7a1512; color: #fff; padding: 7px 28px; font-weight: 600; letter-spacing: .01em; }
main { max-width: 1560px; margin: 0 auto; padding: 22px 28px 60px; }
h1 { font-size: 25px; margin: 6px 0 2px; font-weight: 650; }
h2 { font-size: 17px; margin: 0 0 12px; font-weight: 650; }
.made { color: var(--soft); margin: 0 0 20px; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-bottom: 18px; }
.card, section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
.card { padding: 12px 16px; }
.card b { display: block; font-size: 24px; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.2; }
.card span { color: var(--soft); }
.card.bad b { color: var(--bad); }
.card.warn b { color: var(--warn); }
section { padding: 18px 20px; margin-bottom: 18px; }
section.failures { border-left: 5px solid var(--bad); }
section.warnings { border-left: 5px solid #e0a100; }
.scroll { overflow-x: auto; }
.tall { max-height: 420px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 7px 11px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: #eaeef3; z-index: 1; font-weight: 600; vertical-align: bottom; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
td.study { white-space: nowrap; font-family: ui-monospace, Consolas, "DejaVu Sans Mono", monospace; font-size: 14px; }
td.study small { display: block; font: 12.5px/1.7 "Segoe UI", system-ui, Arial, "DejaVu Sans", sans-serif; }
#studies tbody tr { content-visibility: auto; contain-intrinsic-size: auto 150px; }
#studies tbody tr:hover { background: #f7f9fc; }
#studies td { vertical-align: middle; }
#studies img { display: block; height: 190px; width: auto; background: #fff; border: 1px solid var(--line); }
#studies th button { all: unset; cursor: pointer; }
#studies th button:focus-visible { outline: 2px solid var(--accent); }
#studies th[aria-sort=ascending] button::after { content: " \\25B2"; color: var(--accent); }
#studies th[aria-sort=descending] button::after { content: " \\25BC"; color: var(--accent); }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
td.study details { font: 13px/1.4 "Segoe UI", system-ui, Arial, "DejaVu Sans", sans-serif; color: var(--soft);
  white-space: normal; max-width: 340px; overflow-wrap: anywhere; }
td.study details p { margin: 4px 0; }
.tag { display: inline-block; padding: 0 8px; border-radius: 9px; font-size: 13px; }
.tag.warn { background: var(--warn-ground); color: var(--warn); border: 1px solid #f0d58a; }
.tag.bad { background: var(--bad-ground); color: var(--bad); border: 1px solid #f1b9b5; }
td.study ul { margin: 6px 0 0; padding: 4px 10px 4px 24px; color: var(--warn); background: var(--warn-ground);
  border-radius: 6px; min-width: 230px; max-width: 340px; white-space: normal; overflow-wrap: anywhere;
  font: 13px/1.4 "Segoe UI", system-ui, Arial, "DejaVu Sans", sans-serif; }
.tools { display: flex; gap: 14px; align-items: baseline; flex-wrap: wrap; margin-bottom: 10px; color: var(--soft); }
.tools h2 { margin: 0; color: var(--ink); }
input[type=search] { font: inherit; padding: 5px 10px; border: 1px solid #b9c3cf; border-radius: 6px; width: 250px; }
figure { margin: 0; max-width: 760px; }
figcaption, .meaning { color: var(--soft); font-size: 13.5px; margin: 8px 0 0; }
svg text { font: 13px "Segoe UI", system-ui, Arial, "DejaVu Sans", sans-serif; fill: var(--ink); }
svg .bar { fill: var(--bar); }
svg .none { fill: #b6c2cf; }
@media print { body { background: #fff; } .tools input { display: none; } .tall { max-height: none; } }
"""

SCRIPT = """
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
"""
