// A question, in the box or by a file, becomes hits of one dataset or several; without one, rows to look through.
import { api, useAnswer } from "./api.js";
import { QuestionBox } from "./box.js";
import { Detail } from "./detail.js";
import { Facets, condition } from "./facets.js";
import { Grid } from "./grid.js";
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { Answered, Empty, Icon, Problem } from "./parts.js";
import { change, usePlace } from "./place.js";
import { plural } from "./show.js";

const HITS = 24; // two to six rows of cards
const SHOWN = ["id", "uri", "modality", "position", "start_seconds", "end_seconds", "text"];
const MOST = 768; // hits on one page
const FACETS = ["modality", "media_type", "label"];

// What is asked of each dataset, as the search endpoint takes it; null: nothing is asked, only looked through.
function questionOf(state, file) {
  const alike = file ? { [file.kind]: file.base64 } : state.like ? { id: state.like } : null;
  const mode = state.mode ?? "vector";
  const words = state.q && (!alike || mode === "hybrid") ? { text: state.q } : null; // both: these words, and like this
  if (!alike && !words) return null;
  const question = { ...alike, ...words, k: Number(state.k ?? HITS), mode: words ? mode : "vector" };
  if (state.group) question.group = "object";
  if (state.explain) question.explain = true;
  if (words) question.highlight = true;
  return question;
}

// The rows of each dataset that pass the filter, in the order of their ids.
async function browse(names, { filter, columns, limit }, options) {
  const pages = await Promise.all(
    names.map((name) => api.rows(name, { limit, filter, columns: columns.join(",") }, options)),
  );
  const hits = pages.flatMap((page) => page.rows.map((row) => ({ ...row, dataset: page.dataset })));
  return { hits, datasets: pages, more: pages.some((page) => page.next) };
}

async function look(names, question, options) {
  const isOne = names.length === 1;
  const found = isOne
    ? await api.search(names[0], question, options)
    : await api.searchSeveral({ ...question, datasets: names }, options);
  const hits = isOne ? found.hits.map((hit) => ({ ...hit, dataset: found.dataset })) : found.hits;
  return { hits, datasets: isOne ? [found] : found.datasets, more: found.next !== null, took: found.took_ms };
}

function useHits(described, state, file) {
  const question = questionOf(state, file);
  const limit = Number(state.k ?? HITS);
  const names = (described ?? []).map((one) => one.name);
  const known = (column) => described.every((one) => one.columns.some(({ name }) => name === column));
  const filter = described ? condition(state, FACETS.filter(known)) : undefined;
  const seen = { ...question, image: null, audio: null }; // a file is known by its name and when it came
  const key = described && JSON.stringify([names, seen, file?.name, file?.at, limit, filter]);
  return useAnswer((options) => {
    if (question) return look(names, { ...question, ...(filter && { filter }) }, options);
    return browse(names, { filter, columns: [...SHOWN, "label"].filter(known), limit }, options);
  }, key);
}

const Summary = ({ found, busy }) => html`
  <p class="summary" role="status">${
    busy
      ? html`<span class="turns"><${Icon} name="loader" /></span> searching …`
      : html`
    <strong>${found.more && "first "}${plural(found.hits.length, found.took !== undefined ? "hit" : "row")}</strong>
    <span class="soft"> · ${found.datasets.map((one) => `${one.dataset} v${one.version}`).join(", ")}
    ${found.took !== undefined && ` · ${found.took < 10 ? found.took.toFixed(1) : Math.round(found.took)} ms`}</span>`
  }</p>`;

function NoHits({ state }) {
  const narrowed = state.where || FACETS.some((one) => state[one]?.length);
  const clear = () => change({ where: null, ...Object.fromEntries(FACETS.map((one) => [one, null])) });
  return html`<${Empty} icon="search" title="Nothing fits">
    ${
      narrowed
        ? html`<p>No row passes these filters.</p><button class="button" onClick=${clear}>Clear the filters</button>`
        : html`<p>Try other words, or another mode.</p>`
    }<//>`;
}

export function Search() {
  const { state } = usePlace();
  const [file, setFile] = useState(null);
  const grid = useRef();
  const datasets = useAnswer(async (options) => (await api.datasets(options)).datasets, "datasets");
  const names = useMemo(() => {
    const known = (datasets.answer ?? []).map((one) => one.name);
    const chosen = known.filter((one) => state.in?.includes(one));
    return chosen.length ? chosen : known.slice(0, 1);
  }, [datasets.answer, String(state.in)]);
  const described = useAnswer(
    (options) => Promise.all(names.map((name) => api.dataset(name, options))),
    names.length ? names.join("\n") : null,
  );
  const found = useHits(described.answer, state, file);
  const hits = found.answer?.hits ?? [];
  const of = state.of ?? names[0];
  const open = state.open && of ? { dataset: of, id: state.open } : null;
  useEffect(() => () => file && URL.revokeObjectURL(file.url), [file]);
  useEffect(() => {
    if (file) change({ like: null, likes: null, open: null }, { replaces: true });
  }, [file]);

  if (datasets.failure)
    return html`<div class="page"><${Problem} failure=${datasets.failure} again=${datasets.again} /></div>`;
  if (datasets.answer && !names.length) {
    return html`<div class="page"><${Empty} icon="database" title="No dataset yet">
      <p>A run makes one: <code>raycluster run workload.yaml</code>, or <code>raycluster demo</code> for a sample.</p>
        <//></div>`;
  }
  const place = { state, file, setFile: (next) => setFile(next), names, datasets: datasets.answer ?? [] };
  const wrong = found.failure?.field === "filter" ? found.failure : null;
  return html`
    <${QuestionBox} ...${place} wrong=${wrong} busy=${found.busy} toHits=${() => grid.current?.enter()} />
    <div class="search-body ${open ? "with-detail" : ""}">
      <${Facets} described=${described.answer} columns=${FACETS} state=${state} />
      <section class="results" aria-label="Results" aria-busy=${found.busy}>
        ${
          wrong
            ? html`<${Empty} icon="list-filter" title="The filter is wrong">What is wrong with it is said above.<//>`
            : html`
          <${Answered} of=${found} rows=${12} tall>${(answer) => html`
            <${Summary} found=${answer} busy=${found.busy} />
            ${
              hits.length
                ? html`<${Grid} api=${grid} hits=${hits} open=${open} several=${names.length > 1} />
              ${
                answer.more &&
                hits.length < MOST &&
                html`<p class="more">
                <button class="button"
                onClick=${() => change({ k: 2 * Number(state.k ?? HITS) }, { replaces: true })}>Show more</button>
                </p>`
              }`
                : html`<${NoHits} state=${state} />`
            }`}<//>`
        }
      </section>
      ${
        open &&
        html`<${Detail} key=${open.dataset + open.id} ...${open} hit=${hits.find((one) => one.id === open.id)}
        forget=${() => setFile(null)} back=${() => grid.current?.enter(open.id)} />`
      }
    </div>`;
}
