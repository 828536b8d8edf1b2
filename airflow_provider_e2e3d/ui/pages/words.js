// Numbers and states as people read them: `contract/formatting.py` says the same in Python.

export const DASH = "–";

const isNothing = (value) => value === null || value === undefined;

export function size(bytes) {
  if (isNothing(bytes)) return DASH;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (bytes >= 999.5 && step < units.length - 1) {
    bytes /= 1000;
    step += 1;
  }
  return `${step && bytes < 99.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[step]}`;
}

export function duration(seconds) {
  if (isNothing(seconds)) return DASH;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// How long something may still take: nobody needs the seconds of an hour.
export function left(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s left`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min left`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min left`;
}

export const number = (value, digits = 0) =>
  isNothing(value)
    ? DASH
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

export const money = (value) =>
  isNothing(value) ? DASH : value > 0 && value < 0.005 ? "< $0.01" : `$${number(value, 2)}`;

// By the names that figures have for their formats.
const FORMATS = {
  count: number,
  decibels: (value) => (isNothing(value) ? DASH : `${value.toFixed(1)} dB`),
  ratio: (value) => number(value, 3),
  bytes: size,
  seconds: duration,
  dollars: money,
};

// A figure's value in a run's record, and how it reads.
export const valueOf = (figure, record) => (figure.stage ? record.metrics : record)?.[figure.name] ?? null;

export function figureText(figure, record) {
  const text = FORMATS[figure.format](valueOf(figure, record));
  const whole = figure.whole ? record.metrics?.[figure.whole] : null;
  return isNothing(whole) ? text : `${text} of ${FORMATS[figure.format](whole)}`;
}

export function date(told, withTime = true) {
  if (!told) return DASH;
  const moment = new Date(told);
  const day = moment.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
  return withTime ? `${day}, ${moment.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false })}` : day;
}

export const since = (from, to) => (from ? (new Date(to ?? Date.now()).getTime() - new Date(from).getTime()) / 1000 : null);

const STATES = {
  success: "done",
  running: "running",
  deferred: "running",
  failed: "failed",
  up_for_retry: "will try again",
  up_for_reschedule: "waiting",
  queued: "waiting for a worker",
  scheduled: "waiting for a worker",
  upstream_failed: "not started",
  skipped: "skipped",
  removed: "removed",
  awaiting_input: "waiting for an answer",
  restarting: "starting anew",
};
export const state = (name) => STATES[name] ?? "not started";
export const isRunning = (name) => name === "running" || name === "deferred";
