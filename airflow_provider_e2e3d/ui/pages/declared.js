// The figures and the stages as the server declares them: no page names one of them by itself.

import { ask } from "./api.js";

export let figures = [];
export let stages = [];

export async function load() {
  ({ figures, stages } = await ask("api/declared"));
}

export const stageLabel = (name) => stages.find((each) => each.name === name)?.label ?? name;
