// The runs of one scene: open one, or choose two to compare.

import { address, ask } from "./api.js";
import { figures } from "./declared.js";
import { h, say, show } from "./dom.js";
import { fileAddress } from "./frame.js";
import { crumbs } from "./parts.js";
import { date, figureText } from "./words.js";

export async function open(query, scene) {
  const { runs } = await ask(`api/scenes/${scene}`, { profile: query.profile });
  document.title = `${scene} · E2E3D`;
  const chosen = new Set(runs.slice(0, 2).map((each) => each.run));
  const go = h("button", { type: "submit", class: "main" }, "Compare the two");
  const settle = () => {
    go.disabled = chosen.size !== 2;
    say(chosen.size === 2 ? "" : `Choose two runs to compare: ${chosen.size} chosen.`);
  };
  const row = (each) =>
    h("tr", {},
      h("td", {}, h("input", { type: "checkbox", "aria-label": `Compare the run of ${date(each.started)}`, checked: chosen.has(each.run),
        onchange: ({ target }) => { chosen[target.checked ? "add" : "delete"](each.run); settle(); } })),
      h("td", {}, "thumbnail.jpg" in each.files && h("img", { src: fileAddress(each, "thumbnail.jpg"), alt: "", loading: "lazy", class: "small" })),
      h("th", { scope: "row" }, h("a", { href: address(`scenes/${scene}/${each.run}`, { profile: each.profile_of_store }) }, date(each.started))),
      h("td", {}, [each.preset, each.profile].filter(Boolean).join(", ") || "–"),
      figures.map((figure) => h("td", { class: "n" }, figureText(figure, each))));
  const compare = (event) => {
    event.preventDefault();
    // The older one on the left: what changed is read from left to right.
    const [right, left] = runs.filter((each) => chosen.has(each.run)).map((each) => each.run);
    location.assign(new URL(address(`compare/${scene}`, { left, right }), document.baseURI));
  };
  const head = ["", "", "Run", "Asked", ...figures.map((each) => each.label)];
  show(
    crumbs(h("a", { href: "scenes" }, "Scenes"), h("span", { "aria-current": "page" }, scene)),
    h("header", {}, h("h1", {}, scene), h("p", { class: "quiet" }, `${runs.length} ${runs.length === 1 ? "run" : "runs"} that ended well, newest first`)),
    h("form", { onsubmit: compare },
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs" },
        h("table", { class: "runs" },
          h("thead", {}, h("tr", {}, head.map((each, at) => h("th", { scope: "col", class: at > 3 && "n" }, each || h("span", { class: "unseen" }, at ? "Picture" : "Compare"))))),
          h("tbody", {}, runs.map(row)))),
      runs.length > 1 && h("p", { class: "buttons" }, go)),
  );
  settle();
}
