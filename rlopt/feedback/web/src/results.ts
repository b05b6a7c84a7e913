import { getResults, getStudy, Refusal, type Clip, type Results, type ResultRound } from "./api";
import { Backoff } from "./backoff";
import { lineChart, type Point } from "./chart";
import { h, playable, prefersReducedMotion, setText } from "./dom";
import { Player } from "./player";
import { transport } from "./transport";
import { count, number } from "./words";

/** Where a chart of the usual width would have letters too small to read. */
const NARROW = matchMedia("(max-width: 40rem)");

const KINDS: Record<string, string> = { gradient: "direction", line_search: "step length" };

/** How far the parameters have come, how far the raters agree, and the policy then and now. */
export class ResultsPage {
  private readonly status = h("p", { class: "status", role: "status" });
  private readonly facts = h("p", { class: "facts" });
  private readonly body = h("div", { class: "results" });
  private readonly pause = new Backoff(4000, 30000);
  private media: "video" | "image" = "video";
  private seen = "";
  private seenClips = "";
  private clips = h("section", { "aria-labelledby": "clips-title" });
  private readonly rest = h("div", { class: "results" });
  private player: Player | null = null;

  constructor(app: HTMLElement) {
    this.body.append(this.clips, this.rest);
    app.replaceChildren(h("div", { class: "heading" }, h("h2", {}, "Results"), this.facts), this.status, this.body);
  }

  async start(): Promise<void> {
    NARROW.addEventListener("change", () => {
      this.seen = "";
      this.pause.now();
    });
    for (let known = false; ; await this.pause.wait()) {
      try {
        if (!known) this.media = (await getStudy()).media;
        known = true;
        this.show(await getResults());
        setText(this.status, "");
      } catch (error) {
        setText(this.status, error instanceof Refusal ? error.message : "The server does not answer; the page keeps trying.");
      }
    }
  }

  /** Draws again only what has changed, so that nobody's place in the page is lost. */
  private show(results: Results): void {
    const news = JSON.stringify([results.rounds, results.agreement, results.raters, results.duels, results.activity, results.progress]);
    if (news !== this.seen) {
      this.seen = news;
      this.pause.reset();
      const open = this.rest.querySelector("details")?.open ?? false;
      const { activity } = results;
      setText(this.facts, [`${count(results.progress.rounds_consumed, "round")} used`, `${activity.open} open`, count(activity.answers, "answer"), `${count(activity.raters, "rater")}, ${activity.active} active`, `${count(activity.minutes, "minute")} of ranking`].join(" · "));
      this.rest.replaceChildren(progressSection(results.rounds, open), duelSection(results), agreementSection(results));
    }
    const clips = JSON.stringify([results.start, results.now]);
    if (clips !== this.seenClips) {
      this.seenClips = clips;
      this.showClips(results.start, results.now);
    }
  }

  private showClips(start: Clip | null, now: Clip | null): void {
    this.player?.stop();
    this.player = null;
    const shown = [
      ["At the start", start],
      ["Now", now],
    ] as const;
    const figures = shown.map(([name, clip]) => h("figure", {}, clip ? this.picture(clip, name) : h("p", { class: "none" }, "No clip yet."), h("figcaption", {}, name)));
    const title = this.media === "image" ? "The image at the start and now" : "The policy at the start and now";
    this.clips.replaceChildren(h("h3", { id: "clips-title" }, title), h("div", { class: "pair" }, ...figures));
    const videos = [...this.clips.querySelectorAll("video")];
    const played = [start, now].filter((clip) => clip !== null);
    if (!videos.length) return;
    this.player = new Player(videos, played);
    this.clips.append(transport(this.player));
    if (!prefersReducedMotion()) this.player.play();
  }

  private picture(clip: Clip, name: string): HTMLElement {
    const size = { width: clip.width, height: clip.height };
    if (this.media === "image") return h("img", { src: clip.url, alt: name, ...size });
    const video = h("video", { src: playable(clip.url), poster: clip.poster, playsinline: true, preload: "auto", "aria-label": name, ...size });
    video.muted = true;
    return video;
  }
}

function progressSection(rounds: readonly ResultRound[], open: boolean): HTMLElement {
  const section = h("section", { "aria-labelledby": "progress-title" }, h("h3", { id: "progress-title" }, "Distance of the parameters from their start"));
  const known = rounds.filter((round) => round.distance_from_start !== null);
  if (!known.length) {
    section.append(h("p", { class: "none" }, "No round has been used yet."));
    return section;
  }
  const points: Point[] = known.map((round) => ({
    x: round.iteration + 1,
    y: round.distance_from_start!,
    hollow: round.stayed,
    title: `Round ${round.iteration + 1}: ${number(round.distance_from_start!)}${round.stayed ? ", stayed" : ""}`,
  }));
  const last = points.at(-1)!;
  const stayed = rounds.filter((round) => round.stayed).length;
  const words = `After ${count(last.x, "round")} the parameters are ${number(last.y)} away from their start.`;
  section.append(
    h("p", {}, `${words} ${stayed ? `${count(stayed, "round")} did not move them (hollow dots).` : ""}`),
    lineChart(points, `Line chart: distance of the parameters from the start by round. ${words}`, "distance from the start", NARROW.matches ? 330 : 640),
    table(rounds, open),
  );
  return section;
}

function table(rounds: readonly ResultRound[], open: boolean): HTMLElement {
  const value = (n: number | null): string => (n === null ? "–" : number(n));
  const rows = rounds.map((round) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, String(round.iteration + 1)),
      h("td", {}, KINDS[round.kind] ?? round.kind),
      h("td", {}, value(round.distance_from_start)),
      h("td", {}, round.stayed ? "stayed" : value(round.step_norm)),
      h("td", {}, String(round.answers)),
      h("td", {}, value(round.seconds)),
    ),
  );
  const names = ["Round", "Asked for", "Distance", "Step", "Answers", "Seconds"].map((name) => h("th", { scope: "col" }, name));
  return h(
    "details",
    { open },
    h("summary", {}, "The same data as a table"),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Rounds" }, h("table", {}, h("thead", {}, h("tr", {}, ...names)), h("tbody", {}, ...rows))),
  );
}

const percent = (share: number | null): string => (share === null ? "–" : `${Math.round(100 * share)} %`);
const between = (interval: [number, number] | null): string => (interval ? ` [${Math.round(100 * interval[0])}, ${Math.round(100 * interval[1])}]` : "");

/** A table that scrolls within its section; the first column names the rows. */
function tableOf(label: string, names: readonly string[], rows: readonly (readonly string[])[]): HTMLElement {
  const head = h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)));
  const body = rows.map(([first, ...rest]) => h("tr", {}, h("th", { scope: "row" }, first ?? ""), ...rest.map((cell) => h("td", {}, cell))));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", {}, h("thead", {}, head), h("tbody", {}, ...body)));
}

function agreementSection({ agreement, raters, matrix }: Results): HTMLElement {
  const section = h("section", { "aria-labelledby": "agreement-title" }, h("h3", { id: "agreement-title" }, "Raters"));
  if (agreement.pairwise === null) section.append(h("p", { class: "none" }, "Agreement is known once two raters have answered the same round."));
  else
    section.append(
      h("p", {}, `${count(agreement.raters, "rater")} answered ${count(agreement.rounds, "round")} together. Of all pairs that two of them ordered, they ordered `, h("strong", {}, percent(agreement.pairwise)), `${between(agreement.interval)} alike; random answers would agree on 50 %. The brackets are a 95 % interval over rounds.`),
    );
  if (agreement.kendall_tau !== null) section.append(h("p", {}, `Kendall’s τ: ${number(agreement.kendall_tau, 2)} (1: the same order, 0: no relation, −1: the opposite order).`));
  if (!raters.length) return section;
  const trust = (value: number | null): string => (value === null ? "unknown" : value.toFixed(2));
  const rows = raters.map((rater) => [rater.name, String(rater.rounds), percent(rater.pairwise), rater.repeats ? `${percent(rater.same)} of ${rater.repeats}` : "–", trust(rater.trust)]);
  section.append(tableOf("Raters", ["Rater", "Rounds", "Agreement", "Agreement with oneself", "Trust"], rows));
  if (matrix.length > 1 && agreement.pairwise !== null) {
    const names = raters.map((rater) => rater.name);
    section.append(h("h4", {}, "Pairs in the same order"), tableOf("Agreement of each pair of raters", ["", ...names], matrix.map((row, i) => [names[i]!, ...row.map(percent)])));
  }
  return section;
}

/** How often the current policy was preferred to the initial one, in blind duels. */
function duelSection({ duels }: Results): HTMLElement {
  const section = h("section", { "aria-labelledby": "duels-title" }, h("h3", { id: "duels-title" }, "Now against the start"));
  if (!duels.length) {
    section.append(h("p", { class: "none" }, "No duel yet. The protocol’s duel_every asks raters for blind comparisons of the initial and the current policy."));
    return section;
  }
  const last = duels.at(-1)!;
  const words = `In the last ${count(last.rounds, "duel")} the current policy won ${percent(last.won)}${between(last.interval)}; 50 % means no difference.`;
  section.append(h("p", {}, words));
  const points: Point[] = duels.map((duel) => ({ x: duel.step + 1, y: 100 * duel.won, hollow: false, title: `Update ${duel.step + 1}: ${percent(duel.won)} of ${duel.rounds}` }));
  if (points.length > 1) section.append(lineChart(points, `Line chart: share of duels won by update. ${words}`, "% of duels won", NARROW.matches ? 330 : 640));
  section.append(tableOf("Duels", ["Update", "Duels", "Won"], duels.map((duel) => [String(duel.step + 1), String(duel.rounds), `${percent(duel.won)}${between(duel.interval)}`])));
  return section;
}
