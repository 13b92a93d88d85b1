// One row becomes all there is to see of it: its object played from its second, its text, its columns.
import { api, useAnswer } from "./api.js";
import { Marked, span, spansOf } from "./grid.js";
import { html, useState } from "./lib.js";
import { Answered, Beside, Copy, Icon, Modality, Thumbnail } from "./parts.js";
import { change } from "./place.js";
import { fileName, when } from "./show.js";

const ABOVE = new Set(["id", "uri", "text", "modality", "thumbnail", "features", "provenance"]);
const WIDE = 24; // characters of a name and a value that get a line of their own

const HOLDS_MS = 540_000; // a ticket holds for ten minutes
// What a browser can show by itself; the rest is a file to download.
const isPicture = (type) => /^image\/(png|jpeg|gif|webp|avif|bmp|svg)/.test(type ?? "");

function Media({ dataset, id, row }) {
  const plays = row.modality === "audio" || row.modality === "video";
  const shows = plays || isPicture(row.media_type);
  const {
    answer: ticket,
    failure,
    again,
  } = useAnswer(
    async (options) => ({ url: await api.media(dataset, id, options), until: Date.now() + HOLDS_MS }),
    `${dataset}/${id}`,
  );
  const [broken, setBroken] = useState(false);
  // the ticket has ended, or no browser plays it
  const fails = () => (Date.now() > ticket.until ? again() : setBroken(true));
  const url = ticket?.url;
  const from = row.start_seconds ?? 0;
  const part =
    plays && row.start_seconds !== null ? `#t=${from}${row.end_seconds > from ? `,${row.end_seconds}` : ""}` : "";
  const picture = html`<${Thumbnail} dataset=${dataset} id=${id} modality=${row.modality} alt=${row.label ?? ""} />`;
  let shown = picture;
  if (url && isPicture(row.media_type))
    shown = html`<a href=${url} target="_blank" rel="noopener">
      <img class="whole" src=${url} alt=${row.label ?? fileName(row.uri)} /></a>`;
  if (url && row.modality === "video")
    shown = html`<video src=${url + part} onError=${fails} controls preload="metadata" playsinline
      aria-label=${fileName(row.uri)}></video>`;
  if (url && row.modality === "audio")
    shown = html`${picture}<audio src=${url + part} onError=${fails} controls preload="metadata"
      aria-label=${fileName(row.uri)}></audio>`;
  return html`<figure class="media">${shown}
    ${broken && html`<p class="wrong">This browser cannot play ${row.media_type}; the original can be saved.</p>`}
    <figcaption>${span(row) && html`<span class="number">${span(row)}</span>`}
      ${
        failure
          ? html`<span class="wrong">${shows ? "" : "no original: "}${failure.message}</span>`
          : url &&
            html`<a href=${url} target="_blank" rel="noopener" class="original">
              <${Icon} name="external-link" />original</a>`
      }</figcaption></figure>`;
}

function shownValue(value) {
  if (value === null || value === undefined) return null;
  if (Array.isArray(value) && value.length > 8 && value.every((one) => typeof one === "number"))
    return `${value.length} numbers`;
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

function Values({ title, of, except = new Set() }) {
  const known = Object.entries(of ?? {})
    .filter(([name]) => !except.has(name))
    .map(([name, value]) => [name, name.endsWith("_at") && value ? when(value) : shownValue(value)])
    .filter(([, value]) => value !== null && value !== "");
  if (!known.length) return null;
  return html`<section><h3>${title}</h3><dl class="values">${known.map(
    ([name, value]) => html`
    <div key=${name} class=${name.length + value.length > WIDE ? "wide" : ""}>
      <dt>${name}</dt><dd class="mono">${value}</dd></div>`,
  )}</dl></section>`;
}

function Why({ why }) {
  const lists = ["vector", "text"].filter((mode) => why[mode]);
  return html`<section><h3>Why it was found</h3><dl class="values">
    ${lists.map(
      (mode) => html`<div key=${mode} class="wide"><dt>by ${mode === "vector" ? "meaning" : "words"}</dt>
      <dd class="number">rank ${why[mode].rank}, ${mode === "vector" ? "cosine" : "BM25"}
        ${` ${why[mode].score.toFixed(3)}`}</dd></div>`,
    )}
    ${why.matched?.length > 0 && html`<div class="wide"><dt>its words</dt><dd>${why.matched.join(", ")}</dd>
      </div>`}</dl></section>`;
}

export function Detail({ dataset, id, hit, forget, back }) {
  const found = useAnswer(async (options) => (await api.row(dataset, id, options)).row, `${dataset}/${id}`);
  const close = () => {
    back();
    change({ open: null, of: null });
  };
  const like = () => {
    forget();
    change({ like: id, likes: found.answer?.uri, q: null, open: null, of: null });
  };
  return html`<${Beside} label="Detail" close=${close} keys=${{ m: like }}>
    <${Answered} of=${found} rows=${8}>${(row) => html`
      <header><h2 title=${row.uri}>${fileName(row.uri)}</h2><p>
        <${Modality} of=${row.modality} /> <span class="soft">${row.media_type}</span></p></header>
      <${Media} dataset=${dataset} id=${id} row=${row} />
      <div class="actions"><button class="button" onClick=${like} title="More like this (m)">
        <${Icon} name="sparkles" />More like this</button></div>
      ${row.text && html`<section><h3>Text</h3><p class="text">
        <${Marked} text=${row.text} spans=${spansOf(hit?.highlights)} /></p></section>`}
      ${hit?.why && html`<${Why} why=${hit.why} />`}
      <section><h3>Object</h3><p class="uri mono">${row.uri}<${Copy} text=${row.uri} label="Copy the uri" /></p>
        <p class="uri mono faint">${id}<${Copy} text=${id} label="Copy the id" /></p></section>
      <${Values} title="Features" of=${row.features} />
      <${Values} title="Columns" of=${row} except=${ABOVE} />
      <${Values} title="Provenance" of=${row.provenance} />`}<//>
  <//>`;
}
