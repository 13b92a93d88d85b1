// Runs, past and present: a list that stays up to date, and how far the open one has come.
import { api, useAnswer } from "./api.js";
import { html, useEffect } from "./lib.js";
import { Answered, Bar, Beside, Choice, Copy, Empty, Icon, Status } from "./parts.js";
import { change, link, usePlace } from "./place.js";
import { ago, bytes, count, percent, plural, seconds, usd, when } from "./show.js";
import { Table } from "./table.js";

const POLL_MS = 2000;
const STATUSES = ["queued", "running", "done", "failed", "stopped"];
const FIGURES = [
  ["objects", "objects"],
  ["rows", "rows"],
  ["quarantined", "quarantined"],
  ["skipped", "skipped"],
  ["replaced", "replaced"],
  ["filled", "filled"],
  ["dropped", "dropped"],
];

const goesOn = (run) => run.status === "running" || run.status === "queued";
const took = (run) =>
  run.progress?.seconds ??
  run.summary.seconds ??
  (run.finished_at ? (new Date(run.finished_at) - new Date(run.started_at)) / 1000 : null);
const cost = (run) => run.progress?.cost_usd ?? run.summary.cost_usd ?? null;
const rows = (run) => run.progress?.rows ?? run.summary.rows;

// Ask again every two seconds while something goes on and somebody looks.
function useLive(found, isLive) {
  useEffect(() => {
    if (!isLive) return undefined;
    const timer = setInterval(() => document.hidden || found.again(), POLL_MS);
    return () => clearInterval(timer);
  }, [isLive, found.again]);
}

function Progress({ run }) {
  const { progress } = run;
  if (!progress)
    return html`<p
      class="soft">
      ${run.status === "queued" ? "It waits for its turn." : "Its driver has not told yet how far it is."}</p>`;
  const { done, objects, left_seconds: left } = progress;
  return html`<div class="progress">
    <p><strong>${percent(done, objects)}</strong> <span
      class="soft">${count(done)} of ${plural(objects, "object")}</span>
      <span class="right soft">${left === null || left === undefined ? "" : `${seconds(left)} left`}</span></p>
    <${Bar} share=${objects ? done / objects : 0} label="${percent(done, objects)} done" />
    ${run.stale && html`<p class="wrong"><${Icon}
      name="triangle-alert" /> It was last heard of ${ago(progress.at)}: its driver may have died.
      ${" Running the workload again goes on where it stopped."}</p>`}
  </div>`;
}

function Stages({ stages }) {
  const found = Object.entries(stages ?? {}).map(([name, pace]) => ({ name, ...pace }));
  if (!found.length) return null;
  const most = Math.max(...found.map((one) => one.seconds));
  return html`<section><h3>Stages</h3><${Table} label="Stages" rows=${found} keyOf=${(one) => one.name} columns=${[
    { title: "stage", cell: (one) => one.name },
    {
      title: "time in it",
      cell: (one) => html`<${Bar} share=${one.seconds / most} label=${seconds(one.seconds)} />`,
      look: "bar-cell",
    },
    { title: "seconds", isSaid: false, cell: (one) => seconds(one.seconds), right: true },
    { title: "rows", cell: (one) => count(one.rows), right: true },
    { title: "rows/s", cell: (one) => count(Number((one.rate ?? one.rows / one.seconds).toPrecision(3))), right: true },
  ]} /></section>`;
}

const Figure = ({ name, children }) => html`<div><dt>${name}</dt><dd class="number">${children}</dd></div>`;

function Codes({ run }) {
  const codes = Object.entries(run.summary.codes ?? {});
  if (!codes.length) return null;
  return html`<section><h3>Quarantine</h3><p class="chips">${codes.map(
    ([code, rows]) => html`
    <a key=${code} class="chip" href=${link("quarantine", { of: run.dataset, code, run: run.run_id })}>${code} <span
      class="number">${count(rows)}</span></a>`,
  )}</p></section>`;
}

function Run({ id }) {
  const found = useAnswer((options) => api.run(id, options), id);
  useLive(found, found.answer ? goesOn(found.answer) : false);
  const close = () => change({ run: null });
  return html`<${Beside} label="Run" close=${close}>
    <${Answered} of=${found}>${(run) => html`
      <header><h2 class="mono">${run.run_id}<${Copy} text=${run.run_id} label="Copy the id" /></h2>
        <p><${Status} of=${run.status} /> <span class="soft">${run.workload} → <a
          href=${link("datasets", { name: run.dataset })}>${run.dataset}</a>
          ${run.version ? ` v${run.version}` : ""}</span></p></header>
      ${goesOn(run) && html`<${Progress} run=${run} />`}
      ${run.summary.message && html`<p
        class=${run.status === "failed" ? "said bad" : "said"}>${run.summary.message}</p>`}
      <dl class="figures">
        <${Figure} name="started">${when(run.started_at)}<//>
        <${Figure} name="took">${seconds(took(run))}<//>
        <${Figure} name="cost">${usd(cost(run))}<//>
        ${
          run.progress &&
          html`<${Figure} name="rows">${count(run.progress.rows)}<//>
            <${Figure} name="bad rows">${count(run.progress.bad)}<//>
          <${Figure} name="read">${bytes(run.progress.read_bytes)}<//>`
        }
        ${!goesOn(run) && FIGURES.filter(([key], index) => index < 3
          || run.summary[key]).map(([key, name]) => html`<${Figure} key=${key}
          name=${name}>${count(run.summary[key])}<//>`)}
        ${run.summary.size_bytes > 0 && html`<${Figure} name="read">${bytes(run.summary.size_bytes)}<//>`}
      </dl>
      <${Stages} stages=${run.progress?.stages} />
      <${Codes} run=${run} />
      <p><a class="with-icon" href=${link("costs", { run: run.run_id, by: "stage" })}>
        <${Icon} name="coins" />what it cost, by stage</a></p>`}<//>
  <//>`;
}

const COLUMNS = [
  { title: "status", cell: (run) => html`<${Status} of=${run.status} />` },
  { title: "run", cell: (run) => html`<span class="mono">${run.run_id}</span>` },
  { title: "workload", cell: (run) => run.workload, room: 2 },
  { title: "dataset", cell: (run) => run.dataset, room: 1 },
  {
    title: "progress",
    look: "bar-cell",
    room: 2,
    cell: (run) =>
      goesOn(run) && run.progress
        ? html`<${Bar} share=${run.progress.objects ? run.progress.done / run.progress.objects : 0}
          label=${percent(run.progress.done, run.progress.objects)} />`
        : "",
  },
  { title: "rows", cell: (run) => count(rows(run)), right: true },
  {
    title: "quarantined",
    cell: (run) => count(run.progress?.bad ?? run.summary.quarantined),
    right: true,
    room: 2,
  },
  { title: "took", cell: (run) => seconds(took(run)), right: true, room: 1 },
  { title: "cost", cell: (run) => usd(cost(run)), right: true, room: 1 },
  {
    title: "started",
    cell: (run) => html`<time datetime=${run.started_at} title=${when(run.started_at)}>${ago(run.started_at)}</time>`,
    right: true,
  },
];

const withoutProgress = COLUMNS.filter((column) => column.title !== "progress");

export function Runs() {
  const { state } = usePlace();
  const asked = { dataset: state.of, status: state.status };
  const found = useAnswer((options) => api.runs(asked, options), JSON.stringify(asked));
  useLive(found, Boolean(found.answer?.runs.some(goesOn)));
  const names = [
    ...new Set([...(found.answer?.runs ?? []).map((run) => run.dataset), state.of].filter(Boolean)),
  ].sort();
  const narrowed = state.of || state.status;
  const running = found.answer?.runs.filter(goesOn).length ?? 0;
  return html`<div class="page ${state.run ? "with-detail" : ""}"><section class="panel">
    <header class="bar-of-tools"><h2>Runs</h2>
      ${running > 0 && html`<span class="badge live">${running} running</span>`}
      <span class="right"></span>
      <${Choice} label="Dataset" value=${state.of ?? ""}
        options=${[["", "all datasets"], ...names.map((one) => [one, one])]} choose=${(of) => change({ of })} />
      <${Choice} label="Status" value=${state.status ?? ""}
        options=${[["", "any status"], ...STATUSES.map((one) => [one, one])]}
        choose=${(status) => change({ status })} /></header>
    <${Answered} of=${found}>${({ runs }) =>
      runs.length
        ? html`<${Table} label="Runs" columns=${running ? COLUMNS : withoutProgress} rows=${runs}
          keyOf=${(run) => run.run_id} chosen=${state.run} open=${(run) => change({ run: run.run_id })} />`
        : html`<${Empty} icon="activity" title=${narrowed ? "No such run" : "Nothing has run yet"}>
          ${narrowed ? html`<button class="button"
            onClick=${() => change({ of: null, status: null })}>Show all runs</button>`
            : html`<code>raycluster run workload.yaml</code>`}<//>`}<//>
  </section>${state.run && html`<${Run} key=${state.run} id=${state.run} />`}</div>`;
}
