// For those who use the keyboard or listen: what scrolls by itself can be reached, and the buttons of each code block
// have a name of their own.
function reachable() {
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code, .equation")) {
    if (region.scrollWidth > region.clientWidth) region.setAttribute("tabindex", "0");
    else region.removeAttribute("tabindex");
  }
  document.querySelectorAll(".md-code__nav").forEach((buttons, index) => {
    buttons.setAttribute("aria-label", `Buttons of code block ${index + 1}`);
  });
}
document$.subscribe(() => setTimeout(reachable));
window.addEventListener("resize", reachable);
