// Shows the table of services, and the plots of the one that is clicked.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = id => document.getElementById(id);
  const MOST_STATES = 8;
  const { span, counted, draw } = plots(data);

  const saves = row => row.gib ?? row.off ?? 0;
  const bySavings = [...data.services].sort((one, other) => saves(other) - saves(one) || other.arrivals - one.arrivals);

  let selected = null;
  const show = row => {
    selected?.line?.classList.remove("chosen");
    selected = row;
    row?.line?.classList.add("chosen");
    const shown = row || data.total;
    byId("subject").textContent = row ? row.name : "All services";
    byId("why").textContent = row ? `auto: ${row.learned.reason}` : "";
    byId("all").hidden = !row;
    draw(shown, row ? [row] : bySavings.slice(0, MOST_STATES));
  };
  byId("all").addEventListener("click", () => show(null));

  // The table.
  const dash = (value, text) => (value === null || value === undefined ? "-" : text(value));
  const columns = [
    ["Service", row => row.name, row => row.name],
    ["Arrivals", row => row.arrivals, row => String(row.arrivals)],
    ...(data.measured ? [
      ["Off", row => row.off, row => dash(row.off, span)],
      ["Memory saved", row => row.gib, row => dash(row.gib, gib => `${gib.toFixed(2)} GiB`)],
      ["Starts", row => row.starts, row => String(row.starts)],
      ["Start, median", row => row.p50, row => dash(row.p50, span)],
      ["CPU", row => row.cpu, row => dash(row.cpu, span)],
    ] : [["Off with auto", row => row.off, row => dash(row.off, span)]]),
    ["auto", row => row.learned.timeout, row => span(row.learned.timeout)],
    ["Cold starts", row => row.learned.cold, row => String(row.learned.cold)],
    ["Best fixed", row => (row.best === null ? null : data.timeouts[row.best]), row => dash(row.best, place => span(data.timeouts[place]))],
    ["Cold starts", row => (row.best === null ? null : row.cold[row.best]), row => dash(row.best, place => String(row.cold[place]))],
  ];
  const table = byId("services");
  const head = table.createTHead().insertRow();
  const body = table.createTBody();
  // Copies of one are made in a third of the time.
  const empty = document.createElement("tr");
  empty.tabIndex = 0;
  for (const _ of columns) empty.append(document.createElement("td"));
  for (const cell of empty.cells) cell.append("-");
  const lines = document.createDocumentFragment();
  const byLine = new Map();
  for (const row of bySavings) {
    row.line = empty.cloneNode(true);
    let cell = row.line.firstChild;
    for (const [, , text] of columns) {
      cell.firstChild.data = text(row);
      cell = cell.nextSibling;
    }
    row.line.title = row.learned.reason;
    byLine.set(row.line, row);
    lines.append(row.line);
  }
  body.append(lines);
  const open = ({ target }) => {
    const row = byLine.get(target.closest("tr"));
    if (!row) return;
    show(selected === row ? null : row);
    byId("plots").scrollIntoView?.({ block: "nearest" });
  };
  body.addEventListener("click", open);
  body.addEventListener("keydown", event => event.key === "Enter" && open(event));
  // A head that sorts. Figures begin with the largest, names with the first; what is unknown comes last.
  const sorter = (body, rows) => {
    let sorted = null;
    return (cell, isName, value) => {
      const button = document.createElement("button");
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const up = sorted?.cell === cell ? !sorted.up : isName;
        if (sorted) sorted.cell.removeAttribute("aria-sort");
        sorted = { cell, up };
        cell.setAttribute("aria-sort", up ? "ascending" : "descending");
        const compare = (one, other) => {
          const [a, b] = [value(one) ?? null, value(other) ?? null];
          if (a === null || b === null) return (a === null) - (b === null);
          const order = typeof a === "string" ? a.localeCompare(b) : a - b;
          return up ? order : -order;
        };
        body.append(...[...rows].sort(compare).map(row => row.line));
      });
    };
  };
  const sortsServices = sorter(body, data.services);
  columns.forEach(([title, value], place) => {
    const cell = head.appendChild(document.createElement("th"));
    cell.textContent = title;
    sortsServices(cell, place === 0, value);
  });

  // That of a fleet's hosts is there; each of its figures has its number.
  const hosts = byId("by-host");
  if (hosts) {
    const [list] = hosts.tBodies;
    const sortsHosts = sorter(list, [...list.rows].map(line => ({ line })));
    [...hosts.tHead.rows[0].cells].forEach((cell, place) => {
      const number = ({ line }) => line.cells[place].dataset.number;
      const value = row => (place === 0 ? row.line.cells[0].textContent : number(row) === undefined ? null : Number(number(row)));
      sortsHosts(cell, place === 0, value);
    });
  }
  const search = byId("search");
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const row of data.services) {
      const name = row.name.toLowerCase();
      const matches = words.every(word => name.includes(word));
      row.line.hidden = !matches;
      found += matches;
    }
    byId("found").textContent = words.length ? `${found} of ${counted(data.services.length, "service")}` : "";
  });

  show(null);
})();
