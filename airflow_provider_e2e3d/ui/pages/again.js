// What a person does with a run: end it, or have it again with other parameters.

import { tell } from "./api.js";
import { stages } from "./declared.js";
import { h } from "./dom.js";
import { airflowLink, runPath } from "./parts.js";

const runs = (dagId) => `dags/${encodeURIComponent(dagId)}/dagRuns`;

// A button's work, with what came of it beside it.
function doing(button, place, work) {
  return async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      place.replaceChildren(await work());
    } catch (problem) {
      place.replaceChildren(`${problem.message} ${problem.hint ?? ""}`.trim());
      button.disabled = false;
    }
  };
}

export function cancelButton(run) {
  const told = h("span", { role: "status", class: "quiet" });
  const button = h("button", { type: "button" }, "Cancel the run");
  const cancel = doing(button, told, async () => {
    await tell("PATCH", `${runs(run.dag_id)}/${encodeURIComponent(run.run_id)}`, { state: "failed" });
    return "It ends, and its jobs with it.";
  });
  // Airflow's frame lets no page ask by a dialog of the browser's.
  let sure = false;
  button.addEventListener("click", (event) => {
    if (sure) return cancel(event);
    sure = true;
    button.textContent = "Yes, end it and the jobs that work for it";
    return null;
  });
  return h("p", { class: "buttons" }, button, told);
}

export function againForm(run, conf) {
  const told = h("p", { role: "status" });
  const from = h("select", {}, h("option", { value: "" }, "whatever is not there yet"),
    stages.map((each) => h("option", { value: each.name, selected: (conf.force ?? [])[0] === each.name }, `${each.label} and what follows`)));
  const asked = Object.fromEntries(Object.entries(conf).filter(([name]) => name !== "force"));
  const text = h("textarea", { rows: Math.min(16, Object.keys(asked).length + 3), spellcheck: "false" });
  text.value = JSON.stringify(asked, null, 2);
  const button = h("button", { type: "submit", class: "main" }, "Run again");
  const start = doing(button, told, async () => {
    let values;
    try {
      values = JSON.parse(text.value);
    } catch (problem) {
      throw new Error(`That is no JSON: ${problem.message}.`);
    }
    const force = from.value ? { force: [from.value] } : {};
    const started = await tell("POST", runs(run.dag_id), { logical_date: null, conf: { ...values, ...force } });
    return airflowLink(`${runPath(run.dag_id, started.dag_run_id)}/plugin/scene`, "It has started: open its run");
  });
  return h("details", { class: "again" }, h("summary", {}, "Run again with …"),
    h("form", { onsubmit: start },
      h("label", {}, "Make anew ", from),
      h("label", {}, "Parameters, by the names of the trigger form", text),
      h("p", { class: "buttons" }, button), told));
}
