import type { Clip } from "./api";
import { h, setText } from "./dom";
import { placedOf, placeOf, type Tiers } from "./tiers";
import { list, ordinal } from "./words";

export type Move = "better" | "worse" | "tie" | "remove";

const BUTTONS: readonly (readonly [Move, string, string])[] = [
  ["better", "↑", "Better"],
  ["worse", "↓", "Worse"],
  ["tie", "=", "Tie with the one before"],
  ["remove", "✕", "Take out"],
];

/** The order as a list with buttons: what the keys and the dragging do, for whoever uses neither. */
export class Order {
  readonly element: HTMLElement;
  readonly rows = h("ol", { class: "rows" });
  private readonly rest = h("p", { class: "rest" });
  private readonly title = h("h3", { id: "order-title" }, "Your order");

  constructor(
    private readonly clips: readonly Clip[],
    private readonly k: number,
    private readonly noun: string,
    private readonly onmove: (id: string, move: Move) => void,
  ) {
    this.element = h("section", { class: "order", "aria-labelledby": "order-title" }, this.title, this.rows, this.rest);
  }

  /** Shows the expert's order in place of the rater's own, which is named below. */
  showExpert(tiers: Tiers, own: Tiers): void {
    setText(this.title, "The expert's order");
    this.show(tiers);
    const numbers = (tier: readonly string[]): string => list(tier.map((id) => 1 + this.clips.findIndex((clip) => clip.id === id)));
    if (own.length) setText(this.rest, `Your order was ${own.map(numbers).join(", then ")}.`);
    for (const control of this.rows.querySelectorAll("button")) control.disabled = true;
  }

  show(tiers: Tiers): void {
    const focused = document.activeElement instanceof HTMLElement && this.rows.contains(document.activeElement) ? document.activeElement : null;
    const id = focused?.closest<HTMLElement>(".row")?.dataset.id;
    const move = focused?.dataset.move;
    const rows = tiers.flatMap((tier, t) => tier.map((clip, within) => this.row(tiers, t, clip, within)));
    const free = Math.max(0, this.k - placedOf(tiers).length);
    const slots = Array.from({ length: free }, (_, i) => h("li", { class: "slot", "aria-hidden": "true" }, ordinal(placedOf(tiers).length + i + 1)));
    this.rows.replaceChildren(...rows, ...slots);
    const unplaced = this.clips.flatMap((clip, i) => (placedOf(tiers).includes(clip.id) ? [] : [i + 1]));
    setText(this.rest, this.below(unplaced, placedOf(tiers).length));
    if (focused) this.restoreFocus(id, move);
  }

  private below(unplaced: number[], placed: number): string {
    if (!unplaced.length) return `All ${this.noun}s are placed.`;
    if (!placed) return `Press the number of the best ${this.noun}, click it, or drag it here.`;
    return `Worse than these, in no order: ${list(unplaced)}.`;
  }

  private row(tiers: Tiers, tier: number, id: string, within: number): HTMLLIElement {
    const number = this.clips.findIndex((clip) => clip.id === id) + 1;
    const tied = tiers[tier]!.length > 1;
    const place = ordinal(placeOf(tiers, tier)) + (tied ? " =" : "");
    const clip = this.clips[number - 1]!;
    const row = h(
      "li",
      { class: within > 0 ? "row tied" : "row", "data-id": id },
      h("span", { class: "grip", "aria-hidden": "true", title: "Drag to another place" }, "⠿"),
      h("span", { class: "rank" }, place),
      h("span", { class: "thumb" }, h("img", { src: clip.poster || clip.url, alt: "", draggable: "false" }), h("span", { class: "number" }, String(number))),
      h("span", { class: "hidden" }, `, ${this.noun} ${number}`),
    );
    const first = tier === 0 && within === 0;
    for (const [move, sign, words] of BUTTONS) {
      const off = (move === "better" && tier === 0 && !tied) || (move === "tie" && first);
      const control = h("button", { type: "button", "data-move": move, "aria-label": `${words}: ${this.noun} ${number}`, title: words, disabled: off }, sign);
      if (move === "tie") control.setAttribute("aria-pressed", String(within > 0));
      control.addEventListener("click", () => this.onmove(id, move));
      row.append(control);
    }
    return row;
  }

  private restoreFocus(id: string | undefined, move: string | undefined): void {
    const row = [...this.rows.children].find((child) => (child as HTMLElement).dataset.id === id);
    const wanted = row?.querySelector<HTMLButtonElement>(`button[data-move="${move}"]:enabled`) ?? row?.querySelector<HTMLButtonElement>("button:enabled");
    (wanted ?? this.rows.querySelector<HTMLButtonElement>("button:enabled"))?.focus();
  }
}
