// Pages of a store: somebody's work, shown in a frame that cannot act as the person who looks.

import { address } from "./api.js";
import { h } from "./dom.js";

export const fileAddress = (record, name, more = {}) =>
  address(`scenes/${record.scene}/${record.run}/${name.split("/").map(encodeURIComponent).join("/")}`, {
    profile: record.profile_of_store,
    v: record.mark,
    ...more,
  });

export function frame(record, name, title, more) {
  return h("iframe", {
    src: fileAddress(record, name, more),
    title,
    sandbox: "allow-scripts allow-downloads allow-pointer-lock",
    allow: "fullscreen; xr-spatial-tracking",
    referrerpolicy: "no-referrer",
  });
}

// A page inside asks for its neighbour (report or scene): the page around shows it.
export function onOpen(frames, open) {
  addEventListener("message", ({ source, data }) => {
    if (data?.e2e3d === "open" && frames().some((each) => each.contentWindow === source)) open(data.page);
  });
}

// The one that a person turns leads, the others follow.
export function sameCamera(frames, onReady) {
  const ready = new Set();
  addEventListener("message", ({ source, data }) => {
    const from = frames.find((each) => each.contentWindow === source);
    if (!from) return;
    if (data?.e2e3d === "ready") {
      ready.add(from);
      if (ready.size === frames.length) {
        frames[0].contentWindow.postMessage({ e2e3d: "lead" }, "*");
        onReady();
      }
    }
    if (data?.e2e3d === "camera") {
      for (const other of frames) {
        if (other !== from) other.contentWindow.postMessage({ e2e3d: "camera", camera: data.camera }, "*");
      }
    }
  });
}
