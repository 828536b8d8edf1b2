// One run of a scene: the scene itself, its report, figures, what each stage took, and downloads.

import { ask } from "./api.js";
import { figures as declared, stageLabel, stages } from "./declared.js";
import { h, show } from "./dom.js";
import { fileAddress, frame, onOpen } from "./frame.js";
import { airflowLink, crumbs, figure, figures, runPath, warning } from "./parts.js";
import { date, duration, figureText, money, size } from "./words.js";

// Tabs after the WAI-ARIA pattern: arrows move, the page opens at once.
function tabs(label, entries) {
  const panel = h("div", { class: "stage", role: "tabpanel", id: "panel", tabindex: "-1" });
  const made = new Map();
  const buttons = entries.map(([name, make]) =>
    h("button", { role: "tab", type: "button", id: `tab-${name}`, "aria-controls": "panel", onclick: () => choose(name), onkeydown: move }, name),
  );
  function choose(name) {
    for (const button of buttons) {
      const chosen = button.id === `tab-${name}`;
      button.setAttribute("aria-selected", chosen);
      button.tabIndex = chosen ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${name}`);
    if (!made.has(name)) made.set(name, panel.appendChild(entries.find(([each]) => each === name)[1]()));
    // Hidden and not removed: a frame that is taken out loads anew.
    for (const [each, content] of made) content.hidden = each !== name;
  }
  function move(event) {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!way) return;
    const next = buttons[(buttons.indexOf(event.currentTarget) + way + buttons.length) % buttons.length];
    next.focus();
    next.click();
  }
  choose(entries[0][0]);
  return [h("div", { class: "tabs", role: "tablist", "aria-label": label }, buttons), panel, choose];
}

const SCENE = "3D scene";
const MESH = "Mesh";
const REPORT = "Report";

function hero(record) {
  const pages = { "index.html": SCENE, "mesh.html": MESH, "report.html": REPORT };
  const there = Object.entries(pages).filter(([file]) => file in record.files);
  if (!there.length) return h("p", { class: "quiet" }, "This run left no page.");
  const frames = [];
  const entries = there.map(([file, name]) => [
    name,
    () => {
      const made = frame(record, file, `${name} of ${record.title}`);
      frames.push(made);
      return made;
    },
  ]);
  const [list, panel, choose] = tabs("Scene, mesh or report", entries);
  onOpen(() => frames, (page) => pages[page] && choose(pages[page]));
  const whole = h("button", { type: "button", class: "plain", onclick: () => panel.requestFullscreen?.() }, "Full screen");
  return h("section", { class: "hero", "aria-label": "The scene" }, h("div", { class: "bar" }, list, whole), panel);
}

function keyFigures(record) {
  const photos = (each) => record.metrics?.[each.over];
  return figures(...declared.map((each) => figure(each.label, figureText(each, record), photos(each) && `on ${photos(each)} held-out photos`)));
}

function stageTable(stages) {
  const row = ([name, each]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, stageLabel(name)),
      h("td", {}, each.reused ? h("span", { class: "chip" }, "reused") : ""),
      h("td", { class: "n" }, duration(each.seconds)),
      h("td", { class: "n" }, size(each.peak_memory_bytes)),
      h("td", {}, [each.backend, each.machine].filter(Boolean).join(", ") || "–"),
      h("td", { class: "n" }, money(each.price)),
    );
  const head = ["Stage", "", "Time", "Memory", "Where", "Cost"];
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "What each stage took" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, head.map((each, at) => h("th", { scope: "col", class: [2, 3, 5].includes(at) && "n" }, each)))),
      h("tbody", {}, Object.entries(stages).map(row)),
    ),
  );
}

function downloads(record) {
  // What people came for first: the last stages' files.
  const uses = Object.assign({}, ...stages.map((each) => each.files).reverse());
  const line = (name) =>
    h(
      "li",
      {},
      h("a", { href: fileAddress(record, name), download: name === "index.html" ? `${record.scene}.html` : `${record.scene}-${name}` }, name),
      h("span", { class: "quiet" }, ` ${uses[name]}`),
      record.files[name] && h("span", { class: "size" }, size(record.files[name])),
    );
  return h("ul", { class: "files" }, Object.keys(uses).filter((name) => uses[name] && name in record.files).map(line));
}

export function result(record) {
  const warnings = Object.values(record.stages ?? {}).flatMap((each) => each.warnings ?? []);
  return [
    hero(record),
    keyFigures(record),
    warnings.length > 0 && [h("h2", {}, "Warnings"), h("ul", { class: "warnings" }, warnings.map(warning))],
    h("div", { class: "two" },
      h("section", {}, h("h2", {}, "What it took"), stageTable(record.stages ?? {})),
      h("section", {}, h("h2", {}, "Downloads"), downloads(record))),
  ];
}

export async function open(query, scene, run) {
  const record = await ask(`api/scenes/${scene}/${run}`, { profile: query.profile });
  document.title = `${record.title} · E2E3D`;
  show(
    crumbs(h("a", { href: "scenes" }, "Scenes"), h("a", { href: `scenes/${scene}` }, record.title), h("span", { "aria-current": "page" }, date(record.started))),
    h("header", {}, h("h1", {}, record.title),
      h("p", { class: "quiet" }, date(record.started), record.preset && ` · ${record.preset}`, record.profile && ` · ${record.profile}`,
        record.dag_id && record.run_id && [" · ", airflowLink(`${runPath(record.dag_id, record.run_id)}/plugin/scene`, "its run in Airflow")])),
    result(record),
  );
}
