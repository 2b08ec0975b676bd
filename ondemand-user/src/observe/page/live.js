// Asks for the table again and again, and shows what has changed. Text is only ever set as text.
(() => {
  const byId = id => document.getElementById(id);
  const EVERY = 2000, HIDDEN = 30000, WEEK = 600000;
  const body = byId("services").tBodies[0];
  const lines = new Map([...body.rows].map(line => [line.cells[0].textContent, line]));
  const search = byId("search"), active = byId("active");

  const choose = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const [name, line] of lines) {
      const shown = words.every(word => name.toLowerCase().includes(word)) &&
        (!active.checked || !["inactive", "failed"].includes(line.cells[1].textContent));
      if (line.hidden === shown) line.hidden = !shown;
      found += shown;
    }
    byId("found").textContent = words.length || active.checked ? `${found} of ${lines.size}` : "";
  };
  const set = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  const update = table => {
    set(byId("summary"), table.summary);
    set(byId("notice"), table.notice ?? "");
    byId("notice").hidden = table.notice === null;
    const old = new Set(lines.keys());
    table.rows.forEach(([kind, cells], place) => {
      let line = lines.get(cells[0]);
      if (!line) {
        line = document.createElement("tr");
        for (const _ of cells) line.append(document.createElement("td"));
        line.tabIndex = 0;
        lines.set(cells[0], line);
      }
      old.delete(cells[0]);
      const chosen = line.classList.contains("chosen") ? " chosen" : "";
      if (line.className !== kind + chosen) line.className = kind + chosen;
      cells.forEach((text, column) => set(line.cells[column], text));
      if (body.rows[place] !== line) body.insertBefore(line, body.rows[place] ?? null);
    });
    for (const name of old) {
      lines.get(name).remove();
      lines.delete(name);
    }
    choose();
  };

  // The last week: of all, or of the service that is clicked.
  let data = null, selected = null, drawn = 0;
  const week = async name => {
    const reply = await fetch(name === null ? "week.json" : `week.json?${encodeURIComponent(name)}`);
    // 202: it is being read.
    return reply.status === 200 ? reply.json() : null;
  };
  const show = async name => {
    if (!data) return;
    const row = name === null ? data.total : await week(name);
    for (const line of body.querySelectorAll(".chosen")) line.classList.remove("chosen");
    selected = row ? name : null;
    const shown = row ?? data.total;
    if (selected !== null) lines.get(name)?.classList.add("chosen");
    byId("subject").textContent = selected ?? "all services";
    byId("all").hidden = selected === null;
    plots(data).draw(shown, selected === null ? data.services : [row]);
    byId("plots").hidden = false;
  };
  const renew = async () => {
    if (performance.now() - drawn < WEEK && data) return;
    const found = await week(null);
    if (!found || !found.total) return;
    [data, drawn] = [found, performance.now()];
    await show(selected);
  };
  const open = ({ target }) => {
    const line = target.closest("tr");
    if (line) show(line.cells[0].textContent === selected ? null : line.cells[0].textContent).catch(() => {});
  };
  body.addEventListener("click", open);
  body.addEventListener("keydown", event => event.key === "Enter" && open(event));
  byId("all").addEventListener("click", () => show(null));
  search.addEventListener("input", choose);
  active.addEventListener("change", choose);

  let timer = null, looks = 0;
  const look = async () => {
    clearTimeout(timer);
    try {
      const reply = await fetch("table.json");
      if (!reply.ok) throw new Error(reply.status);
      update(await reply.json());
      byId("lost").hidden = true;
      document.body.dataset.looks = ++looks;
      await renew();
    } catch {
      if (byId("lost").hidden) {
        byId("lost").hidden = false;
        byId("lost").textContent = `no answer since ${new Date().toLocaleTimeString()}: this is how it was before`;
      }
    }
    timer = setTimeout(look, document.hidden ? HIDDEN : EVERY);
  };
  document.addEventListener("visibilitychange", () => document.hidden || look());
  byId("choose").hidden = false;
  for (const line of lines.values()) line.tabIndex = 0;
  look();
})();
