// Every scene: search, sort, page through; what Airflow is at work on stands there too.

import { address, ask, watch } from "./api.js";
import { figures } from "./declared.js";
import { h, replace, say, show } from "./dom.js";
import { chip, runPath, airflowLink } from "./parts.js";
import { date, figureText } from "./words.js";

const onCards = () => figures.filter((each) => each.card);
const sorts = () => [
  ["-started", "Newest first"],
  ["started", "Oldest first"],
  ["scene", "Name"],
  ...onCards().flatMap(({ name, label }) => [[`-${name}`, `${label}: high to low`], [name, `${label}: low to high`]]),
  ["state", "State"],
];
const STATES = [["", "All states"], ["success", "Done"], ["running", "Running"], ["queued", "Queued"], ["failed", "Failed"]];
const PAUSE = 250;

function card(each) {
  const run = each.under_way;
  const href = each.run
    ? address(`scenes/${each.scene}/${each.run}`, { profile: each.profile })
    : null;
  const picture = each.picture
    ? h("img", { src: address(`scenes/${each.scene}/${each.run}/${each.picture}`, { profile: each.profile, v: each.mark }), alt: "", loading: "lazy", width: 400, height: 300 })
    : h("div", { class: "nothing", "aria-hidden": "true" });
  const name = href
    ? h("a", { href, class: "whole" }, each.title)
    : !run
    ? each.title
    : airflowLink(`${runPath(run.dag_id, run.run_id)}/plugin/scene`, each.title);
  const fact = (label, value) => h("div", {}, h("dt", {}, label), h("dd", {}, value));
  return h(
    "li",
    { class: "card" },
    h("div", { class: "picture" }, picture, run && airflowLink(`${runPath(run.dag_id, run.run_id)}/plugin/scene`, chip(each.state))),
    h("div", { class: "text" },
      h("h2", {}, name),
      h("p", { class: "quiet" }, each.problem ?? date(each.started)),
      each.run && h("dl", {},
        onCards().map((figure) => fact(figure.label, figureText(figure, each))),
        h("div", {}, h("dt", { class: "unseen" }, "Runs"), h("dd", {}, h("a", { href: `scenes/${each.scene}`, class: "above" }, "all runs"))))),
  );
}

export async function open(query) {
  document.title = "Scenes · E2E3D";
  const asked = { search: query.search ?? "", state: query.state ?? "", sort: query.sort ?? "-started", page: Number(query.page ?? 1) };
  const list = h("ul", { class: "gallery", "aria-label": "Scenes" });
  const told = h("p", { class: "quiet" });
  const problems = h("div");
  const pager = h("nav", { class: "pager", "aria-label": "Pages" });
  const options = (entries, chosen) => entries.map(([value, words]) => h("option", { value, selected: value === chosen }, words));
  const again = (changes) => {
    Object.assign(asked, { page: 1 }, changes);
    history.replaceState(null, "", new URL(address("scenes", { ...asked, page: asked.page > 1 ? asked.page : "" }), document.baseURI));
    look().catch((problem) => say(problem.message));
  };
  let waiting = 0;
  const search = h("input", { type: "search", value: asked.search, placeholder: "Search scenes", "aria-label": "Search scenes",
    oninput: ({ target }) => { clearTimeout(waiting); waiting = setTimeout(() => again({ search: target.value.trim() }), PAUSE); } });

  let newest = 0;
  async function look() {
    const turn = ++newest;
    const found = await ask("api/scenes", asked);
    if (turn !== newest) return true;
    const before = told.textContent;
    told.textContent = found.total === found.all ? `${found.all} ${found.all === 1 ? "scene" : "scenes"}` : `${found.total} of ${found.all} scenes`;
    if (before) say(told.textContent);
    replace(problems, h("div", {}, found.problems.map((each) => h("p", { class: "notice failed", role: "alert" }, each))));
    const cards = found.scenes.map(card);
    if (cards.length !== list.children.length || cards.some((each, at) => !each.isEqualNode(list.children[at]))) list.replaceChildren(...cards);
    if (!found.all) list.replaceChildren(h("li", { class: "empty" }, h("h2", {}, "No scene yet"), h("p", {}, "Press Trigger on the DAG reconstruct and give it a folder of photos. The scene appears here.")));
    else if (!found.total) list.replaceChildren(h("li", { class: "empty" }, h("p", {}, "No scene fits.")));
    const pages = Math.max(1, Math.ceil(found.total / found.size));
    const step = (to, words) => h("button", { type: "button", disabled: to < 1 || to > pages, onclick: () => { again({ page: to }); scrollTo(0, 0); } }, words);
    replace(pager, pages === 1 ? h("span") : h("div", {}, step(found.page - 1, "Previous"), h("span", {}, `Page ${found.page} of ${pages}`), step(found.page + 1, "Next")));
    return true;
  }

  show(
    h("header", { class: "spread" }, h("div", {}, h("h1", {}, "Scenes"), told),
      h("form", { role: "search", class: "tools", onsubmit: (event) => event.preventDefault() },
        search,
        h("select", { "aria-label": "State", onchange: ({ target }) => again({ state: target.value }) }, options(STATES, asked.state)),
        h("select", { "aria-label": "Order", onchange: ({ target }) => again({ sort: target.value }) }, options(sorts(), asked.sort)))),
    problems, list, pager,
  );
  await look();
  await watch(look, 15);
}
