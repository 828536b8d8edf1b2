// Asking the server; addresses are below the page's <base>.

export class Refusal extends Error {
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

// Nothing came back: the network or Airflow itself is away for now.
export class Unreachable extends Refusal {
  constructor() {
    super(0, "Airflow does not answer.", "It is asked again in a moment.");
  }
}

export function address(path, query = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(known).toString();
  return text ? `${path}?${text}` : path;
}

export const ask = (path, query) => request(address(path, query), {});

// What changes something is Airflow's own API's, with its own permissions.
export const tell = (method, path, content) =>
  request(new URL(`../api/v2/${path}`, document.baseURI), { method, body: JSON.stringify(content) });

async function request(place, how) {
  let answer;
  try {
    answer = await fetch(place, { ...how, headers: { accept: "application/json", "content-type": "application/json" } });
  } catch {
    throw new Unreachable();
  }
  const told = await answer.json().catch(() => ({}));
  if (answer.ok) return told;
  const words = {
    401: ["Your login has ended.", "Load the page again to log in."],
    403: ["You may not do this.", "Ask whoever runs Airflow for the right to this DAG."],
    404: ["That is not there.", "It may have been removed."],
  }[answer.status];
  throw new Refusal(answer.status, words?.[0] ?? told.message ?? (typeof told.detail === "string" ? told.detail : "That did not work."), words?.[1] ?? told.hint ?? "");
}

// Look again and again while somebody can see it, until `look` says that nothing more will change.
export async function watch(look, seconds = 2) {
  for (;;) {
    let more = true;
    try {
      more = await look();
    } catch (problem) {
      if ([401, 403, 404].includes(problem.status)) throw problem;
      console.warn(problem);
    }
    if (!more) return;
    await new Promise((go) => setTimeout(go, seconds * 1000));
    while (document.hidden) await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
  }
}
