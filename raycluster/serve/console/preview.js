// The bytes of what could not be used become what can be seen of them: half a picture, some of a film, or the bytes.
import { api, useAnswer } from "./api.js";
import { html, useEffect, useState } from "./lib.js";
import { Answered } from "./parts.js";
import { bytes, fileName } from "./show.js";

const SHOWN = 128; // bytes that are written out: a format says what it is in the first few
const ROW = 8;

// Bytes as hex and as signs, eight a line.
export function dump(content) {
  const lines = [];
  for (let at = 0; at < Math.min(content.length, SHOWN); at += ROW) {
    const part = [...content.slice(at, at + ROW)];
    const hex = part.map((one) => one.toString(16).padStart(2, "0")).join(" ");
    const signs = part.map((one) => (one >= 32 && one < 127 ? String.fromCharCode(one) : "·")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex.padEnd(3 * ROW)} ${signs}`);
  }
  return lines.join("\n");
}

const Bytes = ({ content }) => html`<pre class="dump">${dump(content)}</pre>
  <p class="faint">the first of ${bytes(content.length)}</p>`;

function Seen({ content, row }) {
  const [url, setUrl] = useState(null);
  const [fails, setFails] = useState(false);
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([content]));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [content]);
  const given = { src: url, onError: () => setFails(true) };
  if (url && !fails && row.modality === "image")
    return html`<img class="whole" ...${given} alt=${fileName(row.uri)} />`;
  if (url && !fails && row.modality === "video") return html`<video ...${given} controls></video>`;
  if (url && !fails && row.modality === "audio") return html`<audio ...${given} controls></audio>`;
  return html`<${Bytes} content=${content} />`;
}

export function Preview({ dataset, row }) {
  const found = useAnswer(
    async (options) => new Uint8Array(await api.quarantined(dataset, row.id, options)),
    `${dataset}/${row.id}`,
  );
  if (found.failure?.status === 410) return html`<p class="faint">No preview: ${found.failure.message}.</p>`;
  return html`<section class="media"><h3>Preview</h3><${Answered} of=${found} rows=${3}>${(content) => html`<${Seen}
    content=${content} row=${row} />`}<//></section>`;
}
