// The *Scene* tab of a DAG run: how far it is, why it failed, or what came of it.

import { againForm, cancelButton } from "./again.js";
import { address, ask, watch } from "./api.js";
import { curve } from "./curve.js";
import { h, replace, say, show } from "./dom.js";
import { airflowLink, chip, failure, question, sign, stopped } from "./parts.js";
import { result } from "./result.js";
import { date, duration, isRunning, left, money, number, since, state } from "./words.js";

const ENDED = ["success", "failed"];

function stageWords(each) {
  const { progress } = each;
  if (each.problem) return each.problem;
  if (each.state === "success") return [each.result, each.reused && "reused, nothing ran"].filter(Boolean).join(" · ");
  if (each.state === "failed") return "failed: see above";
  if (each.state === "skipped") return each.stopped ? "" : "not asked for";
  if (each.state === "up_for_retry") return each.failure ? `${each.failure.message} It is tried again.` : "It is tried again.";
  if (!isRunning(each.state)) return "";
  if (each.waits_for_another && !progress) return "Waiting for another run that makes the same.";
  if (!progress) return "Starting…";
  const parts = [
    progress.phase,
    progress.total ? `${number(progress.done)} of ${number(progress.total)} ${progress.unit}` : null,
    progress.rate ? `${progress.rate >= 10 ? Math.round(progress.rate) : progress.rate.toPrecision(2)} ${progress.unit}/s` : null,
    progress.eta_seconds !== null && progress.eta_seconds !== undefined ? left(progress.eta_seconds) : null,
  ];
  return (each.waits_for_another ? "Another run makes it: " : "") + parts.filter(Boolean).join(" · ");
}

// One row a stage, made once and then only changed, so that bars move and readers keep their place.
class StageRow {
  constructor(each) {
    this.sign = h("span", { class: "signs" });
    this.fill = h("div", { class: "fill" });
    this.words = h("span", { class: "words" });
    this.time = h("span", { class: "time" });
    this.bar = h("div", { class: "progress", role: "progressbar", "aria-label": each.name, "aria-valuemin": 0, "aria-valuemax": 100 }, this.fill);
    this.row = h("li", { class: "row" }, this.sign, h("div", { class: "what" }, h("b", {}, each.name), this.words, this.bar), this.time);
  }

  update(each) {
    const done = each.state === "success";
    const { progress } = each;
    const share = done ? 1 : progress?.total ? Math.min(1, progress.done / progress.total) : 0;
    const running = isRunning(each.state);
    this.row.className = `row ${running ? "running" : each.state ?? "none"}`;
    replace(this.sign, sign(each.state));
    this.words.textContent = stageWords(each);
    this.fill.style.width = `${(100 * share).toFixed(1)}%`;
    this.bar.classList.toggle("unknown", running && !progress?.total);
    this.bar.setAttribute("aria-valuenow", Math.round(100 * share));
    this.bar.setAttribute("aria-valuetext", `${state(each.state)} ${this.words.textContent}`.trim());
    this.bar.hidden = !running && !done;
    this.time.textContent = done ? duration(each.reused ? since(each.started, each.ended) : each.seconds) : running ? duration(since(each.started)) : "";
  }
}

// Where the photos' light is learned, each is compared in its own.
function light(points) {
  const apart = points.at(-1)?.light_ev;
  return Number.isFinite(apart) ? `, each in its own light: they differ by ${apart.toFixed(1)} EV` : "";
}

function training(found, run) {
  const { curve: points, preview, task_id, map_index } = found.training;
  const train = found.stages.find((each) => each.task_id === task_id && each.map_index === map_index);
  const drawn = curve(points, train?.progress?.total);
  const source = preview && address("api/preview", { ...run, task_id, map_index, tag: preview });
  return h("section", { class: "training", "aria-label": "Training" },
    source && h("figure", {}, h("img", { src: source, alt: "The scene as training sees it now" }), h("figcaption", {}, "The newest look at the scene")),
    drawn && h("figure", {}, drawn, h("figcaption", {}, `PSNR on training photos, in dB${light(points)}`)));
}

export async function open(query) {
  const run = { dag_id: query.dag_id, run_id: query.run_id };
  const rows = new Map();
  const head = h("header", { class: "run" });
  const notices = h("div");
  const list = h("ol", { class: "stages", "aria-label": "Stages" });
  const picture = h("div");
  const place = h("div");
  const actions = h("div");
  let offered = "";
  let spoken = "";
  let finished = "";

  async function look() {
    const found = await ask("api/run", run);
    if (!found.ours) {
      show(h("section", { class: "notice" }, h("h1", {}, "No scene here"),
        h("p", {}, "This run belongs to a DAG that makes no scenes, so there is nothing to show. Scenes come from the DAG reconstruct."),
        h("p", {}, h("a", { href: "scenes" }, "See all scenes"))));
      return false;
    }
    if (!head.isConnected) show(head, notices, place, h("div", { class: "work" }, list, picture), actions);
    document.title = `${found.scene ?? "Scene"} · E2E3D`;
    const ended = ENDED.includes(found.state);
    const done = found.stages.filter((each) => each.state === "success").length;
    const guess = found.estimate && !ended ? ` · estimated ${duration(found.estimate.seconds)} in all${found.estimate.price === null ? "" : `, ${money(found.estimate.price)}`}` : "";
    replace(head, h("div", {},
      h("h1", {}, found.scene ?? "Scene", " ", chip(found.state)),
      h("p", { class: "quiet" }, date(found.started), " · ", ended ? duration(since(found.started, found.ended)) : found.started ? `${duration(Math.round(since(found.started)))} so far${guess}` : "not started yet",
        found.result && [" · ", airflowLink(`plugin/scenes${new URL(document.baseURI).pathname}scenes/${found.result.scene}`, "all runs of this scene")])));
    const asked = found.questions.map((each) => question(each, run));
    replace(notices, h("div", {}, found.failures.map((each) => failure(each)), asked, found.stopped && stopped(found.stopped)));
    for (const each of found.stages) {
      const name = `${each.task_id}/${each.map_index}`;
      if (!rows.has(name)) {
        rows.set(name, new StageRow(each));
        list.append(rows.get(name).row);
      }
      rows.get(name).update({ ...each, stopped: found.stopped });
    }
    if (found.training && !found.result) replace(picture, training(found, run));
    else picture.replaceChildren();
    if (found.result && found.result.mark !== finished) {
      finished = found.result.mark;
      // What came of it says more than how it was made.
      place.replaceChildren(...result(found.result).flat(Infinity).filter(Boolean));
      list.hidden = true;
    }
    // Made once, so that what a person writes into it stays.
    const offer = ended ? found.may.start && "again" : found.may.cancel && "cancel";
    if (offer !== offered) {
      offered = offer;
      actions.replaceChildren(...(offer ? [offer === "again" ? againForm(run, found.conf) : cancelButton(run)] : []));
    }
    const words = found.questions.length ? "The run waits for your answer." : found.stopped ? found.stopped.message : found.failures.length ? `Failed: ${found.failures[0].message}` : ended ? "The run is done." : `${done} of ${found.stages.length} stages done. ${found.stages.filter((each) => isRunning(each.state)).map((each) => each.name).join(", ")}`;
    if (words !== spoken) say(spoken = words);
    return !ended;
  }

  await watch(look, 2);
}
