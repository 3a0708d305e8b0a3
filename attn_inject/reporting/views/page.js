"use strict";
// What a block of the strip says stands below the strip while it is pointed at or has the focus.
const readout = document.querySelector(".readout");
for (const piece of document.querySelectorAll(".piece")) {
  const tell = () => { readout.textContent = piece.title; };
  piece.addEventListener("pointerenter", tell);
  piece.addEventListener("focus", tell);
  piece.addEventListener("click", tell);
}
// A link to a block opens the section it is in.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", open);
for (const link of document.querySelectorAll("a.piece")) link.addEventListener("click", () => setTimeout(open));
open();
// Paper shows what is folded too.
const folded = () => [...document.querySelectorAll("details:not([open])")];
let opened = [];
addEventListener("beforeprint", () => { opened = folded(); for (const each of opened) each.open = true; });
addEventListener("afterprint", () => { for (const each of opened) each.open = false; });
// Copies the command line; where a page may not, it is selected instead.
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "selected";
    }
  });
}
