import type { Clip } from "./api";
import { prefersReducedMotion } from "./dom";

export const SPEEDS = [0.25, 0.5, 1, 2, 4] as const;

/** A clip may run this far from the others, in seconds of the clip, before it is set right. */
const DRIFT = 0.12;

/** Milliseconds for which the clips rest on their last frames before they begin again. */
const REST = 800;

/**
 * Plays several videos as one. The longest one is the clock; one that is over rests on its last frame until all are over,
 * then all begin again (once only where less motion is wanted).
 */
export class Player {
  readonly fps: number;
  readonly frames: number;
  playing = false;
  onchange: () => void = () => {};
  private speed = 1;
  private at = 0;
  private readonly lead: number;
  private readonly lengths: number[];
  private tick = 0;
  private rest = 0;
  private isSeen = false;
  private alone: number | null = null;

  constructor(
    private readonly videos: HTMLVideoElement[],
    clips: readonly Clip[],
  ) {
    this.lengths = clips.map((clip) => clip.frames / clip.fps);
    this.lead = this.lengths.indexOf(Math.max(...this.lengths));
    this.fps = clips[this.lead]?.fps ?? 1;
    this.frames = clips[this.lead]?.frames ?? 0;
    for (const video of videos) retryLoading(video);
    videos.forEach((video, i) => video.addEventListener("ended", () => i === this.clock && this.wrap()));
  }

  /** Whether the clips were played, or looked through, to their end. */
  get seen(): boolean {
    return this.isSeen;
  }

  get frame(): number {
    return Math.min(this.frames - 1, Math.floor(this.at * this.fps + 1e-6));
  }

  get rate(): number {
    return this.speed;
  }

  set rate(rate: number) {
    this.speed = rate;
    for (const video of this.videos) video.playbackRate = rate;
    this.onchange();
  }

  faster(steps: number): void {
    const at = SPEEDS.findIndex((speed) => speed === this.speed) + steps;
    this.rate = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at))]!;
  }

  /** Plays one of the videos alone, or all again. */
  only(i: number | null): void {
    this.alone = i;
    const playing = this.playing;
    if (playing) this.pause();
    this.seek(0);
    if (playing) this.play();
  }

  /** The video that tells the time: the longest, or the one that is alone. */
  private get clock(): number {
    return this.alone ?? this.lead;
  }

  /** The videos that play. */
  private plays(i: number): boolean {
    return this.alone === null || this.alone === i;
  }

  toggle(): void {
    if (this.playing) this.pause();
    else this.play();
  }

  play(): void {
    clearTimeout(this.rest);
    if (this.frame >= Math.round(this.lengths[this.clock]! * this.fps) - 1) this.seek(0);
    this.playing = true;
    this.videos.forEach((video, i) => {
      video.playbackRate = this.speed;
      if (this.plays(i) && this.at < this.lengths[i]!) void video.play().catch((error: unknown) => this.refused(error));
    });
    cancelAnimationFrame(this.tick);
    this.tick = requestAnimationFrame(() => this.follow());
    this.onchange();
  }

  /** A browser that plays nothing unasked: the button must say "Play", so that one tap is enough. */
  private refused(error: unknown): void {
    if (!(error instanceof DOMException) || error.name !== "NotAllowedError" || !this.playing) return;
    this.playing = false;
    cancelAnimationFrame(this.tick);
    for (const video of this.videos) video.pause();
    this.onchange();
  }

  pause(): void {
    clearTimeout(this.rest);
    this.playing = false;
    cancelAnimationFrame(this.tick);
    for (const video of this.videos) video.pause();
    this.at = this.videos[this.clock]?.currentTime ?? 0;
    this.seek(this.frame);
  }

  step(frames: number): void {
    if (this.playing) this.pause();
    this.seek(this.frame + frames);
  }

  /** Shows a frame of all clips. The middle of the frame is aimed at, where rounding cannot hit a neighbour. */
  seek(frame: number): void {
    this.at = (Math.max(0, Math.min(this.frames - 1, frame)) + 0.5) / this.fps;
    this.videos.forEach((video, i) => {
      video.currentTime = Math.min(this.at, this.lengths[i]! - 0.5 / this.fps);
    });
    if (this.frame >= this.frames - 1) this.isSeen = true;
    if (this.playing) this.play();
    else this.onchange();
  }

  stop(): void {
    clearTimeout(this.rest);
    this.playing = false;
    this.onchange = () => {};
    cancelAnimationFrame(this.tick);
    for (const video of this.videos) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
  }

  private wrap(): void {
    this.isSeen = true;
    if (!this.playing) return;
    if (prefersReducedMotion()) return this.pause();
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.playing && this.seek(0), REST);
  }

  private follow(): void {
    const clock = this.videos[this.clock];
    if (!this.playing || !clock) return;
    this.at = clock.currentTime;
    this.videos.forEach((video, i) => {
      if (i === this.clock || !this.plays(i) || video.seeking || video.readyState < HTMLMediaElement.HAVE_METADATA) return;
      const over = this.at >= this.lengths[i]!;
      if (!over && Math.abs(video.currentTime - this.at) > DRIFT * Math.max(1, this.speed)) video.currentTime = this.at;
      if (!over && video.paused) void video.play().catch(() => undefined);
    });
    this.onchange();
    this.tick = requestAnimationFrame(() => this.follow());
  }
}

/** A server that restarts drops its connections: a clip that failed to load is asked for again a few times. */
function retryLoading(video: HTMLVideoElement): void {
  let tries = 0;
  video.addEventListener("loadeddata", () => {
    video.closest(".clip")?.classList.remove("broken");
  });
  video.addEventListener("error", () => {
    if (!video.hasAttribute("src")) return;
    video.closest(".clip")?.classList.add("broken");
    if (tries < 6) setTimeout(() => video.isConnected && video.load(), 1000 * 2 ** tries++);
  });
}
