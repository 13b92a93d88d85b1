// The place in the URL becomes a view below one bar; here too: theme, keys that work everywhere, and the token.
import { token } from "./api.js";
import { Costs } from "./costs.js";
import { Datasets } from "./datasets.js";
import { html, render, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";
import { Dialog, Icon } from "./parts.js";
import { here, link, usePlace } from "./place.js";
import { Quarantine } from "./quarantine.js";
import { Runs } from "./runs.js";
import { Search } from "./search.js";

const VIEWS = [
  ["search", "Search", "search", Search],
  ["datasets", "Datasets", "database", Datasets],
  ["runs", "Runs", "activity", Runs],
  ["quarantine", "Quarantine", "shield-alert", Quarantine],
  ["costs", "Costs", "coins", Costs],
];
const KEYS = [
  [["/"], "go to the search box"],
  [["←", "→", "↑", "↓"], "move through hits or rows"],
  [["Enter"], "open the detail"],
  [["Esc"], "close the detail, leave a field"],
  [["m"], "more like the open hit"],
  [["g", "s"], "search"],
  [["g", "d"], "datasets"],
  [["g", "r"], "runs"],
  [["g", "q"], "quarantine"],
  [["g", "c"], "costs"],
  [["t"], "light or dark"],
  [["?"], "these keys"],
];
const PAIR_MS = 1000; // between the two keys of a pair
const ICON = new URL("./icon.svg", import.meta.url).href;
const darkSystem = matchMedia("(prefers-color-scheme: dark)");

const isDark = () => (document.documentElement.dataset.theme ?? (darkSystem.matches ? "dark" : "light")) === "dark";

function turnTheme() {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("raycluster.theme", next);
  dispatchEvent(new Event("theme"));
}

function useTheme() {
  const [dark, setDark] = useState(isDark);
  useEffect(() => {
    const changed = () => {
      setDark(isDark());
      dispatchEvent(new Event("theme"));
    };
    const told = () => setDark(isDark());
    darkSystem.addEventListener("change", changed);
    addEventListener("theme", told);
    return () => {
      darkSystem.removeEventListener("change", changed);
      removeEventListener("theme", told);
    };
  }, []);
  return dark;
}

const writes = (target) => target.matches("input:not([type=radio], [type=checkbox]), textarea, select");

// Keys that work in every view; those of a view are its own. A key with Ctrl, Alt or Cmd is the browser's.
// They are heard as soon as the page is there, and a pair is timed by the hand, however busy the page is.
function useKeys(showKeys) {
  const before = useRef(-PAIR_MS);
  useLayoutEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (writes(event.target)) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      const second = event.timeStamp - before.current < PAIR_MS;
      before.current = event.key === "g" ? event.timeStamp : -PAIR_MS;
      const view = second && VIEWS.find(([name]) => name[0] === event.key);
      if (view) location.hash = link(view[0]);
      else if (event.key === "?") showKeys();
      else if (event.key === "t") turnTheme();
      else if (event.key === "/") toSearchBox();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

function toSearchBox(frames = 60) {
  if (here().view !== "search") location.hash = link("search");
  const box = document.querySelector("#question");
  if (box) box.select();
  else if (frames) requestAnimationFrame(() => toSearchBox(frames - 1)); // until its view is there
}

const Keys = ({ close }) => html`
  <${Dialog} title="Keys" close=${close}><dl class="keys">
    ${KEYS.map(([keys, does]) => html`<div key=${does}><dt>${keys.map((key) => html`<kbd
      key=${key}>${key}</kbd>`)}</dt><dd>${does}</dd></div>`)}
  </dl><//>`;

function SignIn({ close }) {
  const enter = (event) => {
    event.preventDefault();
    token.set(new FormData(event.target).get("token").trim());
    close();
  };
  return html`
    <${Dialog} title="Who are you?" close=${close}><form class="sign-in" onSubmit=${enter}>
      <p class="soft">This server wants a token. It is kept in this tab only, and forgotten when you close it.</p>
      <label for="token">Token</label>
      <input id="token" name="token" type="password" class="field" autocomplete="off"
        spellcheck="false" required autofocus />
      <div class="actions"><button class="button" type="button" onClick=${close}>Cancel</button>
        <button class="button main">Sign in</button></div></form><//>`;
}

function App() {
  const { view } = usePlace();
  const [dialog, setDialog] = useState(null);
  const [isKnown, setKnown] = useState(Boolean(token.get()));
  const dark = useTheme();
  useKeys(() => setDialog("keys"));
  useEffect(() => {
    const unknown = () => setDialog("sign-in");
    const told = () => setKnown(Boolean(token.get()));
    addEventListener("unauthenticated", unknown);
    addEventListener("token", told);
  }, []);
  const [name, title, , View] = VIEWS.find(([one]) => one === view) ?? VIEWS[0];
  useEffect(() => {
    document.title = `${title} · raycluster`;
  }, [title]);
  const close = () => setDialog(null);
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.querySelector("main").focus();
    }}>Skip to content</a>
    <header class="top">
      <a class="brand" href=${link("search")} aria-label="raycluster"><img src=${ICON} alt="" /><span>raycluster</span>
        </a>
      <nav aria-label="Views">${VIEWS.map(
        ([one, text, icon]) => html`
        <a key=${one} href=${link(one)} aria-current=${one === name ? "page" : undefined}><${Icon} name=${icon} />
          <span>${text}</span></a>`,
      )}</nav>
      <div class="tools">
        ${isKnown && html`<button class="button quiet" onClick=${() => token.set(null)} title="Forget the token"
          aria-label="Forget the token"><${Icon} name="log-out" /></button>`}
        <button class="button quiet" onClick=${() => setDialog("sign-in")} title="Sign in with a token"
          aria-label="Sign in with a token" hidden=${isKnown}><${Icon} name="key-round" /></button>
        <button class="button quiet" onClick=${turnTheme} title="Light or dark (t)"
          aria-label=${dark ? "Light theme" : "Dark theme"}><${Icon} name=${dark ? "sun" : "moon"} /></button>
        <button class="button quiet" onClick=${() => setDialog("keys")} title="Keys (?)" aria-label="Keys">
          <${Icon} name="circle-question-mark" /></button>
      </div>
    </header>
    <main id="main" class="view-${name}" tabindex="-1"><h1 class="for-ears">${title}</h1><${View} key=${name} /></main>
    ${dialog === "keys" && html`<${Keys} close=${close} />`}
    ${dialog === "sign-in" && html`<${SignIn} close=${close} />`}`;
}

render(html`<${App} />`, document.querySelector("#app"));
