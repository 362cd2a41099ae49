"""The look of the page and the script that draws its charts; both stand in it as they are here."""

STYLE = """\
:root { color-scheme: light; }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 110rem; background: #ffffff; color: #1a1a1a; line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.35rem; margin: 2.5rem 0 0.5rem; padding-top: 0.75rem; border-top: 2px solid #1a1a1a; }
h3 { font-size: 1.15rem; margin: 0.75rem 0 0.25rem; }
h4 { font-size: 1rem; margin: 1rem 0 0.25rem; }
p { margin: 0.5rem 0; max-width: 48rem; }
a { color: #0050a0; }
nav ol { padding-left: 1.5rem; columns: 2 16rem; }
nav li { padding: 0.15rem 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 2rem; }
article, figure { min-width: 0; margin: 0; }
figcaption { font-size: 15px; color: #404040; max-width: 48rem; margin: 0.25rem 0 0.5rem; }
figure > h4 { padding-right: 8.5rem; }
.chart { width: 100%; }
.chart .modebar-container { top: -2rem !important; }
.missing { border-left: 4px solid #d55e00; padding: 0.25rem 0.75rem; background: #fdf1ea; }
.scroll { overflow-x: auto; margin: 0.25rem 0 1rem; }
table { border-collapse: collapse; font-size: 15px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.9rem 0.3rem 0; border-bottom: 1px solid #dddddd; }
th, td { overflow-wrap: normal; max-width: 30rem; }
td { overflow-wrap: break-word; }
th { border-bottom: 2px solid #888888; }
@media print { figure, tr { break-inside: avoid; } }
"""

SCRIPT = """\
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const places = Array.from(document.querySelectorAll(".chart"));
  const touch = matchMedia("(pointer: coarse)").matches;
  const buttons = [["zoom2d", "pan2d", "resetScale2d", "toImage"]];
  const config = { responsive: true, displaylogo: false, typesetMath: false, modeBarButtons: buttons };

  // A long legend stands above the axes in many rows: the chart grows by them, and its axes keep their height.
  function fit(place, height) {
    const legend = place.querySelector(".legend");
    const rows = legend ? legend.getBBox().height : 0;
    const wanted = Math.round(height + Math.max(0, rows - 30));
    if (Math.abs(wanted - place.layout.height) > 4) return Plotly.relayout(place, { height: wanted });
  }

  function draw(place) {
    if (place.dataset.drawn) return;
    place.dataset.drawn = "true";
    const { data, layout, notes } = charts[Number(place.dataset.chart)];
    const height = layout.height;
    layout.dragmode = touch ? false : "zoom";  // a finger on a chart scrolls the page
    const failed = (error) => {
      console.error(error);
      place.append(`This chart could not be drawn: ${error}`);
    };
    try {
      Plotly.newPlot(place, data, layout, config).then(() => fit(place, height)).then(() => {
        const caption = place.parentElement.querySelector("figcaption");
        place.on("plotly_sliderchange", (event) => {
          if (notes.length) caption.textContent = notes[event.slider.active];
        });
        let width = place.clientWidth;
        new ResizeObserver(() => {
          if (place.clientWidth === width) return;
          width = place.clientWidth;
          requestAnimationFrame(() => fit(place, height));
        }).observe(place);
      }).catch(failed);
    } catch (error) {
      failed(error);
    }
  }

  // What is in view comes first; the rest follows while nothing else is to do.
  const watch = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
    { rootMargin: "400px" },
  );
  places.forEach((place) => watch.observe(place));
  const later = window.requestIdleCallback || ((task) => setTimeout(task, 30));
  const rest = places.slice();
  function next() {
    const place = rest.shift();
    if (!place) return;
    draw(place);
    later(next);
  }
  later(next);
  window.addEventListener("beforeprint", () => places.forEach(draw));
})();
"""
