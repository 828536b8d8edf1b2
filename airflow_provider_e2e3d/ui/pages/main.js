// Which page this is, by its address.

import { Unreachable } from "./api.js";
import { load } from "./declared.js";
import { h, show } from "./dom.js";

const base = new URL(document.baseURI).pathname;
const [kind, ...names] = location.pathname.slice(base.length).split("/").filter(Boolean).map(decodeURIComponent);
const query = Object.fromEntries(new URLSearchParams(location.search));
// Where a task is not mapped, Airflow leaves the name of what it would put there.
if (!/^-?\d+$/.test(query.map_index ?? "")) query.map_index = "-1";

const pages = {
  scenes: ["./gallery.js", "./scene.js", "./result.js"][names.length],
  compare: "./compare.js",
  run: "./run.js",
  task: "./task.js",
};

async function page() {
  try {
    return await import(pages[kind]);
  } catch (problem) {
    console.error(problem);
    throw new Unreachable();
  }
}

async function start() {
  try {
    const [{ open }] = await Promise.all([page(), load()]);
    await open(query, ...names);
  } catch (problem) {
    console.error(problem);
    show(
      h("section", { class: "notice", role: "alert" }, h("h1", {}, problem.message), problem.hint && h("p", {}, problem.hint)),
    );
    if (problem instanceof Unreachable) setTimeout(start, 2000);
  }
}

await start();
