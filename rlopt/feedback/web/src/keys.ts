import { h } from "./dom";
import { setShortcuts, shortcutsOn } from "./keep";

export interface Actions {
  digit(digit: string): void;
  arrow(key: string): void;
  better(): void;
  worse(): void;
  tie(): void;
  remove(): void;
  undo(): void;
  playPause(): void;
  frame(step: number): void;
  speed(step: number): void;
  restart(): void;
  enlarge(): void;
  submit(): void;
  skip(): void;
  /** Any key but a digit: a number that is half typed is taken as it stands. */
  other(): boolean;
}

const NATIVE = "input, select, textarea, [contenteditable]";
const ACTIVATED = "button, a[href], summary";

/** Listens to the whole page; what a control that has the focus needs for itself is left to it. */
export function listen(actions: Actions, help: () => void): void {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || document.querySelector("dialog[open]")) return;
    const target = event.target as Element;
    if (target.closest(NATIVE)) return;
    if ((event.key === " " || event.key === "Enter") && target.closest(ACTIVATED)) return;
    if (event.repeat && !REPEATABLE.has(event.key)) return;
    const single = event.key.length === 1 && event.key !== " ";
    if (single && !shortcutsOn()) return;
    if (event.key.startsWith("Arrow") && !target.closest("[role=listbox]") && target !== document.body) return;
    if (perform(event.key, actions, help)) event.preventDefault();
  });
}

const REPEATABLE = new Set([",", ".", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]);

function perform(key: string, actions: Actions, help: () => void): boolean {
  if (/^[0-9]$/.test(key)) {
    actions.digit(key);
    return true;
  }
  const act = table(actions, help)[key.length === 1 ? key.toLowerCase() : key];
  if (!act) return false;
  if (actions.other() && key === "Enter") return true;
  act();
  return true;
}

function table(actions: Actions, help: () => void): Record<string, () => void> {
  const arrows = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];
  return {
    ...Object.fromEntries(arrows.map((key) => [key, () => actions.arrow(key)])),
    k: () => actions.better(),
    j: () => actions.worse(),
    t: () => actions.tie(),
    "=": () => actions.tie(),
    u: () => actions.remove(),
    Delete: () => actions.remove(),
    z: () => actions.undo(),
    " ": () => actions.playPause(),
    ",": () => actions.frame(-1),
    ".": () => actions.frame(1),
    "[": () => actions.speed(-1),
    "]": () => actions.speed(1),
    r: () => actions.restart(),
    e: () => actions.enlarge(),
    Enter: () => actions.submit(),
    s: () => actions.skip(),
    "?": help,
  };
}

const HELP: readonly (readonly [string, string])[] = [
  ["1 2 3 …", "give this clip the next place, or take it out again"],
  ["← → ↑ ↓", "go from clip to clip"],
  ["K  J", "move the clip one place better, worse"],
  ["T", "tie with the place before, or end the tie"],
  ["U", "take the clip out of the order"],
  ["Z", "undo; with nothing to undo, reopen the answer before"],
  ["Space", "play or pause all clips"],
  [",  .", "one frame back, one frame forward"],
  ["[  ]", "slower, faster"],
  ["R", "play all from the start"],
  ["E", "show one clip large, or all again"],
  ["Enter", "submit"],
  ["S", "skip: “I cannot tell”"],
  ["?", "this help"],
];

export class Help {
  readonly dialog: HTMLDialogElement;

  constructor(noun: string) {
    const rows = HELP.map(([keys, words]) =>
      h("div", {}, h("dt", {}, ...keys.split(/\s+/).flatMap((key) => [h("kbd", {}, key), " "])), h("dd", {}, words.replace("clip", noun))),
    );
    const box = h("input", { type: "checkbox", id: "shortcuts", checked: shortcutsOn() });
    box.addEventListener("change", () => setShortcuts(box.checked));
    const close = h("button", { type: "submit", class: "primary", autofocus: true }, "Close");
    this.dialog = h(
      "dialog",
      { "aria-labelledby": "help-title" },
      h("h2", { id: "help-title" }, "Keys"),
      h("p", {}, `With more than nine ${noun}s, a number may take two digits: 1 waits a moment for the next one.`),
      h("dl", { class: "keys" }, ...rows),
      h("p", {}, `Without keys: click a ${noun} to place it, use the buttons in “Your order”, or drag.`),
      h("form", { method: "dialog" }, h("label", { for: "shortcuts" }, box, " Letters, digits and signs work as keys"), close),
    );
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "?") this.dialog.close();
    });
  }

  /** Tells how to continue elsewhere. */
  returning(address: string): void {
    const link = h("input", { type: "text", readonly: true, value: address, id: "return-link" });
    link.addEventListener("focus", () => link.select());
    const words = " To continue in another browser, open this address there. It is yours alone.";
    this.dialog.querySelector("form")!.before(h("p", { class: "return" }, h("label", { for: "return-link" }, words), link));
  }

  open(): void {
    if (!this.dialog.open) this.dialog.showModal();
  }
}
