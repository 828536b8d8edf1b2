// Numbers and states as people read them.

export const DASH = "–";

export function size(bytes) {
  if (bytes === null || bytes === undefined) return DASH;
  const steps = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  while (bytes >= 999.5 && step < steps.length - 1) {
    bytes /= 1000;
    step += 1;
  }
  return `${step && bytes < 99.5 ? bytes.toFixed(1) : Math.round(bytes)} ${steps[step]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

// How long something may still take: nobody needs the seconds of an hour.
export function left(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s left`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min left`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min left`;
}

export const number = (value, digits = 0) =>
  value === null || value === undefined
    ? DASH
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

export const decibels = (value) => (value === null || value === undefined ? DASH : `${value.toFixed(1)} dB`);
export const money = (value) => (value === null || value === undefined ? DASH : value > 0 && value < 0.005 ? "< $0.01" : `$${value.toFixed(2)}`);

export function date(told, withTime = true) {
  if (!told) return DASH;
  const moment = new Date(told);
  const day = moment.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
  return withTime ? `${day}, ${moment.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false })}` : day;
}

export const since = (from, to) => (from ? (new Date(to ?? Date.now()) - new Date(from)) / 1000 : null);

export const STAGES = {
  ingest: "Photos",
  sfm: "Camera poses",
  train: "Training",
  compress: "Compression",
  evaluate: "Evaluation",
  publish: "Page",
};

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
  restarting: "starting anew",
};
export const state = (name) => STATES[name] ?? "not started";
export const isRunning = (name) => name === "running" || name === "deferred";

// The one or two figures by which a stage's success is judged.
export function headline(stage, metrics = {}) {
  const m = metrics ?? {};
  if (stage === "ingest" && m.photos !== undefined) return `${m.photos} photos`;
  if (stage === "sfm" && m.photos_registered !== undefined)
    return `${m.photos_registered} of ${m.photos_given} photos placed`;
  if (stage === "train" && m.gaussians !== undefined) return `${number(m.gaussians)} Gaussians`;
  if (stage === "compress" && m.sog_bytes !== undefined) return size(m.sog_bytes);
  if (stage === "evaluate" && m.psnr !== undefined && m.psnr !== null) return `${m.psnr.toFixed(1)} dB PSNR`;
  return "";
}
