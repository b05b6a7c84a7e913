import type { Progress, Study } from "./api";
import { button, h, setText } from "./dom";
import { count } from "./words";

const STATES: Record<Progress["state"], string> = {
  rendering: "The trainer is working",
  open: "A round is open",
  waiting: "Nothing to rank just now",
  finished: "Thank you!",
};

export interface Commands {
  submit(): void;
  undo(): void;
  skip(): void;
  help(): void;
  retry(): void;
}

/** The fixed parts of the ranking page, which stay while rounds come and go, so that the focus is not lost. */
export class Frame {
  readonly main = h("div", { class: "left" });
  readonly side = h("div", { class: "slot-order" });
  private readonly title = h("h2", { id: "task" });
  private readonly said = h("p", { class: "status", role: "status" });
  private readonly facts = h("p", { class: "facts" });
  private readonly trouble = h("p", { role: "alert" });
  private readonly troubleBox: HTMLElement;
  private about: "connection" | null = null;
  private readonly waitingTitle = h("h3");
  private readonly waitingText = h("p");
  private readonly results = h("a", { href: "/results" }, "See the results");
  private readonly waiting = h(
    "div",
    { class: "waiting" },
    h("span", { class: "spinner", "aria-hidden": "true" }),
    this.waitingTitle,
    this.waitingText,
    this.results,
  );
  resultsShown = true;
  private readonly submit: HTMLButtonElement;
  private readonly undo: HTMLButtonElement;
  private readonly skip: HTMLButtonElement;
  private readonly retry: HTMLButtonElement;

  constructor(app: HTMLElement, commands: Commands) {
    this.submit = button("Submit", commands.submit, { key: "⏎", className: "primary" });
    this.skip = button("Skip", commands.skip, { key: "s" });
    this.undo = button("Undo", commands.undo, { key: "z" });
    const help = button("Keys", commands.help, { key: "?" });
    this.retry = button("Try now", commands.retry);
    this.troubleBox = h("div", { class: "trouble-box", hidden: true }, this.trouble, this.retry);
    const actions = h("div", { class: "actions", role: "group", "aria-label": "Answer" }, this.submit, this.undo, this.skip, help);
    app.replaceChildren(
      h("div", { class: "heading" }, this.title, this.facts),
      this.troubleBox,
      this.said,
      h("div", { class: "stage" }, this.main, h("div", { class: "right" }, this.side, actions)),
    );
  }

  instructions(study: Study): void {
    if (study.instructions) this.troubleBox.before(h("p", { class: "instructions" }, study.instructions));
  }

  /** Said to the eye and to a screen reader. */
  say(text: string): void {
    setText(this.said, text);
  }

  /** What went wrong, until the next action. */
  warn(text: string | null): void {
    this.tell(text, false);
    this.about = null;
  }

  /** Trouble with the server, until it answers. */
  connection(text: string | null, retry = false): void {
    if (text === null && this.about !== "connection") return;
    this.tell(text, retry);
    this.about = text === null ? null : "connection";
  }

  private tell(text: string | null, retry: boolean): void {
    setText(this.trouble, text ?? "");
    this.troubleBox.hidden = !text;
    this.retry.hidden = !retry;
  }

  progress(progress: Progress, noun: string): void {
    const minutes = progress.minutes < 10 ? Math.round(10 * progress.minutes) / 10 : Math.round(progress.minutes);
    setText(
      this.facts,
      [count(progress.rounds_answered, "round"), `${count(progress.clips_watched, noun)} seen`, count(minutes, "minute")].join(" · "),
    );
  }

  showRound(task: string, main: Node[], side: Node): void {
    setText(this.title, task);
    this.submit.hidden = this.skip.hidden = this.undo.hidden = false;
    this.main.replaceChildren(...main);
    this.side.replaceChildren(side);
  }

  /** Scrolls back to where a round begins, if that is out of sight. */
  reveal(): void {
    this.title.scrollIntoView({ block: "nearest" });
  }

  showWaiting(progress: Progress): void {
    setText(this.title, progress.state === "finished" ? "Finished" : "One moment");
    setText(this.waitingTitle, STATES[progress.state]);
    setText(this.waitingText, progress.message);
    this.waiting.classList.toggle("over", progress.state === "finished");
    this.results.hidden = progress.state !== "finished" || !this.resultsShown;
    this.submit.hidden = this.skip.hidden = true;
    this.undo.hidden = !progress.can_undo;
    if (this.waiting.isConnected) return;
    this.main.replaceChildren(this.waiting);
    this.side.replaceChildren();
  }

  busy(busy: boolean): void {
    this.submit.setAttribute("aria-disabled", String(busy));
    this.main.classList.toggle("busy", busy);
  }
}
