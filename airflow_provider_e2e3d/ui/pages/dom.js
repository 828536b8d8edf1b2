// Elements without markup: text stays text, whatever a scene or a failure is called.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

export const show = (...children) => {
  const main = document.getElementById("main");
  main.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return main;
};

// What changes while a person looks is put in place only where it differs, so that focus and reading stay.
export function replace(place, child) {
  if (place.firstChild && place.firstChild.isEqualNode?.(child)) return;
  place.replaceChildren(child);
}

let speaker = null;
export function say(words) {
  speaker ??= document.body.appendChild(h("p", { class: "unseen", role: "status", "aria-live": "polite" }));
  if (speaker.textContent !== words) speaker.textContent = words;
}
