// Rows become a table whose rows can be opened, by a click or by arrow keys and Enter.
import { html } from "./lib.js";

// columns: [{ title, cell(row), right, room, isSaid }]: `right` for numbers; `room: 1` is left out on a phone,
// `room: 2` also where a table has half a window; `isSaid: false` where only ears need the title.
export function Table({ label, columns, rows, keyOf, chosen, open }) {
  const pressed = (event) => {
    if (event.target !== event.currentTarget) return; // a link in the row
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (step) event.currentTarget[step]?.focus();
    else if (event.key === "Enter") event.currentTarget.click();
    else return;
    event.preventDefault();
  };
  const look = (column) =>
    [column.right && "right number", column.room && `room-${column.room}`, column.look].filter(Boolean).join(" ");
  return html`<div class="table-room"><table aria-label=${label}>
    <thead><tr>${columns.map((column) => html`<th key=${column.title} scope="col"
      class=${look(column)}>
      <span class=${column.isSaid === false ? "for-ears" : ""}>${column.title}</span></th>`)}</tr></thead>
    <tbody>${rows.map((row, index) => {
      const key = keyOf ? keyOf(row) : index;
      const opens = open && {
        tabindex: 0,
        onClick: () => open(row),
        onKeyDown: pressed,
        class: `opens ${key === chosen ? "chosen" : ""}`,
        "aria-current": key === chosen ? "true" : undefined,
      };
      return html`<tr key=${key} ...${opens}>${columns.map((column) => html`<td key=${column.title}
        class=${look(column)}>${column.cell(row)}</td>`)}</tr>`;
    })}</tbody>
  </table></div>`;
}
