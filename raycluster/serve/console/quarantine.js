// What could not be used: how much of it for which reason, and each one with what was said of it.
import { api, useAnswer } from "./api.js";
import { html, useEffect, useState } from "./lib.js";
import { Preview } from "./preview.js";
import { Answered, Beside, Choice, Copy, Empty, Modality } from "./parts.js";
import { change, link, usePlace } from "./place.js";
import { ago, count, fileName, plural, when } from "./show.js";
import { Table } from "./table.js";

// The closed list of codes (DESIGN.md section 5), for people.
const MEANS = {
  unreadable: "the source refused",
  unsupported: "no decoder takes it",
  truncated: "it ends too early",
  corrupt: "its bytes contradict its format",
  empty: "nothing is in it",
  too_large: "beyond a declared limit",
  timeout: "a stage took too long",
  model_error: "an encoder failed on it",
  contract: "a check said no",
  out_of_memory: "it did not fit, even alone",
};

const Code = ({ of }) => html`<span class="badge warn" title=${MEANS[of]}>${of}</span>`;

const COLUMNS = [
  { title: "code", cell: (row) => html`<${Code} of=${row.code} />` },
  { title: "object", cell: (row) => html`<span title=${row.uri}>${fileName(row.uri)}</span>`, look: "long" },
  {
    title: "what was said",
    cell: (row) => html`<span class="soft">${row.message}</span>`,
    look: "long",
    room: 1,
  },
  { title: "stage", cell: (row) => row.stage, room: 2 },
  { title: "modality", cell: (row) => row.modality && html`<${Modality} of=${row.modality} />`, room: 2 },
  { title: "attempts", cell: (row) => count(row.attempts), right: true, room: 2 },
  {
    title: "when",
    cell: (row) => html`<time datetime=${row.at} title=${when(row.at)}>${ago(row.at)}</time>`,
    right: true,
  },
];

function Codes({ counts, chosen }) {
  const all = Object.values(counts).reduce((sum, rows) => sum + rows, 0);
  const chip = (
    code,
    rows,
    name,
  ) => html`<button key=${name} class="chip" aria-pressed=${chosen === code} title=${MEANS[code]}
    onClick=${() => change({ code, bad: null })}>
    ${name} <span class="number">${count(rows)}</span></button>`;
  return html`<div class="chips" role="group" aria-label="Codes">${chip(undefined, all, "all")}
    ${Object.entries(counts).map(([code, rows]) => chip(code, rows, code))}</div>`;
}

function Bad({ dataset, row }) {
  const close = () => change({ bad: null });
  return html`<${Beside} label="Quarantined" close=${close}>
    <header><h2 title=${row.uri}>${fileName(row.uri)}</h2><p>
      <${Code} of=${row.code} /> <span class="soft">${MEANS[row.code]}</span></p></header>
    <p class="said">${row.message}</p>
    <${Preview} dataset=${dataset} row=${row} />
    <section><h3>Object</h3><p class="uri mono">${row.uri}<${Copy} text=${row.uri} label="Copy the uri" /></p></section>
    <dl class="values">
      <div><dt>stage</dt><dd>${row.stage}</dd></div><div><dt>modality</dt><dd>${row.modality || "unknown"}</dd></div>
      <div><dt>position</dt><dd>${row.position}</dd></div><div><dt>attempts</dt><dd>${row.attempts}</dd></div>
      <div><dt>workload</dt><dd>${row.workload}</dd></div><div class="wide"><dt>when</dt><dd>${when(row.at)}</dd></div>
      <div class="wide"><dt>run</dt><dd><a class="mono" href=${link("runs", { run: row.run_id })}>${row.run_id}</a>
        </dd></div></dl>
    <section><h3>Try it again</h3><p class="uri mono">raycluster replay ${dataset}<${Copy}
      text="raycluster replay ${dataset}" label="Copy the command" /></p></section>
  <//>`;
}

function Listed({ name, state, header }) {
  const [pages, setPages] = useState(1);
  const asked = { code: state.code, run: state.run };
  const key = JSON.stringify([name, asked, pages]);
  useEffect(() => setPages(1), [name, state.code, state.run]);
  const found = useAnswer(async (options) => {
    let [after, rows, counts] = [undefined, [], {}];
    for (let page = 0; page < pages && after !== null; page += 1) {
      const answer = await api.quarantine(name, { ...asked, after }, options);
      [rows, counts, after] = [[...rows, ...answer.rows], answer.counts, answer.next];
    }
    return { rows, counts, next: after };
  }, key);
  const open = found.answer?.rows.find((row) => row.id === state.bad);
  return html`<section class="panel">${header}<${Answered} of=${found}>${({ rows, counts, next }) =>
    Object.keys(counts).length
      ? html`
    <div class="pad"><${Codes} counts=${counts} chosen=${state.code} />
      ${state.run && html`<p class="soft">of run <span class="mono">${state.run}</span> <button class="button small"
        onClick=${() => change({ run: null })}>all runs</button></p>`}</div>
    ${
      rows.length
        ? html`<${Table} label="Quarantine" columns=${COLUMNS} rows=${rows} keyOf=${(row) => row.id}
          chosen=${state.bad} open=${(row) => change({ bad: row.id })} />`
        : html`<${Empty} icon="circle-check" title="None of these">
          <button class="button" onClick=${() => change({ code: null, run: null })}>Show all</button><//>`
    }
    ${next && html`<p class="pad"><button class="button"
      onClick=${() => setPages(pages + 1)}>More than ${plural(rows.length, "row")}: show the next</button></p>`}`
      : html`<${Empty} icon="circle-check"
        title="Nothing in quarantine">Every object of ${name} could be used.<//>`}<//></section>
    ${open && html`<${Bad} key=${open.id} dataset=${name} row=${open} />`}`;
}

export function Quarantine() {
  const { state } = usePlace();
  const found = useAnswer(async (options) => (await api.datasets(options)).datasets, "datasets");
  const most = [...(found.answer ?? [])].sort((a, b) => b.quarantined - a.quarantined)[0];
  const name = state.of ?? most?.name;
  const header = html`<header class="bar-of-tools"><h2>Quarantine</h2><span class="right"></span>
      ${found.answer?.length > 0 && html`<${Choice} label="Dataset" value=${name}
        options=${found.answer.map((one) => [one.name, one.name])}
        choose=${(of) => change({ of, code: null, bad: null, run: null })} />`}</header>`;
  return html`<div class="page ${state.bad ? "with-detail" : ""}">
    <${Answered} of=${found}>${() => (name ? html`<${Listed} name=${name} state=${state} header=${header} />`
      : html`<${Empty} icon="shield-alert"
      title="No dataset yet">What a run cannot use of a dataset comes here.<//>`)}<//></div>`;
}
