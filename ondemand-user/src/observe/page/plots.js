"use strict";
// Draws the plots of a report from its data, into the figures of the page that has them. No library, no network; text is
// only ever set as text, whatever a service is called.
const plots = data => {
  const byId = id => document.getElementById(id);
  // Of a drawing, in units in which text is 17 high: on a phone it is not made smaller.
  const NARROW = document.documentElement.clientWidth < 640;
  const WIDTH = NARROW ? 360 : 560;
  // Labels of an axis: at each of so many places.
  const EACH = NARROW ? 6 : 3;
  const DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

  const span = seconds => {
    const two = (total, per, big, small) => {
      const rest = total % per;
      return `${Math.floor(total / per)} ${big}${rest ? ` ${rest} ${small}` : ""}`;
    };
    const whole = Math.floor(seconds);
    if (whole < 1) return `${Math.floor(seconds * 1000)} ms`;
    if (whole < 60) return `${Math.floor(seconds * 10) / 10} s`;
    if (whole < 3600) return two(whole, 60, "min", "s");
    if (whole < 86400) return two(Math.floor(whole / 60), 60, "h", "min");
    return two(Math.floor(whole / 3600), 24, "d", "h");
  };
  const short = seconds => {
    const [unit, length] = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]].find(([, length]) => seconds >= length) || ["s", 1];
    return `${Math.round(seconds / length * 10) / 10}${unit}`;
  };
  const number = value => {
    const [unit, size] = [["G", 1e9], ["M", 1e6], ["k", 1e4]].find(([, size]) => value >= size) || ["", 1];
    const scaled = unit === "k" ? value / 1e3 : value / size;
    return `${scaled >= 100 || Number.isInteger(scaled) ? Math.round(scaled) : Number(scaled.toPrecision(3))}${unit}`;
  };
  const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

  // SVG
  const make = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const shape = (name, attributes, value) => {
    const node = make(name, attributes);
    if (value) {
      node.append(make("title", {}, value));
      node.setAttribute("tabindex", "-1");
    }
    return node;
  };
  const write = (x, y, text, anchor, more) =>
    make("text", { x, y, "text-anchor": anchor || "middle", "font-size": 17, ...more }, text);
  const picture = (label, height) =>
    make("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
  const line = (x1, y1, x2, y2, stroke, more) => make("line", { x1, y1, x2, y2, stroke, ...more });

  // A plot's frame: room for the axes, their titles, and ticks. Returns where a share of the height is.
  const frame = (svg, { height, left, right, x, y, top, other, otherTop }) => {
    const [above, below] = [34, height - 50];
    const at = share => below - share * (below - above);
    for (const share of [0, 0.5, 1]) {
      svg.append(line(left, at(share), WIDTH - right, at(share), "var(--faint)"));
      svg.append(write(left - 6, at(share) + 5, number(top * share), "end"));
      if (other) svg.append(write(WIDTH - right + 6, at(share) + 5, number(otherTop * share), "start"));
    }
    svg.append(write((left + WIDTH - right) / 2, height - 6, x));
    svg.append(write(2, 16, y, "start", { class: "first" }));
    if (other) svg.append(write(WIDTH - 2, 16, other, "end", { class: "second" }));
    return at;
  };
  const round = highest => {
    if (highest <= 0) return 1;
    const size = 10 ** Math.floor(Math.log10(highest));
    return [1, 2, 4, 6, 8, 10].map(step => step * size).find(step => step >= highest);
  };

  const gaps = row => {
    const height = 300, left = 52, right = 22;
    const svg = picture("Gaps between uses, by length", height);
    const top = round(Math.max(...row.gaps, 1));
    const at = frame(svg, { height, left, right, x: "length of the gap, up to", y: "gaps between two uses", top });
    const width = (WIDTH - left - right) / row.gaps.length;
    row.gaps.forEach((count, place) => {
      const x = left + place * width;
      const limit = data.timeouts[place];
      if (place % EACH === 0) svg.append(write(x + width / 2, height - 30, limit === undefined ? "more" : short(limit)));
      if (count === 0) return;
      const from = place === 0 ? "" : `longer than ${span(data.timeouts[place - 1])}`;
      const until = limit === undefined ? "" : `up to ${span(limit)}`;
      const value = `${counted(count, "gap")} ${[from, until].filter(Boolean).join(", ")}`;
      const y = Math.min(at(count / top), at(0) - 1);
      svg.append(shape("rect", { x: x + 1, y, width: width - 2, height: at(0) - y, fill: "var(--first)" }, value));
    });
    return svg;
  };

  const whatIf = row => {
    const height = 320, left = 52, right = 58;
    const svg = picture("Cold starts and time up and idle, by idle timeout", height);
    const longest = Math.max(...row.warm, row.learned.warm);
    const [unit, length] = longest >= 7200 ? ["hours", 3600] : longest >= 120 ? ["minutes", 60] : ["seconds", 1];
    const top = round(Math.max(...row.cold, row.learned.cold, 1));
    const otherTop = round(longest / length);
    const at = frame(svg, {
      height, left, right, x: "idle timeout (dashed: auto)", y: "cold starts", top, other: `${unit} up and idle`, otherTop,
    });
    const step = (WIDTH - left - right) / data.timeouts.length;
    const x = place => left + (place + 0.5) * step;
    if (row.best !== null)
      svg.append(line(x(row.best), at(0), x(row.best), at(1), "var(--ink)", { "stroke-opacity": 0.5 }));
    const series = (colour, values, highest, learned, what) => {
      const points = values.map((value, place) => [x(place), at(value / highest)]);
      svg.append(make("polyline", {
        points: points.map(point => point.map(it => it.toFixed(1)).join()).join(" "), fill: "none", stroke: colour, "stroke-width": 2,
      }));
      const auto = line(left, at(learned / highest), WIDTH - right, at(learned / highest), colour, { "stroke-dasharray": "7 5", "stroke-width": 2 });
      auto.append(make("title", {}, `auto: ${what(row.learned)}`));
      svg.append(auto);
      points.forEach(([cx, cy], place) => {
        const value = `${span(data.timeouts[place])}: ${what({ cold: row.cold[place], warm: row.warm[place] })}`;
        svg.append(shape("circle", { cx, cy, r: 4, fill: colour }, value));
      });
    };
    const what = of => `${counted(of.cold, "cold start")}, ${span(of.warm)} up and idle`;
    series("var(--first)", row.cold, top, row.learned.cold, what);
    series("var(--second)", row.warm.map(warm => warm / length), otherTop, row.learned.warm / length, what);
    data.timeouts.forEach((timeout, place) => {
      if (place % EACH === 0) svg.append(write(x(place), height - 30, short(timeout)));
    });
    return svg;
  };

  const states = rows => {
    const [LEFT, LONGEST, letters] = NARROW ? [120, 8, { "font-size": 15 }] : [150, 10, {}];
    const RIGHT = WIDTH - 12, tall = rows.length === 1 ? 48 : 28;
    const bottom = 6 + tall * rows.length;
    const svg = picture("When each service was up", bottom + 46);
    const parts = data.moments.length - 1;
    const x = part => LEFT + part * (RIGHT - LEFT) / parts;
    rows.forEach((row, place) => {
      const y = 6 + tall * place + 3, height = tall - 6;
      svg.append(write(LEFT - 8, y + height / 2 + 5, row.name.length > LONGEST ? `${row.name.slice(0, LONGEST - 1)}…` : row.name, "end", letters));
      svg.append(make("rect", { x: LEFT, y, width: RIGHT - LEFT, height, fill: "var(--faint)" }));
      for (let from = 0; from < parts;) {
        let until = from + 1;
        while (until < parts && row.up[until] === row.up[from]) until++;
        const share = parseInt(row.up[from], 36) / 12;
        if (share > 0) {
          const much = share < 1 ? ` for ${Math.round(100 * share)} % of it` : "";
          const value = `${row.name}: up${much}, ${data.moments[from]} to ${data.moments[until]}`;
          const width = Math.max(x(until) - x(from), 1);
          svg.append(shape("rect", { x: x(from), y, width, height, fill: "var(--first)", "fill-opacity": 0.2 + 0.8 * share }, value));
        }
        from = until;
      }
    });
    for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
      if (NARROW && anchor === "middle") continue;
      const part = Math.round(parts * share);
      svg.append(line(x(part), bottom, x(part), bottom + 6, "var(--ink)"));
      svg.append(write(x(part), bottom + 22, data.moments[part], anchor, letters));
    }
    svg.append(write((LEFT + RIGHT) / 2, bottom + 42, "time"));
    return svg;
  };

  const week = row => {
    const LEFT = 46, cell = [(WIDTH - LEFT - 10) / 24, 26];
    const height = 8 + 7 * cell[1] + 46;
    const svg = picture(`${data.week_up ? "Time up" : "Arrivals"} by hour and weekday`, height);
    const amount = count => (data.week_up ? `${span(count)} up` : counted(count, "arrival"));
    const counts = new Array(168).fill(0);
    for (let place = 0; place < row.week.length; place += 2) counts[row.week[place]] = row.week[place + 1];
    const most = Math.max(...counts, 1);
    counts.forEach((count, hour) => {
      const [day, of] = [Math.floor(hour / 24), hour % 24];
      const place = { x: LEFT + of * cell[0], y: 8 + day * cell[1], width: cell[0] - 1, height: cell[1] - 1 };
      const two = hour => String(hour).padStart(2, "0");
      const value = `${DAYS[day]} ${two(of)}:00 to ${two(of + 1)}:00: ${amount(count)}`;
      const fill = count ? { fill: "var(--first)", "fill-opacity": 0.15 + 0.85 * count / most } : { fill: "var(--faint)", "fill-opacity": 0.5 };
      svg.append(shape("rect", { ...place, ...fill }, value));
    });
    DAYS.forEach((day, place) => svg.append(write(LEFT - 6, 8 + place * cell[1] + 18, day, "end")));
    for (const hour of [0, 6, 12, 18]) svg.append(write(LEFT + hour * cell[0], 8 + 7 * cell[1] + 16, `${hour}h`, "start"));
    svg.append(write(WIDTH / 2, height - 6, `hour of the day; strongest: ${amount(most)}`));
    return svg;
  };

  const put = (id, svg) => {
    const figure = byId(id);
    if (!figure) return;
    figure.querySelector("svg")?.remove();
    figure.querySelector("h2").after(svg);
    figure.querySelector("output").textContent = "";
  };
  // A row's plots; the states of these rows.
  const draw = (row, rows) => {
    put("gaps", gaps(row));
    put("what-if", whatIf(row));
    if (data.measured) put("states", states(rows));
    put("week", week(row));
  };
  return { span, counted, draw };
};
// The value under the pointer, also where nothing hovers.
for (const figure of document.querySelectorAll("figure"))
  for (const event of ["pointerover", "click"])
    figure.addEventListener(event, ({ target }) => {
      const value = target.querySelector?.(":scope > title");
      if (value) figure.querySelector("output").textContent = value.textContent;
    });
