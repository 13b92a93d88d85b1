// Numbers and moments become what people read; `null` becomes a dash.
const NONE = "–";
const SIZES = ["B", "kB", "MB", "GB", "TB", "PB"];
const SPANS = [
  ["year", 31_536_000],
  ["month", 2_592_000],
  ["week", 604_800],
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];
const whole = new Intl.NumberFormat("en");
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export const count = (value) => (value === null || value === undefined ? NONE : whole.format(value));

export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  let step = 0;
  for (; value >= 1000 && step < SIZES.length - 1; step += 1) value /= 1000;
  return `${step && value < 10 ? value.toFixed(1) : Math.round(value)} ${SIZES[step]}`;
}

// Costs go from nano-dollars to thousands: four digits that count, never an exponent.
export function usd(value) {
  if (value === null || value === undefined) return NONE;
  if (value === 0) return "$0";
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 1 ? 2 : Math.min(9, 2 - Math.floor(Math.log10(size)));
  return `$${value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(value % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// A place in a recording or a film, as its player shows it: 1:07, 1:02:07.
export function clock(value) {
  const total = Math.floor(value);
  const pad = (part) => String(part).padStart(2, "0");
  const minutes = Math.floor(total / 60);
  return minutes < 60
    ? `${minutes}:${pad(total % 60)}`
    : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${pad(total % 60)}`;
}

export const when = (text) => (text ? moment.format(new Date(text)) : NONE);

export function ago(text) {
  if (!text) return NONE;
  const past = (new Date(text) - Date.now()) / 1000;
  const [unit, length] = SPANS.find(([, span]) => Math.abs(past) >= span) ?? ["second", 1];
  return relative.format(Math.trunc(past / length), unit);
}

export function fileName(uri) {
  const last = (uri ?? "").split(/[?#]/)[0].replace(/\/$/, "").split("/").pop();
  try {
    return decodeURIComponent(last) || uri || NONE;
  } catch {
    return last;
  }
}

export const percent = (part, all) => (all ? `${((100 * part) / all).toFixed(part / all < 0.0995 ? 1 : 0)}%` : NONE);
