/** A pause that grows at every use, up to a limit, and that can be cut short. */
export class Backoff {
  private pause: number;
  private wake: (() => void) | null = null;

  constructor(
    private readonly first: number,
    private readonly limit: number,
  ) {
    this.pause = first;
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.now());
    addEventListener("online", () => this.now());
  }

  async wait(): Promise<void> {
    const pause = this.pause;
    this.pause = Math.min(this.limit, 1.6 * pause);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, pause);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.wake = null;
  }

  now(): void {
    this.wake?.();
  }

  reset(): void {
    this.pause = this.first;
  }
}
