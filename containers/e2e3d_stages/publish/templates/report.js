// What a page without scripts shows side by side lies on top of each other, with a slider between.
for (const view of document.querySelectorAll(".compare")) {
  const slider = view.querySelector("input[type=range]");
  const choice = view.querySelector("input[type=checkbox]");
  const pictures = view.querySelector(".pictures");
  const show = () => {
    const kind = choice.checked ? "difference" : "render";
    view.style.setProperty("--at", slider.value + "%");
    view.dataset.over = kind;
    view.querySelector(".over").textContent = choice.checked ? "Difference" : "Render";
    slider.setAttribute("aria-valuetext", `${slider.value} % photo, ${100 - slider.value} % ${kind}`);
  };
  const drag = (event) => {
    const box = pictures.getBoundingClientRect();
    slider.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    show();
  };
  pictures.addEventListener("pointerdown", (event) => {
    pictures.setPointerCapture(event.pointerId);
    drag(event);
  });
  pictures.addEventListener("pointermove", (event) => event.buttons && drag(event));
  slider.addEventListener("input", show);
  choice.addEventListener("change", show);
  view.classList.add("sliding");
  view.querySelector(".controls").hidden = false;
  show();
}

for (const button of document.querySelectorAll("[data-copy]")) {
  const text = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl+C"; // the browser allows no more here, and the words are selected
    }
  });
}

// Inside Airflow's pages a link to scene or mesh is the page around's to follow: a frame of theirs has no login.
if (window.parent !== window) {
  for (const link of document.querySelectorAll('a[href="index.html"], a[href="mesh.html"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      window.parent.postMessage({ e2e3d: "open", page: link.getAttribute("href") }, "*");
    });
  }
}
