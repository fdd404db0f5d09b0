(() => {
  "use strict";
  const root = document.documentElement;
  const asked = location.hash === "#dark" || location.hash === "#light" ? location.hash.slice(1) : null;
  let kept = null;
  try { kept = localStorage.getItem("fractionate-theme"); } catch { /* storage may be closed to files */ }
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");
  if (asked || kept === "dark" || kept === "light") root.dataset.theme = asked || kept;

  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed here: the old way */ }
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = theme() === "dark" ? "Light" : "Dark"; button.setAttribute("aria-label", `Use the ${theme() === "dark" ? "light" : "dark"} theme`); };
    name();
    button.hidden = false;
    system.addEventListener("change", name);
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      try { localStorage.setItem("fractionate-theme", root.dataset.theme); } catch { /* as above */ }
      name();
    });
    for (const item of document.querySelectorAll("button.copy")) {
      item.addEventListener("click", async () => {
        const done = await copy(item.parentElement.querySelector("code").textContent);
        item.textContent = done ? "Copied" : "Select it";
        setTimeout(() => { item.textContent = "Copy"; }, 1600);
      });
    }
  });
})();
