import type { Progress, Study } from "./api";
import { button, h, setText } from "./dom";
import { count } from "./words";

const STATES: Record<Progress["state"], string> = {
  rendering: "The trainer is working",
  open: "A round is open",
  waiting: "Nothing to rank right now",
  finished: "Thank you!",
};

/** Where the buttons lie over the lower end of the screen. */
const NARROW = matchMedia("(max-width: 60rem)");

/** Milliseconds after which the browser of a rater who is done goes on to the address of the protocol. */
const LEAVE = 10_000;

export interface Commands {
  submit(): void;
  undo(): void;
  skip(): void;
  help(): void;
  enlarge(): void;
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
  private readonly completion = h("p", { class: "completion", hidden: true });
  private readonly onward = h("span", { class: "by-itself" });
  /** The timer after which the page goes on to another one; it is set once, also where the rater stays. */
  private leaving: number | null = null;
  private readonly results = h("a", { href: "/results" }, "See the results");
  private readonly waiting = h(
    "div",
    { class: "waiting" },
    h("span", { class: "spinner", "aria-hidden": "true" }),
    this.waitingTitle,
    this.waitingText,
    this.completion,
    this.results,
  );
  resultsShown = true;
  private readonly submit: HTMLButtonElement;
  private readonly undo: HTMLButtonElement;
  private readonly skip: HTMLButtonElement;
  private readonly retry: HTMLButtonElement;
  private readonly enlarge: HTMLButtonElement;
  private readonly actions: HTMLElement;

  constructor(app: HTMLElement, commands: Commands) {
    this.submit = button("Submit", commands.submit, { key: "⏎", className: "primary" });
    this.skip = button("Skip", commands.skip, { key: "s" });
    this.undo = button("Undo", commands.undo, { key: "z" });
    const help = button("Keys", commands.help, { key: "?" });
    this.enlarge = button("Enlarge", commands.enlarge, { key: "e" });
    this.enlarge.setAttribute("aria-pressed", "false");
    this.retry = button("Try now", commands.retry);
    this.troubleBox = h("div", { class: "trouble-box", hidden: true }, this.trouble, this.retry);
    this.actions = h("div", { class: "actions", role: "group", "aria-label": "Answer" }, this.submit, this.undo, this.skip, this.enlarge, help);
    app.replaceChildren(
      h("div", { class: "heading" }, this.title, this.facts),
      this.troubleBox,
      this.said,
      h("div", { class: "stage" }, this.main, h("div", { class: "right" }, this.side, this.actions)),
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
    const round = progress.rounds_answered + (progress.state === "finished" ? 0 : 1);
    const rounds = progress.rounds_asked === null ? count(progress.rounds_answered, "round") : `Round ${Math.min(round, progress.rounds_asked)} of ${progress.rounds_asked}`;
    setText(this.facts, [rounds, `${count(progress.clips_watched, noun)} seen`, count(minutes, "minute")].join(" · "));
  }

  showRound(task: string, main: Node[], side: Node): void {
    setText(this.title, task);
    this.name("Submit");
    this.remain();
    this.submit.hidden = this.skip.hidden = this.undo.hidden = this.enlarge.hidden = false;
    this.large(false);
    this.main.replaceChildren(...main);
    this.side.replaceChildren(side);
  }

  /** After a training round: the expert's order stays until the rater goes on. */
  showTraining(): void {
    setText(this.title, "Training: the expert's order");
    this.skip.hidden = this.undo.hidden = true;
    this.name("Continue");
  }

  private name(submit: string): void {
    (this.submit.firstChild as Text).data = submit;
  }

  /** Pixels from the top of the clips to the end of the screen, less what must stay in sight below them. */
  room(board: HTMLElement): number {
    const below = NARROW.matches ? this.actions.offsetHeight + 12 : 12;
    return innerHeight - (board.getBoundingClientRect().top + scrollY) - below;
  }

  large(on: boolean): void {
    this.enlarge.setAttribute("aria-pressed", String(on));
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
    const done = progress.completion;
    this.completion.hidden = !done;
    // Made once: a poll must not take the focus from the button.
    if (done && !this.completion.hasChildNodes()) {
      const code = done.code ? [h("span", {}, "Your completion code: "), h("strong", { class: "code" }, done.code)] : [];
      this.completion.replaceChildren(...code, ...(done.url ? [h("a", { class: "onward", href: done.url, rel: "noreferrer" }, "Continue to the next page")] : []), this.onward);
    }
    if (!done?.url) this.remain();
    else if (this.leaving === null) this.leave(done.url);
    this.submit.hidden = this.skip.hidden = this.enlarge.hidden = true;
    this.undo.hidden = !progress.can_undo;
    if (this.waiting.isConnected) return;
    this.main.replaceChildren(this.waiting);
    this.side.replaceChildren();
  }

  /** Goes on, in a while, to where a rater who is done is sent, unless the rater stays. */
  private leave(url: string): void {
    this.leaving = setTimeout(() => location.assign(url), LEAVE);
    const stay = button("Stay here", () => {
      clearTimeout(this.leaving!);
      this.onward.replaceChildren();
    });
    this.onward.replaceChildren(h("span", {}, `It opens by itself in ${LEAVE / 1000} seconds.`), stay);
  }

  /** There is more to do here. */
  private remain(): void {
    if (this.leaving !== null) clearTimeout(this.leaving);
    this.leaving = null;
  }

  busy(busy: boolean): void {
    this.submit.setAttribute("aria-disabled", String(busy));
    this.main.classList.toggle("busy", busy);
  }
}
