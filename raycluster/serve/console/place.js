// The hash of the URL becomes the state of a view, and back: every view can be linked, reloaded and gone back to.
// `#/search?q=snow&in=sample&k=24`: a value is a text, or a list where a key may come several times.
import { useEffect, useState } from "./lib.js";

const LISTS = new Set(["in", "modality", "media_type", "label", "only"]);

export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const state = {};
  for (const [key, value] of new URLSearchParams(query)) {
    if (LISTS.has(key)) (state[key] ??= []).push(value);
    else state[key] = value;
  }
  return { view: path.split("/")[0] || "search", state };
}

export function link(view, state = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null && one !== "") query.append(key, one);
  }
  const text = query.toString();
  return `#/${view}${text ? `?${text}` : ""}`;
}

// Change some of the state. A detail that opens or a filter is a step that one can go back from; typing is none.
export function change(changes, { replaces = false } = {}) {
  const { view, state } = here();
  const next = link(view, { ...state, ...changes });
  if (next === location.hash) return;
  if (!replaces) location.hash = next;
  else {
    history.replaceState(null, "", next);
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
}

export function usePlace() {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const moved = () => setPlace(here());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return place;
}
