import { h } from "./dom";

/** Where a dragged clip would land: before a row, tied with it, or behind all. */
export type Target = { kind: "before" | "tie"; id: string } | { kind: "end" };

const SLACK = 6;

/**
 * Drags a clip of the board, or a row of the order by its grip, into the order. It is an extra: everything it does has a
 * key and a button. A finger drags by the grip only, so that the page can be scrolled.
 */
export function enableDragging(board: HTMLElement, order: HTMLElement, rows: HTMLElement, ondrop: (id: string, target: Target) => void): void {
  const begin = (event: PointerEvent): void => {
    const from = event.target as Element;
    const source = from.closest<HTMLElement>(".clip[data-id]") ?? (from.closest(".grip") && from.closest<HTMLElement>(".row[data-id]"));
    if (!source || event.button !== 0 || (event.pointerType === "touch" && !from.closest(".grip"))) return;
    new Drag(event, source, order, rows, ondrop);
  };
  board.addEventListener("pointerdown", begin);
  rows.addEventListener("pointerdown", begin);
}

class Drag {
  private ghost: HTMLElement | null = null;
  private target: Target | null = null;
  private readonly ends = new AbortController();

  constructor(
    private readonly start: PointerEvent,
    private readonly source: HTMLElement,
    private readonly order: HTMLElement,
    private readonly rows: HTMLElement,
    private readonly ondrop: (id: string, target: Target) => void,
  ) {
    const options = { signal: this.ends.signal };
    document.addEventListener("pointermove", (event) => this.move(event), options);
    document.addEventListener("pointerup", () => this.end(true), options);
    document.addEventListener("pointercancel", () => this.end(false), options);
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.end(false), options);
  }

  private move(event: PointerEvent): void {
    if (event.pointerId !== this.start.pointerId) return;
    if (!this.ghost) {
      if (Math.hypot(event.clientX - this.start.clientX, event.clientY - this.start.clientY) < SLACK) return;
      this.ghost = h("div", { class: "ghost", "aria-hidden": "true" }, this.source.querySelector(".number")?.textContent ?? "");
      document.body.append(this.ghost);
      document.body.classList.add("dragging");
      this.source.classList.add("dragged");
    }
    this.ghost.style.translate = `${event.clientX + 10}px ${event.clientY + 10}px`;
    this.mark(this.find(event.clientX, event.clientY));
  }

  private find(x: number, y: number): Target | null {
    const area = this.order.getBoundingClientRect();
    if (x < area.left || x > area.right || y < area.top || y > area.bottom) return null;
    for (const row of this.rows.querySelectorAll<HTMLElement>(".row")) {
      const { top, bottom, height } = row.getBoundingClientRect();
      if (y < top + 0.3 * height) return { kind: "before", id: row.dataset.id! };
      if (y <= bottom - 0.3 * height) return { kind: "tie", id: row.dataset.id! };
    }
    return { kind: "end" };
  }

  private mark(target: Target | null): void {
    this.target = target;
    for (const row of this.rows.querySelectorAll<HTMLElement>(".row")) {
      const here = target && target.kind !== "end" && target.id === row.dataset.id ? target.kind : null;
      row.classList.toggle("drop-before", here === "before");
      row.classList.toggle("drop-tie", here === "tie");
    }
    this.order.classList.toggle("drop-end", target?.kind === "end");
  }

  private end(drop: boolean): void {
    this.ends.abort();
    if (!this.ghost) return;
    this.ghost.remove();
    document.body.classList.remove("dragging");
    this.source.classList.remove("dragged");
    const target = this.target;
    this.mark(null);
    if (drop && target) this.ondrop(this.source.dataset.id!, target);
  }
}
