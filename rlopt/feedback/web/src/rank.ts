import * as api from "./api";
import { Backoff } from "./backoff";
import { Board } from "./board";
import { Digits } from "./digits";
import { prefersReducedMotion } from "./dom";
import { enableDragging, type Target } from "./drag";
import { Frame } from "./frame";
import { newKey, readDraft, readPending, writeDraft, writePending, type Pending } from "./keep";
import { Help, listen } from "./keys";
import { Order, type Move } from "./order";
import { Player } from "./player";
import * as order from "./tiers";
import type { Tiers } from "./tiers";
import { transport } from "./transport";
import { describe, halfNumber, list, sentence, task } from "./words";

const SIGNED_OUT =
  "This browser is no longer signed in. Open the link to the study again, or ask the person who runs it for a new one. Your order is kept in this tab.";
const SLOW = "The server is slow to answer. Your order is kept, and the page keeps waiting.";
/** Milliseconds after which a person is told that the server takes long. */
const LONG = 2500;
/** Milliseconds between two looks whether the clips have come. */
const LOOK = 150;
const OFFLINE = "The server does not answer. Your order is kept in this tab, and the page keeps trying.";

/** One round on the screen. */
interface Open {
  round: api.Round;
  board: Board;
  order: Order;
  player: Player | null;
}

export class RankPage {
  private readonly frame: Frame;
  private readonly help: Help;
  private readonly retry = new Backoff(1000, 15000);
  private readonly poll = new Backoff(500, 5000);
  private readonly tabs = "BroadcastChannel" in window ? new BroadcastChannel("rlopt-rank") : null;
  private readonly digits: Digits;
  private open: Open | null = null;
  private tiers: Tiers = [];
  private history: Tiers[] = [];
  private seconds = 0;
  private sending = false;
  /** What ends the showing of what a training round told. */
  private goOn: (() => void) | null = null;
  private asked: "submit" | "skip" | null = null;
  private turn = 0;
  private hold = 0;
  private shown = 0;
  private loading = 0;
  /** When something was last done on the page. */
  private active = Date.now();

  constructor(
    app: HTMLElement,
    private readonly study: api.Study,
  ) {
    this.help = new Help(this.noun);
    this.frame = new Frame(app, {
      submit: () => this.submit(),
      undo: () => void this.undo(),
      skip: () => this.skip(),
      help: () => this.help.open(),
      enlarge: () => this.open?.board.enlarge(),
      retry: () => this.retry.now(),
    });
    this.frame.instructions(study);
    if (study.return_code) this.help.returning(`${location.origin}/?rater=${study.return_code}`);
    this.frame.resultsShown = study.results;
    app.append(this.help.dialog);
    this.digits = new Digits(
      () => this.open?.round.clips.length ?? 0,
      (n) => this.pick(this.open!.round.clips[n - 1]!.id, true),
      (typed) => this.frame.say(typed ? halfNumber(typed, this.open!.round.clips.length) : `There is no ${this.noun} of that number.`),
    );
    this.listen();
  }

  private get noun(): string {
    return this.study.media === "image" ? "image" : "clip";
  }

  async start(): Promise<void> {
    const pending = readPending();
    if (pending) await this.send(pending);
    else await this.next();
  }

  // ---- Rounds

  /** Asks for a round until there is one. */
  private async next(): Promise<void> {
    const turn = ++this.turn;
    let over = false;
    this.poll.reset();
    while (turn === this.turn) {
      const answer: api.Lease = await this.persist(api.lease, over);
      if (turn !== this.turn) return;
      this.frame.progress(answer.progress, this.noun);
      if (answer.round) return this.show(answer.round);
      this.close();
      this.frame.showWaiting(answer.progress);
      over = answer.progress.state === "finished";
      await this.poll.wait();
    }
  }

  private show(round: api.Round, again = false): void {
    if (this.open?.round.id === round.id && !again) return;
    const hadFocus = this.frame.main.contains(document.activeElement) || document.activeElement === document.body;
    const first = this.shown++ === 0;
    this.close();
    const board = new Board(round.clips, this.study.media, this.noun, (id) => this.pick(id, false), (i) => this.enlarged(i));
    const list = new Order(round.clips, round.k, this.noun, (id, move) => this.move(id, move));
    const player = board.videos.length ? new Player(board.videos, round.clips) : null;
    this.open = { round, board, order: list, player };
    const ids = round.clips.map((clip) => clip.id);
    const draft = readDraft(round.id, ids);
    this.tiers = draft?.tiers ?? round.answer?.tiers ?? [];
    this.history = draft?.history ?? [];
    this.seconds = draft?.seconds ?? 0;
    const words = `${round.kind === "training" ? "Training: " : ""}${task(round.k, round.clips.length, this.noun)}`;
    this.frame.showRound(words, player ? [transport(player), board.element] : [board.element], list.element);
    enableDragging(board.element, list.element, list.rows, (id, target) => this.drop(id, target));
    this.draw();
    this.fit();
    this.keepHold(round.lease_seconds);
    if (!first && hadFocus) board.focus(0);
    if (!first) this.frame.reveal();
    this.frame.say(draft?.tiers.length ? "Your earlier order is back." : again ? "Your last answer is open again." : first ? "" : "The next round.");
    if (player && !prefersReducedMotion()) player.play();
    document.title = `${document.hidden ? "Ready" : "Rank"} · ${this.study.name}`;
  }

  private enlarged(i: number | null): void {
    this.open?.player?.only(i);
    this.frame.large(i !== null);
    if (this.open) this.frame.say(i === null ? `All ${this.noun}s are shown again.` : `Only ${this.noun} ${i + 1} is shown. Press E to show all again.`);
  }

  /** Gives the clips the height that is left on the screen, so that nobody scrolls between them and the order. */
  private fit(): void {
    const board = this.open?.board;
    if (board) board.fit(this.frame.room(board.element));
  }

  private close(): void {
    this.digits.forget();
    this.open?.player?.stop();
    this.open = this.goOn = null;
    this.asked = null;
    clearTimeout(this.loading);
    clearInterval(this.hold);
  }

  /** Renews the hold on the round well before it runs out, as long as somebody is there. */
  private keepHold(seconds: number): void {
    clearInterval(this.hold);
    this.hold = setInterval(() => this.isAttended(seconds) && void this.renew(), 1000 * Math.max(1, seconds / 3));
  }

  /** Whether something was done lately; to watch clips for the first time is to do something. */
  private isAttended(seconds: number): boolean {
    const player = this.open?.player;
    if (player?.playing && !player.seen && !document.hidden) this.active = Date.now();
    return Date.now() - this.active < 1000 * seconds;
  }

  private async renew(): Promise<void> {
    const round = this.open?.round;
    if (!round || this.sending || this.goOn) return;
    try {
      await api.renew(round.id);
      this.frame.connection(null);
    } catch (error) {
      if (this.open?.round !== round || this.sending) return;
      if (error instanceof api.Unreachable) return this.frame.connection(OFFLINE);
      if (!(error instanceof api.Refusal)) throw error;
      if (error.status === 401 || error.status === 403) return this.frame.connection(SIGNED_OUT);
      await this.lost(round, error.message);
    }
  }

  /** The round is not held any more: it comes back with its draft where it is still free. */
  private async lost(round: api.Round, why: string): Promise<void> {
    this.save();
    this.frame.warn(`${sentence(why)} The page asks for it again.`);
    await this.next();
    if (this.open?.round.id === round.id) this.frame.warn(null);
    else this.frame.warn(`${sentence(why)} The round continued without this page. Here is the next one.`);
  }

  // ---- The order

  private change(tiers: Tiers, id: string): void {
    if (!this.open || this.sending || this.goOn) return;
    this.asked = null;
    clearTimeout(this.loading);
    this.frame.warn(null);
    if (!order.same(tiers, this.tiers)) {
      this.history.push(this.tiers);
      this.tiers = tiers;
      this.draw();
      this.save();
    }
    this.frame.say(describe(this.tiers, this.open.round, id, this.noun));
  }

  private draw(): void {
    this.open?.board.show(this.tiers);
    this.open?.order.show(this.tiers);
  }

  private save(): void {
    if (this.open) writeDraft(this.open.round.id, { tiers: this.tiers, history: this.history.slice(-50), seconds: this.seconds });
  }

  private pick(id: string, focus: boolean): void {
    if (!this.open || this.sending) return;
    if (focus) this.open.board.focusId(id);
    this.change(order.tierOf(this.tiers, id) < 0 ? order.place(this.tiers, id) : order.remove(this.tiers, id), id);
  }

  private move(id: string, move: Move): void {
    const next = { better: order.better, worse: order.worse, tie: order.toggleTie, remove: order.remove }[move](this.tiers, id);
    this.change(next, id);
  }

  /** A key means the row whose button has the focus, else the clip that has it. */
  private moveCurrent(move: Move): void {
    if (!this.open) return;
    const row = document.activeElement?.closest<HTMLElement>(".row[data-id]");
    this.move(row?.dataset.id ?? this.open.board.currentId, move);
  }

  private drop(id: string, target: Target): void {
    if (target.kind === "tie") this.change(order.tieWith(this.tiers, id, target.id), id);
    else this.change(order.insertBefore(this.tiers, id, target.kind === "end" ? null : target.id), id);
  }

  private async undo(): Promise<void> {
    if (this.sending || this.goOn) return;
    this.asked = null;
    const last = this.history.pop();
    if (last && this.open) {
      this.tiers = last;
      this.draw();
      this.save();
      return this.frame.say(`Undone. ${order.placedOf(last).length} placed.`);
    }
    try {
      const answer = await this.persist(api.undo);
      this.frame.progress(answer.progress, this.noun);
      if (!answer.round) return this.frame.say("There is no answer to undo.");
      this.turn++;
      this.show(answer.round, true);
      this.tabs?.postMessage("changed");
    } catch (error) {
      if (!(error instanceof api.Refusal)) throw error;
      this.frame.say(sentence(error.message));
    }
  }

  // ---- Answers

  private submit(): void {
    if (this.goOn) return this.goOn();
    if (!this.open || this.sending) return;
    const { round } = this.open;
    const placed = order.placedOf(this.tiers);
    clearTimeout(this.loading);
    const { coming, broken } = this.open.board.missing;
    const named = (numbers: number[]): string => `${this.noun}${numbers.length === 1 ? "" : "s"} ${list(numbers)}`;
    if (broken.length) return this.frame.say(sentence(`${named(broken)} did not load and cannot be judged: reload the page, or skip the round`));
    if (coming.length) {
      this.loading = setTimeout(() => this.submit(), LOOK);
      return this.frame.say(`Waiting for ${named(coming)} to load.`);
    }
    if (!placed.length) return this.frame.say(`Place at least one ${this.noun}, or skip the round.`);
    const wanted = Math.min(round.k, round.clips.length);
    if (placed.length < wanted && this.asked !== "submit") {
      this.asked = "submit";
      return this.frame.say(`Only ${placed.length} of ${wanted} ${this.noun}s are placed. Submit again to send this order, or place more.`);
    }
    const unranked = round.clips.map((clip) => clip.id).filter((id) => !placed.includes(id));
    const tiers = this.tiers.map((tier) => [...tier]);
    void this.send({ round: round.id, action: "answer", body: { key: newKey(), tiers, unranked, abstain: false, seconds: this.seconds } });
  }

  private skip(): void {
    if (!this.open || this.sending || this.goOn) return;
    if (this.tiers.length && this.asked !== "skip") {
      this.asked = "skip";
      return this.frame.say("Skipping throws your order away. Skip again to confirm.");
    }
    void this.send({ round: this.open.round.id, action: "skip", body: { key: newKey() } });
  }

  /** Sends until the server has it: the same key goes out again after a failure or a reload, so that it counts once. */
  private async send(pending: Pending): Promise<void> {
    this.sending = true;
    this.frame.busy(true);
    writePending(pending);
    this.save();
    let told: api.Training | null = null;
    let following: api.Round | null = null;
    const done = pending.action === "skip" ? "Skipped." : "Saved.";
    try {
      const answer = await this.persist(() => api.conclude(pending.round, pending.action, pending.body));
      writeDraft(pending.round, null);
      this.frame.progress(answer.progress, this.noun);
      this.frame.say(done);
      this.tabs?.postMessage("changed");
      told = answer.training;
      following = answer.round;
      if (!told) this.close();
    } catch (error) {
      if (!(error instanceof api.Refusal)) throw error;
      if (error.status !== 400 && error.status !== 422) this.close();
      this.frame.warn(sentence(error.message));
    } finally {
      this.settle();
    }
    if (told) return this.showTraining(pending, told);
    if (this.open) return;
    if (!following) return this.next();
    this.turn++;
    this.show(following);
    this.frame.say(`${done} Here is the next round.`);
  }

  /** Shows how a training round went until the rater goes on; after a reload, which has no clips of it, only in words. */
  private showTraining(pending: Pending, { message, order }: api.Training): void {
    if (this.open?.round.id !== pending.round) {
      this.frame.warn(message);
      return void this.next();
    }
    clearInterval(this.hold);
    this.open.board.show(order.tiers);
    this.open.order.showExpert(order.tiers, pending.action === "skip" ? [] : this.tiers);
    this.frame.showTraining();
    this.frame.say(message);
    this.goOn = () => {
      this.close();
      void this.next();
    };
  }

  private settle(): void {
    writePending(null);
    this.sending = false;
    this.frame.busy(false);
  }

  /** Calls the server until it answers; a refusal that only signing in again can mend is waited out as well. After the
   *  study nobody misses the server, so that nothing is said then. */
  private async persist<T>(call: () => Promise<T>, silent = false): Promise<T> {
    this.retry.reset();
    for (;;) {
      const slow = silent ? 0 : setTimeout(() => this.frame.connection(SLOW), LONG);
      try {
        const answer = await call().finally(() => clearTimeout(slow));
        this.frame.connection(null);
        return answer;
      } catch (error) {
        const signedOut = error instanceof api.Refusal && (error.status === 401 || error.status === 403);
        if (!signedOut && !(error instanceof api.Unreachable)) throw error;
        if (!silent) this.frame.connection(signedOut ? SIGNED_OUT : OFFLINE, true);
        await this.retry.wait();
      }
    }
  }

  // ---- The keyboard, other tabs, time

  private listen(): void {
    const player = (act: (player: Player) => void): void => {
      if (this.open?.player) act(this.open.player);
    };
    listen(
      {
        digit: (digit) => this.open && this.digits.type(digit),
        arrow: (key) => this.open?.board.move(key),
        better: () => this.moveCurrent("better"),
        worse: () => this.moveCurrent("worse"),
        tie: () => this.moveCurrent("tie"),
        remove: () => this.moveCurrent("remove"),
        undo: () => void this.undo(),
        playPause: () => player((p) => p.toggle()),
        frame: (step) => player((p) => p.step(step)),
        speed: (step) => player((p) => p.faster(step)),
        restart: () => player((p) => p.seek(0)),
        enlarge: () => this.open?.board.enlarge(),
        submit: () => this.submit(),
        skip: () => this.skip(),
        other: () => {
          const half = this.digits.waiting;
          this.digits.finish();
          return half;
        },
      },
      () => this.help.open(),
    );
    const active = (): void => {
      const away = Date.now() - this.active;
      this.active = Date.now();
      // The hold has run out meanwhile, perhaps: who comes back asks for it at once.
      if (this.open && away > 1000 * this.open.round.lease_seconds) void this.renew();
    };
    for (const kind of ["pointermove", "pointerdown", "keydown", "wheel", "touchstart", "scroll"]) addEventListener(kind, active, { passive: true, capture: true });
    this.tabs?.addEventListener("message", () => !this.sending && void this.next());
    addEventListener("pagehide", () => this.save());
    addEventListener("resize", () => this.fit());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      document.title = `Rank · ${this.study.name}`;
      this.active = Date.now();
      void this.renew();
    });
    setInterval(() => {
      if (this.open && !document.hidden) this.seconds += 1;
    }, 1000);
  }
}
