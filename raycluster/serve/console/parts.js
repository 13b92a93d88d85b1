// What several views are made of: icons, controls, the three states of waiting, and pictures.
import { api } from "./api.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";

const SHEET = new URL("./vendor/lucide.svg", import.meta.url).href;
const AT_ONCE = 6; // thumbnails that are fetched together; more only wait in the browser

export const MODALITIES = ["image", "audio", "video", "text", "document", "sensor"];
const MODALITY_ICONS = {
  image: "image",
  audio: "audio-lines",
  video: "film",
  text: "type",
  document: "file-text",
  sensor: "chart-line",
};
const STATUS = {
  queued: ["circle-dashed", "faint"],
  running: ["loader", "accent"],
  done: ["circle-check", "good"],
  failed: ["circle-x", "bad"],
  stopped: ["circle-stop", "warn"],
};

export const Icon = ({ name }) =>
  html`<svg class="icon icon-${name}" aria-hidden="true"><use href="${SHEET}#${name}" /></svg>`;

// The colour of a modality is the same in every view; it never says something alone.
export const hue = (modality) => `hue-${MODALITIES.indexOf(modality) + 1}`;

export const Modality = ({ of, named = true }) => html`
  <span class="modality ${hue(of)}"><${Icon} name=${MODALITY_ICONS[of] ?? "box"} />
    <span class=${named ? "" : "for-ears"}>${of || "unknown"}</span></span>`;

export function Status({ of }) {
  const [icon, tone] = STATUS[of] ?? ["circle-dashed", "faint"];
  return html`<span class="status tone-${tone} ${of === "running" ? "turns" : ""}">
    <${Icon} name=${icon} />${of}</span>`;
}

// One of a few; arrow keys move as in a group of radio buttons, because it is one.
export const Segments = ({ label, name, options, value, choose }) => html`
  <fieldset class="segments"><legend class="for-ears">${label}</legend>
    ${options.map(
      ([key, text]) => html`
      <label key=${key}><input type="radio" name=${name} value=${key} checked=${key === value}
        onChange=${() => choose(key)} /><span>${text}</span></label>`,
    )}
  </fieldset>`;

export const Switch = ({ label, on, turn }) => html`
  <label class="switch"><input type="checkbox" role="switch" checked=${on}
    onChange=${(event) => turn(event.target.checked)} />
    <span class="track" aria-hidden="true"></span>${label}</label>`;

export const Choice = ({ label, value, options, choose, shows = false }) => html`
  <label class="choice"><span class=${shows ? "soft" : "for-ears"}>${label}</span>
    <select value=${value} onChange=${(event) => choose(event.target.value)} aria-label=${label}>
      ${options.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === value}>${text}</option>`)}
    </select></label>`;

export const Waiting = ({ rows = 6, tall = false }) => html`
  <div class="waiting ${tall ? "tall" : ""}" role="status"><span class="for-ears">loading</span>
    ${Array.from({ length: rows }, (_, index) => html`<div key=${index} class="bone" aria-hidden="true">
      </div>`)}</div>`;

export const Empty = ({ icon = "inbox", title, children }) => html`
  <div class="empty"><${Icon} name=${icon} /><h2>${title}</h2><div class="soft">${children}</div></div>`;

export const Problem = ({ failure, again }) => html`
  <div class="problem" role="alert"><${Icon} name="triangle-alert" />
    <div><strong>${failure.message}</strong>
      ${failure.fix && html`<p>${failure.fix}</p>`}
      <p class="faint">${failure.code}${failure.field && ` · ${failure.field}`}</p></div>
    ${again && html`<button class="button" onClick=${again}>Try again</button>`}</div>`;

// Whatever is asked for: its failure, its absence while it comes, or itself.
export function Answered({ of, rows, tall, children }) {
  if (of.failure) return html`<${Problem} failure=${of.failure} again=${of.again} />`;
  if (!of.answer) return html`<${Waiting} rows=${rows} tall=${tall} />`;
  return children(of.answer);
}

export const Bar = ({ share, tone = "accent", label }) => html`
  <span class="bar" role=${label && "img"} aria-label=${label} aria-hidden=${label ? undefined : "true"}>
    <span class="fill-${tone}" style=${{ width: `${100 * Math.min(1, Math.max(0, share))}%` }}></span></span>`;

export function Copy({ text, label }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<button class="button quiet small" onClick=${copy} title=${label} aria-label=${label}>
    <${Icon} name=${copied ? "check" : "copy"} /></button>`;
}

// A modal dialog of the browser: it keeps the focus inside, and Escape closes it.
export function Dialog({ title, close, children }) {
  const box = useRef();
  useLayoutEffect(() => {
    box.current.showModal();
  }, []);
  return html`<dialog ref=${box} class="dialog" aria-label=${title} onClose=${close}
      onClick=${(event) => event.target === box.current && close()}>
    <header><h2>${title}</h2><button class="button quiet small" aria-label="Close" onClick=${close}>
      <${Icon} name="x" /></button></header>
    ${children}</dialog>`;
}

// Keys of what is open beside a list, such as Escape; not while somebody writes, or a dialog lies over it.
function useKeys(does) {
  const latest = useRef();
  latest.current = does;
  useEffect(() => {
    const pressed = (event) => {
      const isOthers =
        event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea");
      if (!isOthers && !document.querySelector("dialog[open]")) latest.current[event.key]?.();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

// What is open beside a list; where there is no room beside it, it lies over it and takes the focus.
export function Beside({ label, close, keys = {}, children }) {
  const panel = useRef();
  useKeys({ Escape: close, ...keys });
  useLayoutEffect(() => {
    if (matchMedia("(max-width: 1099px)").matches) panel.current.focus();
  }, []);
  return html`<aside class="detail" ref=${panel} tabindex="-1" aria-label=${label}>
    <button class="button quiet close" onClick=${close} aria-label="Close" title="Close (Esc)">
      <${Icon} name="x" /></button>
    ${children}</aside>`;
}

const waiting = [];
let fetching = 0;

function fetchNext() {
  if (fetching >= AT_ONCE || !waiting.length) return;
  fetching += 1;
  waiting
    .shift()()
    .finally(() => {
      fetching -= 1;
      fetchNext();
    });
}

// A row's picture, fetched with the token once it comes into view; a row without one shows `without`, or its modality.
export function Thumbnail({ dataset, id, modality, alt = "", without }) {
  const place = useRef();
  const [url, setUrl] = useState(null);
  useEffect(() => {
    setUrl(null);
    const stop = new AbortController();
    let made;
    const load = async () => {
      if (stop.signal.aborted) return;
      try {
        made = URL.createObjectURL(await api.thumbnail(dataset, id, { signal: stop.signal }));
        if (stop.signal.aborted) URL.revokeObjectURL(made);
        else setUrl(made);
      } catch {
        // no picture, or none for this user: the modality's icon stays
      }
    };
    const seen = new IntersectionObserver(
      ([entry]) => {
        if (!entry.isIntersecting) return;
        seen.disconnect();
        waiting.push(load);
        fetchNext();
      },
      { rootMargin: "200px" },
    );
    seen.observe(place.current);
    return () => {
      seen.disconnect();
      stop.abort();
      if (made) URL.revokeObjectURL(made);
    };
  }, [dataset, id]);
  return html`<span class="thumbnail ${hue(modality)}" ref=${place}>
    ${url ? html`<img src=${url} alt=${alt} />` : (without ?? html`<${Icon}
      name=${MODALITY_ICONS[modality] ?? "box"} />`)}</span>`;
}
