// Datasets, and all about the open one: what happened to it, what it holds, which rows its indexes cover.
import { api, useAnswer } from "./api.js";
import { html, useState } from "./lib.js";
import { Answered, Bar, Copy, Empty, hue, Icon, Modality } from "./parts.js";
import { change, link, usePlace } from "./place.js";
import { ago, count, percent, plural, when } from "./show.js";
import { Table } from "./table.js";

const DOTS = { done: "check", failed: "x", running: "loader" };
const FEW = 8; // versions that are shown at first

function Modalities({ of }) {
  const all = Object.values(of).reduce((sum, rows) => sum + rows, 0);
  const shares = Object.entries(of);
  return html`<section class="panel pad"><h3>Rows by modality</h3>
    <div class="stack" aria-hidden="true">${shares.map(([name, rows]) => html`<span key=${name} class=${hue(name)}
      style=${{ flexGrow: rows }}></span>`)}</div>
    <ul class="legend">${shares.map(
      ([
        name,
        rows,
      ]) => html`<li key=${name}><a href=${link("search", { modality: name })}><${Modality} of=${name} /></a>
      <span class="number">${count(rows)}</span><span class="number faint">${percent(rows, all)}</span></li>`,
    )}</ul></section>`;
}

const Tags = ({ of }) =>
  of.map((tag) => html`<span key=${tag} class="badge ${tag.startsWith("live") ? "good" : ""}">${tag}</span>`);

// Runs and rollbacks, newest first, as a line in time.
function History({ entries }) {
  if (!entries.length)
    return html`<section class="panel pad"><h3>History</h3><p class="soft">No run of this lake has made it.</p>
      </section>`;
  return html`<section class="panel pad"><h3>History</h3><ol class="timeline">${entries.map(
    (one) => html`
    <li key=${one.id} class="at-${one.what === "rollback" ? "rollback" : one.status}">
      <span class="dot"><${Icon}
        name=${one.what === "rollback" ? "undo-2" : (DOTS[one.status] ?? "circle-stop")} /></span>
      <div><p><strong>${one.what === "rollback" ? "rollback" : html`<a
        href=${link("runs", { run: one.id })}>${one.by}</a>`}</strong>
        ${one.version && html` <span class="number">v${one.version}</span>`} <${Tags} of=${one.tags} />
        <time class="faint" datetime=${one.at} title=${when(one.at)}>${ago(one.at)}</time></p>
        <p class="soft">${
          one.what === "rollback"
            ? `by ${one.by}${one.why && `: ${one.why}`}`
            : one.why ||
              (one.status === "done"
                ? `${count(one.added)} rows added${one.replaced ? ` · ${count(one.replaced)} replaced` : ""}`
                : one.status)
        }</p></div>
    </li>`,
  )}</ol></section>`;
}

function Versions({ of }) {
  const [all, setAll] = useState(false);
  const shown = all ? of : of.filter((one, index) => index < FEW || one.tags.length);
  return html`<section class="panel"><h3 class="pad">Versions</h3>
    <${Table} label="Versions" rows=${shown} keyOf=${(one) => one.version} columns=${[
    { title: "version", cell: (one) => html`<span class="number">v${one.version}</span> <${Tags} of=${one.tags} />` },
    { title: "rows", cell: (one) => count(one.rows), right: true },
    { title: "added", cell: (one) => (one.added ? `+${count(one.added)}` : ""), right: true },
    { title: "removed", cell: (one) => (one.removed ? `−${count(one.removed)}` : ""), right: true, room: 1 },
    {
      title: "run",
      cell: (one) => one.run_id && html`<a class="mono" href=${link("runs", { run: one.run_id })}>${one.run_id}</a>`,
      room: 1,
    },
    {
      title: "made",
      cell: (one) => html`<time datetime=${one.at} title=${when(one.at)}>${ago(one.at)}</time>`,
      right: true,
    },
  ]} />${shown.length < of.length && html`<p class="pad"><button class="button"
    onClick=${() => setAll(true)}>All ${of.length} versions</button></p>`}</section>`;
}

const Indexes = ({ of, rows }) =>
  html`<section class="panel"><h3 class="pad">Indexes</h3>${
    of.length
      ? html`
  <${Table} label="Indexes" rows=${of} keyOf=${(one) => one.column + one.kind} columns=${[
    { title: "column", cell: (one) => html`<span class="mono">${one.column}</span>` },
    { title: "kind", cell: (one) => one.kind },
    {
      title: "covers",
      look: "bar-cell",
      cell: (one) =>
        html`<${Bar} share=${rows ? one.rows / rows : 0} tone=${one.rows < rows ? "warn" : "good"}
          label=${percent(one.rows, rows)} />`,
    },
    { title: "rows", cell: (one) => `${count(one.rows)} of ${count(rows)}`, right: true },
  ]} />`
      : html`<p class="pad soft">None: every search looks at every row, which is exact.</p>`
  }</section>`;

const Columns = ({ of }) =>
  html`<section class="panel"><h3 class="pad">Columns</h3><${Table} label="Columns" rows=${of}
    keyOf=${(one) => one.name} columns=${[
    { title: "name", cell: (one) => html`<span class="mono">${one.name}</span>` },
    {
      title: "type",
      cell: (one) => html`<span class="mono soft type" title=${one.type}>${one.type.replaceAll("item: ", "")}</span>`,
      look: "long",
    },
  ]} /></section>`;

function Dataset({ name }) {
  const found = useAnswer((options) => api.dataset(name, options), name);
  return html`<div class="dataset"><${Answered} of=${found} tall>${(one) => html`
    <header class="bar-of-tools"><h2>${one.name}</h2>
      <span class="badge good">${one.live ? `live v${one.live}` : "not live"}</span>
      <span class="soft mono uri">${one.uri}</span><${Copy} text=${one.uri} label="Copy the uri" /><span class="right">
        </span>
      <a class="button" href=${link("search", { in: one.name })}><${Icon} name="search" />Search it</a></header>
    <dl class="tiles"><div><dt>rows</dt><dd>${count(one.rows)}</dd></div><div><dt>latest version</dt>
      <dd>v${one.version}</dd></div>
      <div><dt>columns</dt><dd>${one.columns.length}</dd></div>
      <div><dt>quarantined</dt><dd>${one.quarantined ? html`<a
        href=${link("quarantine", { of: one.name })}>${count(one.quarantined)}</a>` : "0"}</dd></div>
      <div class="wide"><dt>encoders</dt><dd
        class="chips">${one.encoders.filter((stage) => stage.family !== "decode").map((stage) => html`<span
        key=${stage.use} class="chip">${stage.use}</span>`)}</dd></div></dl>
    <div class="halves"><div><${Modalities} of=${one.modalities} /><${History} entries=${one.history} />
      <${Indexes} of=${one.indexes} rows=${one.rows} /></div>
      <div><${Versions} of=${one.versions} /><${Columns} of=${one.columns} /></div></div>`}<//></div>`;
}

export function Datasets() {
  const { state } = usePlace();
  const found = useAnswer(async (options) => (await api.datasets(options)).datasets, "datasets");
  const name = state.name ?? found.answer?.[0]?.name;
  return html`<div class="page"><${Answered} of=${found}>${(datasets) =>
    datasets.length
      ? html`
    ${
      datasets.length > 1 &&
      html`<section class="panel"><h3 class="pad">${plural(datasets.length, "dataset")}</h3>
        <${Table} label="Datasets" rows=${datasets} keyOf=${(one) => one.name} chosen=${name}
      open=${(one) => change({ name: one.name })} columns=${[
        { title: "name", cell: (one) => html`<strong>${one.name}</strong>` },
        { title: "live", cell: (one) => (one.live ? `v${one.live}` : "–"), right: true },
        { title: "latest", cell: (one) => `v${one.version}`, right: true, room: 1 },
        { title: "rows", cell: (one) => count(one.rows), right: true },
        { title: "quarantined", cell: (one) => count(one.quarantined), right: true },
      ]} /></section>`
    }
    <${Dataset} key=${name} name=${name} />`
      : html`
    <${Empty} icon="database" title="No dataset yet">
      <p>A run makes one: <code>raycluster run workload.yaml</code>, or <code>raycluster demo</code> for a sample.</p>
      <//>`}<//></div>`;
}
