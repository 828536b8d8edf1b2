// Two runs of a scene side by side: the same camera in both, figures, and the parameters that differ.

import { ask } from "./api.js";
import { figures, stageLabel, stages } from "./declared.js";
import { h, say, show } from "./dom.js";
import { frame, sameCamera } from "./frame.js";
import { crumbs } from "./parts.js";
import { DASH, date, figureText, valueOf } from "./words.js";

// Better is marked by a word too, not by colour alone.
function figureRow(left, right) {
  return (figure) => {
    const [one, other] = [valueOf(figure, left), valueOf(figure, right)];
    const [words, others] = [figureText(figure, left), figureText(figure, right)];
    const way = { more: 1, less: -1 }[figure.better] ?? 0;
    const ahead = one !== null && other !== null && words !== others ? Math.sign((one - other) * way) : 0;
    const cell = (text, wins) => h("td", { class: "n" }, h("span", { class: wins && "better" }, text, wins && h("small", {}, " better")));
    return h("tr", {}, h("th", { scope: "row" }, figure.label), cell(words, ahead > 0), cell(others, ahead < 0));
  };
}

const value = (each) => (each === null || each === undefined ? DASH : typeof each === "object" ? JSON.stringify(each) : String(each));

function name(path) {
  const [first, ...rest] = path.split(".");
  return rest.length && stages.some((each) => each.name === first) ? [h("span", { class: "quiet" }, `${stageLabel(first)} · `), rest.join(".")] : path;
}

function table(label, left, right, rows) {
  const head = ["", date(left.started), date(right.started)];
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h("table", { class: "compared" },
      h("thead", {}, h("tr", {}, head.map((each, at) => h("th", { scope: "col", class: at && "n" }, each || h("span", { class: "unseen" }, "Name"))))),
      h("tbody", {}, rows)));
}

export async function open(query, scene) {
  const found = await ask(`api/compare/${scene}`, { left: query.left, right: query.right });
  const { left, right } = found;
  document.title = `${scene}: two runs · E2E3D`;
  const there = [left, right].every((each) => "index.html" in each.files);
  const frames = there ? [left, right].map((each) => frame(each, "index.html", `The scene of ${date(each.started)}`, { noanim: 1 })) : [];
  const note = h("p", { class: "quiet" }, there ? "Opening both scenes…" : "One of the runs left no page.");
  if (there) {
    sameCamera(frames, () => { note.textContent = "Turn either: the other follows."; say(note.textContent); });
    setTimeout(() => { if (note.textContent.startsWith("Opening")) note.textContent = "Each turns by itself: a page of an older version cannot be led, and a slow machine takes its time."; }, 30000);
  }
  const asked = [...found.asked.map((each) => ({ ...each, name: each.name.replace(/^conf\./, "") })), ...found.parameters];
  const seen = new Set();
  const differing = asked.filter((each) => !seen.has(each.name) && seen.add(each.name));
  show(
    crumbs(h("a", { href: "scenes" }, "Scenes"), h("a", { href: `scenes/${scene}` }, scene), h("span", { "aria-current": "page" }, "Two runs")),
    h("header", {}, h("h1", {}, scene), note),
    there && h("div", { class: "pair" }, frames.map((each, at) => h("figure", {}, each,
      h("figcaption", {}, h("a", { href: `scenes/${scene}/${[left, right][at].run}` }, date([left, right][at].started)))))),
    h("div", { class: "two" },
      h("section", {}, h("h2", {}, "Figures"), table("Figures", left, right, figures.map(figureRow(left, right)))),
      h("section", {}, h("h2", {}, "What differs"),
        differing.length
          ? table("What differs", left, right, differing.map((each) => h("tr", {}, h("th", { scope: "row" }, name(each.name)), h("td", { class: "n" }, value(each.left)), h("td", { class: "n" }, value(each.right)))))
          : h("p", { class: "quiet" }, "They were asked for the same."),
        found.same_artifacts.length > 0 && h("p", { class: "quiet" }, `Made once and shared by both: ${found.same_artifacts.map(stageLabel).join(", ")}.`))),
  );
}
