// The *Artifact* tab of a task: what the stage read and wrote, where it came from, and how its attempts ended.

import { ask, watch } from "./api.js";
import { stageLabel } from "./declared.js";
import { h, show } from "./dom.js";
import { chip, failure, figure, figures, warning } from "./parts.js";
import { date, duration, isRunning, money, number, size } from "./words.js";

const table = (label, head, rows) =>
  h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((each) => h("th", { scope: "col", class: each.startsWith(">") && "n" }, each.replace(">", ""))))), h("tbody", {}, rows)));

function attempts(found) {
  const row = (each) => {
    const made = found.written?.attempt === each.attempt;
    const running = !made && !each.failure && each.attempt === found.attempts.length && isRunning(found.state);
    const how = each.failure
      ? [h("b", {}, each.failure.message), each.failure.hint && h("p", { class: "quiet" }, each.failure.hint)]
      : made ? "became the artifact" : running ? "at work" : "ended without reporting an error";
    return h("tr", {}, h("th", { scope: "row" }, number(each.attempt)), h("td", {}, how), h("td", {}, date(each.claimed)),
      h("td", {}, each.job ? [each.job.backend, each.job.machine].filter(Boolean).join(", ") : "–"), h("td", { class: "n" }, money(each.job?.price)));
  };
  return table("Attempts", ["Attempt", "How it ended", "Begun", "Where", ">Cost"], found.attempts.map(row));
}

const read = (found) => [
  found.capture && h("p", {}, "The photos at ", h("code", {}, found.capture)),
  found.inputs.length > 0 && table("Read", ["Artifact", "Key", ">Files", ">Size"], found.inputs.map((each) =>
    h("tr", {}, h("th", { scope: "row" }, stageLabel(each.stage)), h("td", {}, h("code", {}, each.key)), h("td", { class: "n" }, number(each.files)), h("td", { class: "n" }, size(each.size))))),
];

const FIRST = 8;
const files = (label, each) =>
  table(label, ["File", ">Size"], each.map(({ path, size: bytes }) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, path)), h("td", { class: "n" }, size(bytes)))));

function written(found) {
  const all = found.written?.files ?? [];
  const more = (found.written?.count ?? 0) - all.length;
  // One more line would not be worth a click.
  const first = all.length > FIRST + 1 ? FIRST : all.length;
  return [
    all.length > 0 && files("Written", all.slice(0, first)),
    all.length > first && h("details", {}, h("summary", {}, `${number(found.written.count - first)} more files`), files("More files", all.slice(first)), more > 0 && h("p", { class: "quiet" }, `and ${number(more)} more`)),
    h("p", { class: "quiet" }, h("code", {}, found.artifact.uri)),
  ];
}

const params = (found) =>
  table("Parameters", ["Parameter", "Value"], Object.entries(found.params).map(([name, value]) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value === null ? "–" : h("code", {}, typeof value === "object" ? JSON.stringify(value) : String(value))))));

function page(found) {
  if (!found.ours)
    return h("section", { class: "notice" }, h("h1", {}, "No artifact here"), h("p", {}, "This task makes no part of a scene; Airflow's other tabs say what it does."));
  const head = h("header", {}, h("h1", {}, found.name, " ", chip(found.state)));
  const sorry = found.failure && found.state !== "success" && failure(found.failure);
  if (!found.artifact) return [head, sorry, h("p", { class: "quiet" }, found.problem || "It has not begun: nothing is read or written yet.")];
  const usage = found.written?.usage;
  return [
    head,
    sorry,
    found.reused && h("p", { class: "notice" }, "Reused: this run found it ready. It was made ", usage && `on ${date(usage.finished)} `, "by ", h("code", {}, found.written?.by ?? "an earlier run"), "."),
    found.degraded_from && h("p", { class: "notice" }, "Memory ran out with what was asked; this was made with less."),
    usage && figures(
      found.result && figure("Result", found.result),
      figure("Time", duration(usage.wall_seconds)),
      figure("Memory", size(usage.peak_memory_bytes)),
      figure("Written", size(found.written.size), `${number(found.written.count)} files`),
      figure("Program", found.written.program.version, found.written.program.image ? "in a container" : "on the worker")),
    found.warnings?.length > 0 && h("ul", { class: "warnings" }, found.warnings.map(warning)),
    h("h2", {}, "Attempts"),
    found.attempts.length ? attempts(found) : h("p", { class: "quiet" }, "None yet."),
    h("div", { class: "two" },
      h("section", {}, h("h2", {}, "Read"), read(found)),
      h("section", {}, h("h2", {}, "Written"), written(found))),
    found.params && [h("h2", {}, "Parameters"), params(found)],
  ];
}

export async function open({ dag_id, run_id, task_id, map_index }) {
  document.title = `${task_id} · E2E3D`;
  let before = "";
  await watch(async () => {
    const found = await ask("api/task", { dag_id, run_id, task_id, map_index });
    const now = JSON.stringify(found);
    if (now !== before) show(page(found));
    before = now;
    return !["success", "failed", "skipped", "upstream_failed", "removed"].includes(found.state) && found.ours;
  }, 5);
}
