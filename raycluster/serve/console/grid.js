// Hits become a grid of cards that one moves through with the arrow keys; one of them holds the focus (roving).
import { Fragment, html, useEffect, useRef, useState } from "./lib.js";
import { Bar, Modality, Thumbnail } from "./parts.js";
import { change } from "./place.js";
import { clock, fileName } from "./show.js";

const SNIPPET = 180; // characters of a card's text

export const keyOf = (hit) => `${hit.dataset}/${hit.id}`;

// A text with the places of the question's words marked, as elements: nothing of a corpus is ever read as markup.
// `spans`: [start, end) of each, in characters, of which JavaScript's own strings may hold two for one.
export function Marked({ text, spans = [] }) {
  if (!spans.length) return text;
  const signs = Array.from(text);
  const cut = (from, to) => signs.slice(from, to).join("");
  let at = 0;
  const parts = spans.map(([start, end]) => {
    const before = cut(at, start);
    at = end;
    return html`<${Fragment} key=${start}>${before}<mark>${cut(start, end)}</mark><//>`;
  });
  return html`${parts}${cut(at)}`;
}

// The words that were found, where the whole text is shown: those of its parts, moved to where the parts begin.
export const spansOf = (highlights) =>
  (highlights ?? []).flatMap((part) => part.words.map((word) => word.map((at) => at + part.start)));

const Excerpt = ({ hit }) => {
  const [part] = hit.highlights ?? [];
  if (part) return html`${part.start > 0 && "… "}<${Marked} text=${part.text} spans=${part.words} />`;
  return hit.text.slice(0, SNIPPET);
};

export function span({ start_seconds: start, end_seconds: end, modality }) {
  if (start === null || start === undefined || modality === "sensor") return "";
  return end > start ? `${clock(start)}–${clock(Math.ceil(end))}` : clock(start);
}

const place = (hit) =>
  span(hit) ||
  (hit.modality === "document"
    ? `page ${hit.position + 1}`
    : hit.modality === "text" && hit.position
      ? `part ${hit.position + 1}`
      : "");

function Card({ hit, best, several, chosen, focused, open, focus }) {
  const name = fileName(hit.uri);
  const { text } = hit;
  const page = text && html`<span class="page-of-text"><${Excerpt} hit=${hit} /></span>`;
  return html`<li id=${`hit-${keyOf(hit)}`} role="option" class="card" tabindex=${focused ? 0 : -1}
      aria-selected=${chosen} onClick=${open} onFocus=${focus}>
    ${
      hit.modality === "text" && text
        ? page
        : html`<${Thumbnail} dataset=${hit.dataset} id=${hit.id} modality=${hit.modality}
          without=${hit.modality === "document" && text ? page : undefined} />`
    }
    <span class="over"><${Modality} of=${hit.modality} named=${false} />${place(hit) && html`<span
      class="number">${place(hit)}</span>`}</span>
    <span class="caption"><span class="name" title=${hit.uri}>${name}</span>
      ${hit.score !== undefined && html`<span class="number soft">${hit.score.toFixed(3)}</span>`}</span>
    ${hit.score !== undefined && html`<${Bar} share=${best > 0 ? hit.score / best : 0} />`}
    ${
      hit.modality !== "text" &&
      (text || hit.label) &&
      html`<p class="snippet">
      ${text ? html`<${Excerpt} hit=${hit} />` : hit.label}</p>`
    }
    ${several && html`<p class="faint">${hit.dataset}</p>`}
  </li>`;
}

const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

export function Grid({ api, hits, open, several }) {
  const list = useRef();
  const [at, setAt] = useState(0);
  const best = Math.max(...hits.map((hit) => hit.score ?? 0));
  useEffect(() => setAt(0), [hits]);
  const show = (hit, replaces = false) => change({ open: hit.id, of: several ? hit.dataset : null }, { replaces });
  const move = (index) => {
    const next = Math.max(0, Math.min(hits.length - 1, index));
    list.current.children[next]?.focus();
    if (open) show(hits[next], true);
  };
  api.current = {
    enter: (id) => {
      const index = id ? hits.findIndex((hit) => hit.id === id) : at;
      list.current?.children[Math.max(0, index)]?.focus();
    },
  };
  const columns = () => getComputedStyle(list.current).gridTemplateColumns.split(" ").length;
  const pressed = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event;
    if (key in STEPS) move(at + STEPS[key]);
    else if (key === "ArrowDown") move(at + columns());
    else if (key === "ArrowUp" && at < columns()) document.querySelector("#question").focus();
    else if (key === "ArrowUp") move(at - columns());
    else if (key === "Home") move(0);
    else if (key === "End") move(hits.length - 1);
    else if (key === "Enter" || key === " ") show(hits[at]);
    else return;
    event.preventDefault();
  };
  return html`<ul ref=${list} class="grid" role="listbox" aria-label="Hits" onKeyDown=${pressed}>
    ${hits.map(
      (hit, index) => html`<${Card} key=${keyOf(hit)} hit=${hit} best=${best} several=${several}
      chosen=${open?.id === hit.id} focused=${index === at} focus=${() => setAt(index)} open=${() => show(hit)} />`,
    )}
  </ul>`;
}
