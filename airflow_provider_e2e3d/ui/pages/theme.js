// Light or dark as Airflow is: its choice lies in this origin's storage; without one the system's.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const choose = () => {
    let chosen = null;
    try {
      chosen = localStorage.getItem("theme");
    } catch {
      // Storage may be blocked.
    }
    const dark = chosen === "dark" || (chosen !== "light" && system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  addEventListener("storage", choose);
  system.addEventListener("change", choose);
  choose();
})();
