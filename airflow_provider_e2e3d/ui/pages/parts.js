// What several pages show alike.

import { h, s } from "./dom.js";
import { isRunning, state } from "./words.js";

const SIGNS = {
  success: "M4 10.5l4 4 8-9",
  failed: "M5 5l10 10M15 5L5 15",
  up_for_retry: "M15 6.5A6.2 6.2 0 1 0 16.2 11M15.4 3v3.8h-3.8",
};

export function sign(name) {
  const running = isRunning(name);
  const path = running ? "M10 3.5a6.5 6.5 0 1 1-6.5 6.5" : SIGNS[name];
  const drawn = path
    ? s("path", { d: path, fill: "none", "stroke-width": 2, "stroke-linecap": "round", "stroke-linejoin": "round" })
    : s("circle", { cx: 10, cy: 10, r: 3.2, fill: "none", "stroke-width": 1.8 });
  return s("svg", { viewBox: "0 0 20 20", class: `sign ${running ? "running" : name ?? "none"}`, "aria-hidden": "true" }, drawn);
}

export const chip = (name) =>
  h("span", { class: `chip ${isRunning(name) ? "running" : name ?? "none"}` }, sign(name), state(name));

export const figure = (label, value, more) =>
  h("div", { class: "figure" }, h("dt", {}, label), h("dd", {}, h("b", {}, value), more && h("small", {}, more)));

export const figures = (...each) => h("dl", { class: "figures" }, each.filter(Boolean));

// What went wrong, and what a person does next.
export const failure = (reason, extra) =>
  h(
    "section",
    { class: "notice failed", role: "alert" },
    h("h2", {}, sign("failed"), reason.name ? `${reason.name}: it did not work` : "It did not work"),
    h("p", { class: "message" }, reason.message),
    reason.hint && h("p", {}, h("b", {}, "What to do: "), reason.hint),
    extra,
  );

// What a person is asked, and where they answer.
export const question = (asked, run) =>
  h(
    "section",
    { class: "notice", role: "status" },
    h("h2", {}, `${asked.name}: it waits for your answer`),
    h("p", {}, airflowLink(`${runPath(run.dag_id, run.run_id)}/tasks/${encodeURIComponent(asked.task_id)}/required_actions`, "Look at what was found, and answer")),
  );

export const stopped = (reason) =>
  h("section", { class: "notice", role: "status" }, h("h2", {}, "Stopped before training"), h("p", { class: "message" }, reason.message), h("p", {}, reason.hint));

export const warning = (each) =>
  h("li", { class: "warning" }, h("b", {}, each.message), each.advice && h("span", {}, ` ${each.advice}`));

// A page of Airflow's own, around this one; its frame lets nothing inside move it, so its own document does.
export function airflowLink(path, ...words) {
  const href = new URL(`../${path}`, document.baseURI).href;
  const go = (event) => {
    if (window.parent === window || event.metaKey || event.ctrlKey) return;
    event.preventDefault();
    const link = window.parent.document.createElement("a");
    link.href = href;
    link.click();
  };
  return h("a", { href, onclick: go }, words);
}

export const runPath = (dagId, runId) => `dags/${encodeURIComponent(dagId)}/runs/${encodeURIComponent(runId)}`;

export const crumbs = (...links) =>
  h("nav", { class: "crumbs", "aria-label": "Where this is" }, links.map((link, at) => [at ? " / " : "", link]));
