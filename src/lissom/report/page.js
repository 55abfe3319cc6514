"use strict";
// Draws the plots in the colours of the reader's system, sorts tables, copies commands.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const twins = JSON.parse(document.getElementById("twins").textContent);
  const plots = [...document.querySelectorAll(".chart")];

  const figureOf = (plot) => {
    const swap = (_, value) => (dark.matches && typeof value === "string" && Object.hasOwn(twins, value) ? twins[value] : value);
    return JSON.parse(document.getElementById(plot.dataset.figure).textContent, swap);
  };

  const draw = async (plot) => {
    const figure = figureOf(plot);
    await Plotly.react(plot, figure.data, figure.layout, { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false });
    if (!plot.dataset.drawn && figure.layout.meta) {
      plot.on("plotly_afterplot", () => tidyNames(plot));
      tidyNames(plot);
    }
    plot.dataset.drawn = "true";
  };

  // Names stand in order of importance. Each is pushed into the plot; the less important are hidden where they
  // would cover a bubble or another name.
  const tidyNames = (plot) => {
    const area = plot.querySelector(".plotbg, .nsewdrag").getBoundingClientRect();
    const overlap = (one, other) =>
      one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom;
    const bubbles = [...plot.querySelectorAll(".points path")].map((bubble) => bubble.getBoundingClientRect());
    const kept = [];
    plot.querySelectorAll(".annotation").forEach((name, rank) => {
      name.style.transform = "";
      const box = name.getBoundingClientRect();
      const shift = Math.max(area.left - box.left, 0) + Math.min(area.right - box.right, 0);
      name.style.transform = `translateX(${shift}px)`;
      const moved = name.getBoundingClientRect();
      const obstacles = rank < plot.layout.meta.important ? kept : [...kept, ...bubbles];
      const hide = obstacles.some((other) => overlap(moved, other));
      name.style.visibility = hide ? "hidden" : "visible";
      if (!hide) kept.push(moved);
    });
  };

  // Plots near the window are drawn at once, the others one by one while the browser has nothing else to do: a page
  // of many plots can be read before its last is drawn. What is printed has every plot.
  const idle = () => new Promise((done) => (window.requestIdleCallback ?? setTimeout)(done, { timeout: 500 }));
  const isNear = (plot) => plot.getBoundingClientRect().top < 1.5 * innerHeight;
  const drawAll = async () => {
    const near = plots.filter(isNear);
    near.forEach(draw);
    for (const plot of plots.filter((other) => !near.includes(other))) {
      await idle();
      await draw(plot);
    }
  };
  drawAll();
  dark.addEventListener("change", drawAll);
  addEventListener("beforeprint", () => plots.filter((plot) => !plot.dataset.drawn).forEach(draw));

  // Rows without a key, such as those of an arm that failed, stay last in both directions.
  const keyOf = (row, column) => {
    const key = row.cells[column]?.dataset.key;
    return key === undefined ? null : key;
  };
  const sort = (table, column, direction) => {
    const rows = [...table.tBodies[0].rows];
    const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
    const compare = numeric ? (one, other) => one - other : (one, other) => one.localeCompare(other);
    const known = rows.filter((row) => keyOf(row, column) !== null);
    const unknown = rows.filter((row) => keyOf(row, column) === null);
    known.sort((one, other) => direction * compare(keyOf(one, column), keyOf(other, column)));
    table.tBodies[0].append(...known, ...unknown);
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => {
        const descending = header.getAttribute("aria-sort") === "ascending";
        headers.forEach((other) => other.setAttribute("aria-sort", "none"));
        header.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending ? -1 : 1);
      });
    });
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    const code = document.getElementById(button.dataset.copy);
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      } catch {
        getSelection().selectAllChildren(code);
      }
    });
  }
})();
