// Charts of an app: uPlot, fed by /metrics.json every ten seconds, with a hover value and the newest one in words.
"use strict";
(() => {
  const box = document.querySelector("[data-charts]");
  if (!box) return;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const one = (value) => value == null ? "–" : value === 0 ? "0" : value < 10 ? value.toFixed(value < 1 ? 2 : 1) : Math.round(value).toLocaleString("en");
  const bytes = (value) => {
    if (value == null) return "–";
    let unit = 0;
    while (value >= 1024 && unit < 4) { value /= 1024; unit++; }
    return (value < 10 && unit ? value.toFixed(1) : Math.round(value)) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
  };
  const ms = (value) => value == null ? "–" : value >= 1000 ? (value / 1000).toFixed(1) + " s" : one(value) + " ms";
  const KINDS = {
    requests: { unit: (v) => one(v) + "/s", series: [["requests", "requests", 1]] },
    status: { unit: (v) => one(v) + "/s", series: [["2xx", "success", 1], ["3xx", "redirect", 2], ["4xx", "client_error", 4], ["5xx", "server_error", 3]] },
    latency: { unit: ms, series: [["p50", "p50", 1], ["p95", "p95", 2], ["p99", "p99", 3]] },
    cpu: { unit: (v) => one(v) + " CPU", series: [["CPU", "cpu", 1]] },
    memory: { unit: bytes, base: 1024, series: [["memory", "memory", 1]] },
    network: { unit: (v) => bytes(v) + "/s", base: 1024, series: [["in", "net_in", 1], ["out", "net_out", 2]] },
  };
  let data = null, plots = [];
  let range = new URLSearchParams(location.search).get("range") === "24h" ? "24h" : "1h";

  const word = (kind, [name, column], index) => (kind.series.length > 1 ? name + " " : "") + kind.unit(data[column][index]);
  const words = (kind, index) => kind.series.map((series) => word(kind, series, index)).join(" · ");
  // The values at a moment, each with the colour of its line.
  const tell = (figure, kind, index) => {
    const place = figure.querySelector(".chart-now");
    const at = data.at[index];
    place.replaceChildren();
    if (at == null) return;
    for (const series of kind.series) {
      const part = document.createElement("span");
      if (kind.series.length > 1) part.dataset.line = series[2];
      part.textContent = word(kind, series, index);
      place.append(part);
    }
    const when = { hour: "2-digit", minute: "2-digit", second: range === "1h" ? "2-digit" : undefined, hour12: false };
    place.append("at " + new Date(at * 1000).toLocaleTimeString([], when));
  };
  const draw = () => {
    plots.forEach((plot) => plot.destroy());
    plots = [];
    for (const figure of box.querySelectorAll("[data-chart]")) {
      const kind = KINDS[figure.dataset.chart], place = figure.querySelector(".plot");
      const axis = { stroke: color("--dim"), grid: { stroke: color("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      const plot = new uPlot({
        width: place.clientWidth, height: 150,
        padding: [8, 6, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
        scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : kind.base ? 1024 : 1] } },
        axes: [
          { ...axis, size: 26, space: 60, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false })) },
          { ...axis, size: 68, space: 34, incrs: kind.base ? [...Array(50).keys()].map((power) => 2 ** power) : undefined, values: (_, ticks) => ticks.map((value) => kind.unit(value)) },
        ],
        series: [{}, ...kind.series.map(([name, , tone], index) => ({
          label: name, stroke: color("--chart-" + tone), width: 1.5, points: { show: false },
          fill: kind.series.length === 1 && index === 0 ? color("--chart-1") + "22" : undefined,
        }))],
        hooks: { setCursor: [(plot) => tell(figure, kind, plot.cursor.idx ?? data.at.length - 1)] },
      }, [data.at, ...kind.series.map(([, column]) => data[column])], place);
      plots.push(plot);
      place.setAttribute("aria-label", figure.querySelector("figcaption").textContent + ", now " + words(kind, data.at.length - 1));
      tell(figure, kind, data.at.length - 1);
    }
  };
  const load = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(box.dataset.charts + "?range=" + range);
      if (!answer.ok) throw new Error();
      data = await answer.json();
    } catch {
      box.querySelectorAll(".chart-now").forEach((place) => { place.textContent = "No figures: not connected."; });
      return;
    }
    if (plots.length === 0) { draw(); return; }
    plots.forEach((plot, index) => {
      const figure = plot.root.closest("[data-chart]"), kind = KINDS[figure.dataset.chart];
      plot.setData([data.at, ...kind.series.map(([, column]) => data[column])]);
      if (plot.cursor.idx == null) tell(figure, kind, data.at.length - 1);
    });
  };
  const press = () => document.querySelectorAll("[data-range]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.range === range)));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-range]");
    if (!button) return;
    range = button.dataset.range;
    press();
    plots.forEach((plot) => plot.destroy());
    plots = [];
    load();
  });
  let resized = 0;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => data && draw(), 150); });
  document.addEventListener("berth:theme", () => data && draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => data && draw());
  document.addEventListener("visibilitychange", load);
  setInterval(load, 10000);
  press();
  load();
})();
