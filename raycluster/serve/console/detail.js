// One row becomes all there is to see of it: its object played from its second, its text, its columns.
import { api, useAnswer } from "./api.js";
import { Marked, span } from "./grid.js";
import { html, useEffect, useRef } from "./lib.js";
import { Answered, Copy, Icon, Modality, Thumbnail } from "./parts.js";
import { change } from "./place.js";
import { fileName, when } from "./show.js";

const ABOVE = new Set(["id", "uri", "text", "modality", "thumbnail", "features", "provenance"]);
const WIDE = 40; // characters of a value that get a line of their own

// What a browser can show by itself; the rest is a file to download.
const isPicture = (type) => /^image\/(png|jpeg|gif|webp|avif|bmp|svg)/.test(type ?? "");

function Media({ dataset, id, row }) {
  const plays = row.modality === "audio" || row.modality === "video";
  const shows = plays || isPicture(row.media_type);
  const { answer: url, failure } = useAnswer((options) => api.media(dataset, id, options), `${dataset}/${id}`);
  const from = row.start_seconds ?? 0;
  const part = plays && row.start_seconds !== null ? `#t=${from}${row.end_seconds > from ? `,${row.end_seconds}` : ""}` : "";
  const picture = html`<${Thumbnail} dataset=${dataset} id=${id} modality=${row.modality} alt=${row.label ?? ""} />`;
  let shown = picture;
  if (url && isPicture(row.media_type)) shown = html`<a href=${url} target="_blank" rel="noopener"><img class="whole" src=${url} alt=${row.label ?? fileName(row.uri)} /></a>`;
  if (url && row.modality === "video") shown = html`<video src=${url + part} controls preload="metadata" playsinline aria-label=${fileName(row.uri)}></video>`;
  if (url && row.modality === "audio") shown = html`${picture}<audio src=${url + part} controls preload="metadata" aria-label=${fileName(row.uri)}></audio>`;
  return html`<figure class="media">${shown}
    <figcaption>${span(row) && html`<span class="number">${span(row)}</span>`}
      ${failure ? html`<span class="wrong">${shows ? "" : "no original: "}${failure.message}</span>`
        : url && html`<a href=${url} target="_blank" rel="noopener" class="original"><${Icon} name="external-link" />original</a>`}</figcaption></figure>`;
}

function shownValue(value) {
  if (value === null || value === undefined) return null;
  if (Array.isArray(value) && value.length > 8 && value.every((one) => typeof one === "number")) return `${value.length} numbers`;
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5)));
  if (typeof value === "object") return JSON.stringify(value);
  return String(value);
}

function Values({ title, of, except = new Set() }) {
  const known = Object.entries(of ?? {}).filter(([name]) => !except.has(name))
    .map(([name, value]) => [name, name.endsWith("_at") && value ? when(value) : shownValue(value)]).filter(([, value]) => value !== null && value !== "");
  if (!known.length) return null;
  return html`<section><h3>${title}</h3><dl class="values">${known.map(([name, value]) => html`
    <div key=${name} class=${value.length > WIDE ? "wide" : ""}><dt>${name}</dt><dd class="mono">${value}</dd></div>`)}</dl></section>`;
}

const Why = ({ why }) => html`<${Values} title="Why it was found" of=${why} />`;

export function Detail({ dataset, id, hit, question, forget, back }) {
  const panel = useRef();
  const found = useAnswer(async (options) => (await api.row(dataset, id, options)).row, `${dataset}/${id}`);
  const close = () => {
    back();
    change({ open: null, of: null });
  };
  const like = () => {
    forget();
    change({ like: id, likes: found.answer?.uri, q: null, open: null, of: null });
  };
  const doing = useRef();
  doing.current = { close, like };
  useEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea") || document.querySelector("dialog[open]")) return;
      if (event.key === "Escape") doing.current.close();
      if (event.key === "m") doing.current.like();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
  return html`<aside class="detail" ref=${panel} aria-label="Detail">
    <${Answered} of=${found} rows=${8}>${(row) => html`
      <header><div><h2 title=${row.uri}>${fileName(row.uri)}</h2><p><${Modality} of=${row.modality} /> <span class="soft">${row.media_type}</span></p></div>
        <button class="button quiet" onClick=${close} aria-label="Close the detail" title="Close (Esc)"><${Icon} name="x" /></button></header>
      <${Media} dataset=${dataset} id=${id} row=${row} />
      <div class="actions"><button class="button" onClick=${like} title="More like this (m)"><${Icon} name="sparkles" />More like this</button></div>
      ${row.text && html`<section><h3>Text</h3><p class="text"><${Marked} text=${row.text} question=${question} why=${hit?.why} /></p></section>`}
      ${hit?.why && html`<${Why} why=${hit.why} />`}
      <section><h3>Object</h3><p class="uri mono">${row.uri}<${Copy} text=${row.uri} label="Copy the uri" /></p>
        <p class="uri mono faint">${id}<${Copy} text=${id} label="Copy the id" /></p></section>
      <${Values} title="Features" of=${row.features} />
      <${Values} title="Columns" of=${row} except=${ABOVE} />
      <${Values} title="Provenance" of=${row.provenance} />`}<//>
  </aside>`;
}
