// Words, a picture or a sound become a question: typed, dropped, pasted or chosen; and how to look for it.
import { html, useEffect, useRef, useState } from "./lib.js";
import { Choice, Icon, Segments, Switch } from "./parts.js";
import { change } from "./place.js";
import { count, fileName } from "./show.js";

const MODES = [
  ["vector", "Meaning"],
  ["text", "Words"],
  ["hybrid", "Both"],
];
const COUNTS = ["12", "24", "48", "96"];
const KINDS = [
  ["image", /^image\//],
  ["audio", /^(audio|video)\//],
];

// A file becomes what the endpoint takes; null: neither a picture nor a sound.
async function taken(file) {
  const kind = KINDS.find(([, types]) => types.test(file.type))?.[0];
  if (!kind) return null;
  const read = new FileReader();
  await new Promise((done, failed) => {
    read.onload = done;
    read.onerror = () => failed(read.error);
    read.readAsDataURL(file);
  });
  return {
    kind,
    name: file.name,
    base64: read.result.split(",", 2)[1],
    url: URL.createObjectURL(file),
    at: Date.now(),
  };
}

function useFiles(setFile) {
  const [over, setOver] = useState(false);
  const [refused, setRefused] = useState("");
  const take = async (files) => {
    if (!files.length) return;
    const file = await taken(files[0]);
    setRefused(file ? "" : `${files[0].name} is neither a picture nor a sound`);
    if (file) setFile(file);
  };
  useEffect(() => {
    const pasted = (event) => event.clipboardData?.files.length && take([...event.clipboardData.files]);
    const dragged = (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      setOver(event.type === "dragover");
      if (event.type === "drop") take([...event.dataTransfer.files]);
    };
    const told = [
      ["paste", pasted],
      ["dragover", dragged],
      ["drop", dragged],
      ["dragleave", dragged],
    ];
    told.forEach(([name, does]) => addEventListener(name, does));
    return () => told.forEach(([name, does]) => removeEventListener(name, does));
  }, []);
  return { over, refused, take };
}

function Datasets({ datasets, names }) {
  const menu = useRef();
  const turn = (name) => {
    const next = names.includes(name) ? names.filter((one) => one !== name) : [...names, name];
    change({ in: next.length ? next : null, open: null, of: null, label: null, media_type: null });
  };
  const close = () => menu.current.removeAttribute("open");
  const left = (event) => menu.current.contains(event.relatedTarget) || close();
  const pressed = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
    menu.current.firstElementChild.focus();
  };
  if (!names.length) return null;
  if (datasets.length < 2) return html`<span class="choice soft">in <strong class="ink">${names[0]}</strong></span>`;
  return html`<details class="menu" ref=${menu} onFocusOut=${left} onKeyDown=${pressed}><summary class="button">
      <${Icon} name="database" />${names.length === 1 ? names[0] : `${names.length} datasets`}</summary>
    <div class="menu-body" role="group" aria-label="Datasets" tabindex="-1">${datasets.map(
      (one) => html`
      <label key=${one.name}><input type="checkbox" checked=${names.includes(one.name)}
        onChange=${() => turn(one.name)} />
        <span>${one.name}</span><span class="faint number">${count(one.rows)}</span></label>`,
    )}</div></details>`;
}

const Asked = ({ kind, name, url, clear }) => html`
  <span class="asked">${kind === "image" && url ? html`<img src=${url} alt="" />` : html`<${Icon} name=${kind} />`}
    <span>${name}</span><button type="button" class="button quiet small" aria-label="Remove ${name}" onClick=${clear}>
      <${Icon} name="x" /></button></span>`;

function Filter({ where, wrong }) {
  const [text, setText] = useState(where ?? "");
  useEffect(() => setText(where ?? ""), [where]);
  const apply = (event) => {
    event.preventDefault();
    change({ where: text.trim() || null, open: null });
  };
  return html`<form class="filter" onSubmit=${apply} role="search" aria-label="Filter">
    <${Icon} name="list-filter" />
    <input class="mono" id="filter" aria-label="Filter in SQL" value=${text}
      onInput=${(event) => setText(event.target.value)} spellcheck="false"
      autocomplete="off" placeholder="Filter: features.width > 400 AND text LIKE '%snow%'"
        aria-invalid=${Boolean(wrong)} aria-describedby=${wrong ? "filter-wrong" : undefined} />
    ${where && html`<button type="button" class="button quiet small" aria-label="Clear the filter"
      onClick=${() => change({ where: null })}><${Icon} name="x" /></button>`}
  </form>`;
}

export function QuestionBox({ state, file, setFile, names, datasets, wrong, busy, toHits }) {
  const [text, setText] = useState(state.q ?? "");
  const chooser = useRef();
  const { over, refused, take } = useFiles(setFile);
  useEffect(() => setText(state.q ?? ""), [state.q]);
  const submit = (event) => {
    event.preventDefault();
    const isBoth = state.mode === "hybrid"; // words beside a picture or a sound; else they take its place
    if (!isBoth) setFile(null);
    change({ q: text.trim() || null, open: null, ...(!isBoth && { like: null, likes: null }) });
  };
  const keys = (event) => {
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    toHits();
  };
  return html`<div class="ask">
    <form class="question ${over ? "over" : ""}" onSubmit=${submit} role="search" aria-label="Search">
      <span class=${busy ? "turns" : ""}><${Icon} name=${busy ? "loader" : "search"} /></span>
      ${file && html`<${Asked} kind=${file.kind === "audio" ? "audio-lines" : "image"} name=${file.name}
        url=${file.url} clear=${() => setFile(null)} />`}
      ${state.like && !file && html`<${Asked} kind="sparkles" name=${`like ${fileName(state.likes ?? state.like)}`}
        clear=${() => change({ like: null, likes: null })} />`}
      <input id="question" aria-label="What to look for" value=${text}
        onInput=${(event) => setText(event.target.value)} onKeyDown=${keys}
        placeholder=${over ? "Drop it" : "Describe it, or drop a picture or a sound"} autocomplete="off"
          enterkeyhint="search" />
      <kbd class="hint" aria-hidden="true">/</kbd>
      <input type="file" accept="image/*,audio/*,video/*" hidden ref=${chooser}
        onChange=${(event) => take([...event.target.files])} aria-label="A picture or a sound to look for" />
      <button type="button" class="button quiet" title="Search by a picture or a sound"
        aria-label="Search by a picture or a sound" onClick=${() => chooser.current.click()}><${Icon} name="upload" />
        </button>
      <button class="button main">Search</button>
    </form>
    ${refused && html`<p class="wrong" role="alert">${refused}</p>`}
    <div class="controls">
      <${Datasets} datasets=${datasets} names=${names} />
      <${Segments} label="How to compare" name="mode" options=${MODES} value=${state.mode ?? "vector"}
        choose=${(mode) => change({ mode: mode === "vector" ? null : mode })} />
      <${Choice} label="Hits" shows value=${state.k ?? "24"}
        options=${[...new Set([...COUNTS, state.k ?? "24"])].map((one) => [one, one])}
        choose=${(k) => change({ k: k === "24" ? null : k })} />
      <${Switch} label="One per object" on=${Boolean(state.group)}
        turn=${(on) => change({ group: on ? "object" : null })} />
      <${Switch} label="Explain" on=${Boolean(state.explain)} turn=${(on) => change({ explain: on ? "1" : null })} />
      <${Filter} where=${state.where} wrong=${wrong} />
    </div>
    ${wrong && html`<p class="wrong" id="filter-wrong" role="alert">${wrong.message}${wrong.fix
      && html` · ${wrong.fix}`}</p>`}
  </div>`;
}
