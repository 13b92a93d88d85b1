// Counts of a dataset's values become filters to click on; several values of a column widen, several columns narrow.
import { api, useAnswer } from "./api.js";
import { html } from "./lib.js";
import { Icon, Modality } from "./parts.js";
import { change } from "./place.js";
import { count } from "./show.js";

const TITLES = { modality: "Modality", media_type: "Type", label: "Label" };
const MOST = 8; // values a column shows; chosen ones always

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

// All filters of the state as one SQL condition, but for `except`: a column's counts ignore what is chosen in it.
export function condition(state, columns, except) {
  const parts = columns
    .filter((one) => one !== except && state[one]?.length)
    .map((one) => `${one} IN (${state[one].map(quoted).join(", ")})`);
  if (!state.where) return parts.join(" AND ") || undefined;
  return parts.length ? [`(${state.where})`, ...parts].join(" AND ") : state.where;
}

async function counted(described, columns, state, options) {
  const sums = Object.fromEntries(columns.map((one) => [one, new Map()]));
  await Promise.all(
    described.flatMap(({ name, columns: all }) => {
      const there = columns.filter((one) => all.some((column) => column.name === one));
      return there.map(async (column) => {
        const { facets } = await api
          .facets(name, [column], condition(state, there, column), options)
          .catch((failure) => {
            if (failure.field !== "columns") throw failure;
            return { facets: { [column]: [] } }; // too many different values, or not for this user: no facet
          });
        for (const { value, rows } of facets[column]) {
          if (value !== null) sums[column].set(value, (sums[column].get(value) ?? 0) + rows);
        }
      });
    }),
  );
  return sums;
}

function Facet({ column, sums, chosen }) {
  const values = [...sums].sort((a, b) => b[1] - a[1]);
  const shown = values.filter(([value], index) => index < MOST || chosen.includes(value));
  const most = values[0]?.[1] ?? 1;
  const turn = (value) => {
    const next = chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value];
    change({ [column]: next.length ? next : null, open: null });
  };
  if (!values.length && !chosen.length) return null;
  return html`<fieldset class="facet"><legend>${TITLES[column] ?? column}
      ${chosen.length > 0 && html`<button class="button quiet small"
        onClick=${() => change({ [column]: null })}>clear</button>`}</legend>
    ${[...shown, ...chosen.filter((one) => !sums.has(one)).map((one) => [one, 0])].map(
      ([value, rows]) => html`
      <label key=${value} title=${value}><input type="checkbox" checked=${chosen.includes(value)}
        onChange=${() => turn(value)} />
        <span class="value">${column === "modality" ? html`<${Modality} of=${value} />` : value}</span>
        <span class="number faint">${count(rows)}</span>
        <span class="share" aria-hidden="true" style=${{ "--share": `${(100 * rows) / most}%` }}></span></label>`,
    )}
    ${values.length > shown.length && html`<p class="faint">and ${values.length - shown.length} more</p>`}
  </fieldset>`;
}

export function Facets({ described, columns, state }) {
  const key =
    described && JSON.stringify([described.map((one) => one.name), state.where, columns.map((one) => state[one])]);
  const { answer, failure } = useAnswer((options) => counted(described, columns, state, options), key);
  const chosen = columns.reduce((sum, one) => sum + (state[one]?.length ?? 0), 0);
  const wide = matchMedia("(min-width: 800px)").matches;
  return html`<details class="facets" open=${wide}>
    <summary class="button"><${Icon} name="list-filter" />Filters${chosen > 0 && html` <span
      class="badge">${chosen}</span>`}</summary>
    ${failure && failure.field !== "filter" && html`<p class="wrong">${failure.message}</p>`}
    ${columns.map((one) => html`<${Facet} key=${one} column=${one} sums=${answer?.[one] ?? new Map()}
      chosen=${state[one] ?? []} />`)}
  </details>`;
}
