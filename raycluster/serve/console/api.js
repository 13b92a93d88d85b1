// Questions become requests, and answers or failures: the only file that knows URLs and the token.
// URLs are relative to the page, so that it also works below a prefix.
import { useCallback, useEffect, useRef, useState } from "./lib.js";

const TOKEN = "raycluster.token";
const V1 = "v1";
const PREVIEW_BYTES = 8 << 20;

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => {
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
    dispatchEvent(new Event("token"));
  },
};

// What an endpoint said no with, as DESIGN.md section 7 has it.
export class Failure extends Error {
  constructor({ code = "internal", message, fix = "", field = "" }, status = 0) {
    super(message);
    Object.assign(this, { code, fix, field, status });
  }
}

async function ask(path, { method = "GET", body, signal, headers = {} } = {}) {
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure({
      code: "unreachable",
      message: "the server does not answer",
      fix: "is `raycluster serve` running?",
    });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  if (response.status === 401) dispatchEvent(new Event("unauthenticated"));
  throw new Failure(said.error ?? { message: `the server answered ${response.status}` }, response.status);
}

const json = async (path, options) => (await ask(path, options)).json();

function url(parts, query = {}) {
  const path = [V1, ...parts].map(encodeURIComponent).join("/");
  const given = Object.entries(query).flatMap(([key, value]) =>
    [value]
      .flat()
      .filter((one) => one !== undefined && one !== null && one !== "")
      .map((one) => [key, one]),
  );
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export const api = {
  datasets: (options) => json(url(["datasets"]), options),
  dataset: (name, options) => json(url(["datasets", name]), options),
  search: (name, question, options) =>
    json(url(["datasets", name, "search"]), { method: "POST", body: question, ...options }),
  searchSeveral: (question, options) => json(url(["search"]), { method: "POST", body: question, ...options }),
  facets: (name, columns, filter, options) =>
    json(url(["datasets", name, "facets"], { columns: columns.join(","), filter }), options),
  rows: (name, asked, options) => json(url(["data", name], asked), options),
  row: (name, id, options) => json(url(["datasets", name, "rows", id]), options),
  thumbnail: async (name, id, options) => (await ask(url(["datasets", name, "rows", id, "thumbnail"]), options)).blob(),
  // A link to the object's bytes that a player can follow, which sends no header.
  media: async (name, id, options) =>
    (await json(url(["datasets", name, "rows", id, "media"], { ticket: "new" }), options)).url,
  runs: (asked, options) => json(url(["runs"], asked), options),
  run: (id, options) => json(url(["runs", id]), options),
  quarantine: (name, asked, options) => json(url(["quarantine", name], asked), options),
  // The first bytes of what could not be used, to be looked at.
  quarantined: async (name, id, options) =>
    (
      await ask(url(["quarantine", name, id, "media"]), {
        ...options,
        headers: { Range: `bytes=0-${PREVIEW_BYTES - 1}` },
      })
    ).arrayBuffer(),
  costs: (asked, options) => json(url(["costs"], asked), options),
};

const NOTHING = { answer: null, failure: null, busy: false };

// Ask when something that the question is made of changes; the last answer stays until the next is there.
// `key`: the question as a text; null: nothing to ask yet.
export function useAnswer(question, key) {
  const [state, setState] = useState({ ...NOTHING, busy: key !== null });
  const [turn, setTurn] = useState(0);
  const latest = useRef(question);
  latest.current = question;
  useEffect(() => {
    if (key === null) return setState(NOTHING);
    const stop = new AbortController();
    setState((before) => ({ ...before, busy: true }));
    latest.current({ signal: stop.signal }).then(
      (answer) => stop.signal.aborted || setState({ answer, failure: null, busy: false }),
      (failure) => stop.signal.aborted || setState((before) => ({ ...before, failure, busy: false })),
    );
    return () => stop.abort();
  }, [key, turn]);
  useEffect(() => {
    const again = () => {
      setState(NOTHING); // what another user was told is not for this one
      setTurn((before) => before + 1);
    };
    addEventListener("token", again);
    return () => removeEventListener("token", again);
  }, []);
  return { ...state, again: useCallback(() => setTurn((before) => before + 1), []) };
}
