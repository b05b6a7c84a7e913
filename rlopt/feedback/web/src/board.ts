import type { Clip } from "./api";
import { h, playable, setText } from "./dom";
import { placeOf, tierOf, type Tiers } from "./tiers";
import { ordinal } from "./words";

/** Pixels between two clips, of the borders of one, and that one is wide at least. */
const GAP = 8;
const EDGE = 4;
const LEAST = 120;

/** The clips of a round in their blind order, as one list box: a single tab stop, arrow keys inside. */
export class Board {
  readonly element: HTMLUListElement;
  readonly videos: HTMLVideoElement[] = [];
  private readonly cards: HTMLLIElement[];
  private current = 0;
  private large: number | null = null;
  private height = 0;

  constructor(
    private readonly clips: readonly Clip[],
    private readonly media: "video" | "image",
    private readonly noun: string,
    onpick: (id: string) => void,
    private readonly onsize: (i: number | null) => void = () => {},
  ) {
    this.element = h("ul", { class: "board", role: "listbox", "aria-multiselectable": "true", "aria-label": `The ${noun}s` });
    this.cards = clips.map((clip, i) => {
      const card = this.card(clip, i);
      card.addEventListener("click", () => {
        this.focus(i);
        onpick(clip.id);
      });
      card.addEventListener("focus", () => this.setCurrent(i));
      card.addEventListener("dblclick", () => this.enlarge(i));
      return card;
    });
    this.element.append(...this.cards);
  }

  /** Shows one clip as large as all of them, or all again; the others are out of sight meanwhile. */
  enlarge(i: number = this.current): void {
    this.large = this.large === i ? null : i;
    this.element.classList.toggle("one", this.large !== null);
    this.cards.forEach((card, at) => card.classList.toggle("alone", at === this.large));
    this.fit();
    this.onsize(this.large);
  }

  /** Whether only one clip is shown, and which. */
  get alone(): number | null {
    return this.large;
  }

  /** Chooses the number of columns with which all clips fit into `height` pixels as large as can be. */
  fit(height: number = this.height): void {
    this.height = height;
    const width = this.element.clientWidth;
    const shown = this.large === null ? this.clips.length : 1;
    const clip = this.clips[0];
    if (!clip || width <= 0 || height <= 0) return;
    let best = { columns: 1, size: 0 };
    for (let columns = 1; columns <= shown; columns++) {
      const rows = Math.ceil(shown / columns);
      const across = (width - GAP * (columns - 1)) / columns;
      const down = (((height - GAP * (rows - 1)) / rows - EDGE) * clip.width) / clip.height + EDGE;
      const size = Math.floor(Math.min(across, down));
      if (size > best.size) best = { columns, size };
    }
    this.element.style.setProperty("--columns", String(best.columns));
    this.element.style.setProperty("--size", `${Math.max(LEAST, best.size)}px`);
  }

  private card(clip: Clip, i: number): HTMLLIElement {
    const size = { width: clip.width, height: clip.height };
    const picture =
      this.media === "image"
        ? h("img", { src: clip.url, alt: "", draggable: "false", ...size })
        : h("video", { src: playable(clip.url), poster: clip.poster, muted: true, playsinline: true, preload: "auto", tabindex: -1, ...size });
    if (picture instanceof HTMLVideoElement) {
      picture.muted = true;
      picture.disablePictureInPicture = true;
      this.videos.push(picture);
    }
    return h(
      "li",
      { class: "clip", role: "option", id: `clip-${i + 1}`, "data-id": clip.id, "data-number": i + 1, tabindex: i === 0 ? 0 : -1 },
      picture,
      h("span", { class: "number" }, String(i + 1)),
      h("span", { class: "place" }),
      h("span", { class: "trouble" }, `This ${this.noun} does not load.`),
    );
  }

  /** The numbers of the pictures that are still on their way, and of those that do not come. */
  get missing(): { coming: number[]; broken: number[] } {
    const found: { coming: number[]; broken: number[] } = { coming: [], broken: [] };
    this.cards.forEach((card, i) => {
      const picture = card.querySelector("img, video");
      if (picture instanceof HTMLVideoElement) {
        if (picture.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA) return;
        found[picture.error || picture.networkState === HTMLMediaElement.NETWORK_NO_SOURCE ? "broken" : "coming"].push(i + 1);
      } else if (picture instanceof HTMLImageElement && !(picture.complete && picture.naturalWidth > 0)) {
        found[picture.complete ? "broken" : "coming"].push(i + 1);
      }
    });
    return found;
  }

  show(tiers: Tiers): void {
    this.cards.forEach((card, i) => {
      const tier = tierOf(tiers, this.clips[i]!.id);
      const tied = tier >= 0 && tiers[tier]!.length > 1;
      const place = tier < 0 ? "" : ordinal(placeOf(tiers, tier));
      card.setAttribute("aria-selected", String(tier >= 0));
      card.setAttribute("aria-label", `${this.name(i)}, ${tier < 0 ? "not placed" : `${place} place${tied ? ", tied" : ""}`}`);
      card.classList.toggle("placed", tier >= 0);
      setText(card.querySelector(".place")!, tied ? `${place} =` : place);
    });
  }

  /** "Clip 3". */
  name(i: number): string {
    return `${this.noun[0]!.toUpperCase()}${this.noun.slice(1)} ${i + 1}`;
  }

  get currentId(): string {
    return this.clips[this.current]!.id;
  }

  focus(i: number): void {
    this.setCurrent(i);
    if (this.large !== null && this.large !== i) {
      this.large = null;
      this.enlarge(i);
    }
    this.cards[i]?.focus({ preventScroll: false });
  }

  focusId(id: string): void {
    this.focus(this.clips.findIndex((clip) => clip.id === id));
  }

  /** Moves the focus by the arrows as the grid lies on the screen. */
  move(key: string): void {
    const last = this.cards.length - 1;
    const columns = Math.max(1, this.cards.filter((card) => card.offsetTop === this.cards[0]!.offsetTop).length);
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -last, End: last }[key] ?? 0;
    const target = this.current + step;
    if (key === "Home" || key === "End") this.focus(key === "Home" ? 0 : last);
    else if (target >= 0 && target <= last) this.focus(target);
    else this.focus(this.current);
  }

  private setCurrent(i: number): void {
    this.cards[this.current]?.setAttribute("tabindex", "-1");
    this.current = i;
    this.cards[i]?.setAttribute("tabindex", "0");
  }
}
