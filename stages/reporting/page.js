"use strict";

const plots = document.querySelectorAll("script[data-plot]");

for (const plot of plots) {
  const target = document.getElementById(plot.dataset.plot);
  vegaEmbed(target, JSON.parse(plot.textContent), {
    renderer: "svg",
    ast: true,
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: plot.dataset.plot,
    config: {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis: {
        domainColor: "currentColor", domainOpacity: 0.35,
        gridColor: "currentColor", gridOpacity: 0.1,
        labelColor: "currentColor", labelOpacity: 0.8, labelFontSize: 11,
        tickColor: "currentColor", tickOpacity: 0.35,
        titleColor: "currentColor", titleOpacity: 0.8, titleFontSize: 11, titleFontWeight: "normal",
      },
      legend: { labelColor: "currentColor", labelFontSize: 11 },
    },
  }).catch((error) => {
    target.textContent = "This plot could not be drawn.";
    console.error(plot.dataset.plot, error);
  });
}

// Paper cannot be clicked: show what is folded.
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
