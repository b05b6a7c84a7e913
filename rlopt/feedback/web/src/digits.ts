/** How long a digit waits for the next one, where both a short and a long number begin so. */
const PATIENCE = 1500;

/**
 * Reads the numbers 1..m from single digits. "4" of 12 is four at once; "1" of 12 waits for a second digit, for any other
 * key, or for a moment, and the page says so meanwhile.
 */
export class Digits {
  private typed = "";
  private timer = 0;

  constructor(
    private readonly m: () => number,
    private readonly onnumber: (n: number) => void,
    private readonly onwait: (typed: string) => void,
  ) {}

  get waiting(): boolean {
    return this.typed !== "";
  }

  type(digit: string): void {
    clearTimeout(this.timer);
    this.typed += digit;
    const n = Number(this.typed);
    if (n === 0 || n > this.m()) {
      this.typed = "";
      this.onwait("");
    } else if (10 * n > this.m()) {
      this.finish();
    } else {
      this.onwait(this.typed);
      this.timer = setTimeout(() => this.finish(), PATIENCE);
    }
  }

  finish(): void {
    clearTimeout(this.timer);
    const typed = this.typed;
    this.typed = "";
    if (typed) this.onnumber(Number(typed));
  }

  forget(): void {
    clearTimeout(this.timer);
    this.typed = "";
  }
}
