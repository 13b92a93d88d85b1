// The bill becomes bars over time and a ranked table; each slice opens what it is made of.
import { api, useAnswer } from "./api.js";
import { Bars } from "./bars.js";
import { html } from "./lib.js";
import { Answered, Bar, Choice, Empty, Icon, Segments } from "./parts.js";
import { change, usePlace } from "./place.js";
import { count, percent, seconds, usd } from "./show.js";
import { Table } from "./table.js";

const KEYS = [
  "team",
  "project",
  "environment",
  "workload",
  "run",
  "stage",
  "modality",
  "dataset",
  "version",
  "outcome",
  "kind",
  "node",
  "node_type",
  "market",
];
const MOMENTS = ["day", "hour", "month"];
// What a slice is cut by next, when one opens it.
const DEEPER = ["team", "project", "workload", "stage", "modality", "kind", "outcome"];
const SPANS = ["", "today", "yesterday", "24h", "7d", "30d", "this week", "last week", "this month", "last month"];
const GRAINS = [
  ["", "Auto"],
  ["hour", "Hour"],
  ["day", "Day"],
  ["month", "Month"],
];
const NONE = "–";
const SHORT_MS = 2 * 86_400_000; // of so little time, hours are shown

const named = (value, key) => (value === null ? `no ${key}` : String(value));

function next(by, only) {
  const fixed = new Set([by, ...only.map((one) => one.split("=", 1)[0])]);
  return (
    DEEPER.slice(DEEPER.indexOf(by) + 1).find((key) => !fixed.has(key)) ?? DEEPER.find((key) => !fixed.has(key)) ?? by
  );
}

async function billed(asked, by, grain, options) {
  const [table, days] = await Promise.all([
    api.costs({ ...asked, by }, options),
    MOMENTS.includes(by) ? null : api.costs({ ...asked, by: `${grain || "day"},${by}` }, options),
  ]);
  const at = days && !grain ? days.lines.map((line) => Date.parse(line.day)) : [];
  const isShort = at.length > 0 && Math.max(...at) - Math.min(...at) < SHORT_MS;
  const series = isShort ? await api.costs({ ...asked, by: `hour,${by}` }, options) : days;
  return { table, series: series ?? table, grain: days ? (isShort ? "hour" : grain || "day") : by };
}

function Only({ state, only }) {
  const drop = (text) => change({ only: only.filter((one) => one !== text) });
  return html`<p class="chips crumbs">
    ${state.run && html`<span class="chip">run <strong class="mono">${state.run}</strong>
      <button class="button quiet small" aria-label="Remove run" onClick=${() => change({ run: null })}>
      <${Icon} name="x" /></button></span>`}
    ${only.map((text) => {
      const [key, value] = [text.slice(0, text.indexOf("=")), text.slice(text.indexOf("=") + 1)];
      return html`<span key=${text} class="chip">${value ? html`${key} <strong>${value}</strong>`
        : html`<strong>no ${key}</strong>`}<button class="button quiet small" aria-label="Remove ${key} ${value}"
        onClick=${() => drop(text)}><${Icon} name="x" /></button></span>`;
    })}</p>`;
}

function Time({ state }) {
  const isCustom = state.custom === "1" || Boolean(state.until);
  const choose = (value) =>
    change(value === "custom" ? { custom: "1", since: null } : { since: value, until: null, custom: null });
  const day = (key, label) => html`<label class="choice"><span class="for-ears">${label}</span>
    <input type="date" aria-label=${label} value=${state[key] ?? ""}
      onChange=${(event) => change({ [key]: event.target.value || null, custom: "1" })} /></label>`;
  return html`<${Choice} label="Time" value=${isCustom ? "custom" : (state.since ?? "")} choose=${choose}
      options=${[...SPANS.map((one) => [one, one || "all time"]), ["custom", "from … to"]]} />
    ${isCustom && html`${day("since", "From")}${day("until", "Until")}`}`;
}

function Tiles({ total, shared }) {
  const apart = Object.values(shared).reduce((sum, nano) => sum + nano, 0) / 1e9;
  return html`<dl class="tiles"><div><dt>paid</dt><dd>${usd(total.cost_usd)}</dd></div>
    <div><dt>of it shared</dt><dd
      title="idle, start-up and Ray itself, spread over those who used the nodes">${usd(apart)}</dd></div>
    <div><dt>CPU time</dt><dd>${seconds(total.cpu_seconds)}</dd></div>
    ${total.gpu_seconds > 0 && html`<div><dt>GPU time</dt><dd>${seconds(total.gpu_seconds)}</dd></div>`}
    <div><dt>rows</dt><dd>${count(total.rows)}</dd></div>
    <div><dt>per 1,000 rows</dt>
      <dd>${total.nanousd_per_1000_rows === null ? NONE : usd(total.nanousd_per_1000_rows / 1e9)}</dd></div></dl>`;
}

function Ranked({ bill, by, open }) {
  const lines = [...bill.lines].sort((a, b) =>
    MOMENTS.includes(by) ? (a[by] < b[by] ? 1 : -1) : b.nanousd - a.nanousd,
  );
  const most = Math.max(...lines.map((line) => line.nanousd));
  const hasGpu = bill.total.gpu_seconds > 0;
  const columns = [
    { title: by, cell: (line) => html`<strong>${named(line[by], by)}</strong>`, look: "long" },
    { title: "cost", cell: (line) => usd(line.cost_usd), right: true },
    {
      title: "share",
      look: "bar-cell",
      room: 1,
      cell: (line) => html`<${Bar} share=${line.nanousd / most} label=${percent(line.nanousd, bill.total.nanousd)} />`,
    },
    { title: "percent", isSaid: false, cell: (line) => percent(line.nanousd, bill.total.nanousd), right: true },
    {
      title: "shared part",
      cell: (line) => (line.shared_nanousd ? usd(line.shared_nanousd / 1e9) : NONE),
      right: true,
      room: 2,
    },
    { title: "CPU time", cell: (line) => seconds(line.cpu_seconds), right: true, room: 1 },
    hasGpu && { title: "GPU time", cell: (line) => seconds(line.gpu_seconds), right: true, room: 1 },
    { title: "rows", cell: (line) => count(line.rows), right: true, room: 2 },
    {
      title: "per 1,000 rows",
      cell: (line) => (line.nanousd_per_1000_rows === null ? NONE : usd(line.nanousd_per_1000_rows / 1e9)),
      right: true,
      room: 2,
    },
  ].filter(Boolean);
  return html`<${Table} label=${`Costs by ${by}`} columns=${columns} rows=${lines}
    keyOf=${(line) => named(line[by], by)} open=${(line) => open(line[by])} />`;
}

export function Costs() {
  const { state } = usePlace();
  const [by, only] = [state.by ?? "team", state.only ?? []];
  const asked = { run: state.run, since: state.since, until: state.until, only };
  const found = useAnswer(
    (options) => billed(asked, by, state.grain, options),
    JSON.stringify([asked, by, state.grain]),
  );
  const open = (value) =>
    change({ only: [...only, `${by}=${value ?? ""}`], by: MOMENTS.includes(by) ? "stage" : next(by, only) });
  const narrowed = only.length || state.run || state.since || state.until;
  return html`<div class="page">
    <header class="bar-of-tools"><h2>Costs</h2>
      <${Choice} label="by" shows value=${by} options=${[...KEYS, ...MOMENTS].map((one) => [one, one])}
        choose=${(key) => change({ by: key })} />
      <${Only} state=${state} only=${only} /><span class="right"></span>
      <${Time} state=${state} />
      <${Segments} label="Width of a bar" name="grain" options=${GRAINS} value=${state.grain ?? ""}
        choose=${(grain) => change({ grain })} /></header>
    <${Answered} of=${found} tall>${({ table, series, grain }) =>
      table.lines.length
        ? html`
      <${Tiles} total=${table.total} shared=${table.shared_nanousd} />
      <section class="panel pad" aria-label="Over time"><${Bars} lines=${series.lines} by=${by} grain=${grain}
        open=${open} /></section>
      <section class="panel"><${Ranked} bill=${table} by=${by} open=${open} /></section>
      <p class="faint">Prices: ${table.prices.join(", ")
        || "none"}. Times are the server's local time. Open a line or a bar to see what it is made of.</p>`
        : html`
      <${Empty} icon="coins" title=${narrowed ? "Nothing was paid for that" : "No costs yet"}>
        ${narrowed ? html`<button class="button"
          onClick=${() => change({ only: null, run: null, since: null, until: null, custom: null })}>
            Show all</button>` : "They come with the first run."}<//>`}<//>
  </div>`;
}
