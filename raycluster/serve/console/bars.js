// Lines of a bill become stacked bars over time. The table below them says the same in words.
import { html, useEffect, useRef, useState } from "./lib.js";
import { hue, Problem } from "./parts.js";
import { usd } from "./show.js";

const HUES = 8; // told apart; what is smaller is put together
const OTHER = "smaller ones";
const MOST = 400; // bars; more would be thinner than a pixel or two

const STEP = {
  hour: (moment) => moment.setUTCHours(moment.getUTCHours() + 1),
  day: (moment) => moment.setUTCDate(moment.getUTCDate() + 1),
  month: (moment) => moment.setUTCMonth(moment.getUTCMonth() + 1),
};
const LENGTH = { hour: 13, day: 10, month: 7 }; // characters of `2026-11-28 07`

// Local moments as the bill writes them, with those between in which nothing was paid.
function moments(found, grain) {
  const sorted = [...new Set(found)].sort();
  const at = new Date(
    `${sorted[0].replace(" ", "T")}${grain === "month" ? "-01" : ""}${grain === "hour" ? "" : "T00:00"}Z`,
  );
  const all = [];
  while (all.length <= MOST) {
    const text = at.toISOString().slice(0, LENGTH[grain]).replace("T", " ") + (grain === "hour" ? ":00" : "");
    all.push(text);
    if (text >= sorted.at(-1)) return all;
    STEP[grain](at);
  }
  return sorted.slice(-MOST);
}

export function stacked(lines, by, grain) {
  const sums = new Map();
  for (const line of lines) sums.set(line[by], (sums.get(line[by]) ?? 0) + line.nanousd);
  const ranked = by === grain ? ["paid"] : [...sums].sort((a, b) => b[1] - a[1]).map(([value]) => value);
  const own = ranked.length > HUES ? ranked.slice(0, HUES - 1) : ranked;
  const labels = moments(
    lines.map((line) => line[grain]),
    grain,
  );
  const rows = new Map(
    [...own, ...(own.length < ranked.length ? [OTHER] : [])].map((value) => [value, labels.map(() => 0)]),
  );
  for (const line of lines) {
    const value = by === grain ? "paid" : rows.has(line[by]) ? line[by] : OTHER;
    const index = labels.indexOf(line[grain]);
    if (index >= 0) rows.get(value)[index] += line.nanousd / 1e9;
  }
  return {
    labels,
    series: [...rows].map(([value, costs]) => ({ value, costs, opens: own.includes(value) && by !== grain })),
  };
}

const color = (name) => {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};

function settings({ labels, series }, by, open) {
  const [ink, line, raised, text] = ["soft", "line", "raised", "ink"].map(color);
  globalThis.Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  const axis = {
    border: { display: false },
    ticks: { color: ink, font: { size: 11 }, maxRotation: 0, autoSkipPadding: 16 },
  };
  return {
    type: "bar",
    data: {
      labels,
      datasets: series.map(({ value, costs }, index) => ({
        label: value ?? `no ${by}`,
        data: costs,
        backgroundColor: color(by === "modality" ? hue(value) : `hue-${value === OTHER ? 0 : index + 1}`),
        maxBarThickness: 56,
        borderRadius: 2,
        borderSkipped: false,
        borderColor: color("surface"),
        borderWidth: 1,
      })),
    },
    options: {
      animation: false,
      maintainAspectRatio: false,
      interaction: { mode: "index", intersect: false },
      onClick: (event, _, chart) => {
        const [hit] = chart.getElementsAtEventForMode(event, "nearest", { intersect: true }, true);
        if (hit && series[hit.datasetIndex].opens) open(series[hit.datasetIndex].value);
      },
      scales: {
        x: { ...axis, stacked: true, grid: { display: false } },
        y: {
          ...axis,
          stacked: true,
          grid: { color: line },
          ticks: {
            ...axis.ticks,
            maxTicksLimit: 5,
            callback: (value) => `$${value.toLocaleString("en", { maximumSignificantDigits: 2 })}`,
          },
        },
      },
      plugins: {
        legend: {
          position: "bottom",
          align: "start",
          labels: { color: ink, boxWidth: 10, boxHeight: 10, padding: 14, font: { size: 12 } },
        },
        tooltip: {
          backgroundColor: raised,
          titleColor: text,
          bodyColor: text,
          footerColor: text,
          borderColor: line,
          borderWidth: 1,
          padding: 10,
          boxPadding: 4,
          filter: (point) => point.raw > 0,
          itemSort: (a, b) => b.raw - a.raw,
          callbacks: {
            label: (point) => ` ${point.dataset.label}  ${usd(point.raw)}`,
            footer: (points) =>
              points.length > 1 ? `${usd(points.reduce((sum, point) => sum + point.raw, 0))} in all` : "",
          },
        },
      },
    },
  };
}

export function Bars({ lines, by, grain, open }) {
  const canvas = useRef();
  const [turn, setTurn] = useState(0);
  const [failure, setFailure] = useState(null);
  useEffect(() => {
    const again = () => setTurn((before) => before + 1);
    addEventListener("theme", again);
    return () => removeEventListener("theme", again);
  }, []);
  useEffect(() => {
    let chart;
    let isOver = false;
    // only this view needs the library, which is most of the console's weight
    import("./vendor/chart.js")
      .then(() => {
        if (!isOver) chart = new globalThis.Chart(canvas.current, settings(stacked(lines, by, grain), by, open));
      })
      .catch((error) => setFailure({ code: "internal", message: "the chart cannot be drawn", fix: error.message }));
    return () => {
      isOver = true;
      chart?.destroy();
    };
  }, [lines, by, grain, turn]);
  if (failure) return html`<${Problem} failure=${failure} />`;
  return html`<div class="chart"><canvas ref=${canvas} role="img"
    aria-label="Costs by ${by}, ${grain} by ${grain}, as stacked bars; the table below has the sums"></canvas></div>`;
}
