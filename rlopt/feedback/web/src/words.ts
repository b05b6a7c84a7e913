/** 1 -> "1st", 12 -> "12th". */
export function ordinal(n: number): string {
  const tens = n % 100;
  const suffix = tens >= 11 && tens <= 13 ? "th" : (["th", "st", "nd", "rd"][n % 10] ?? "th");
  return `${n}${suffix}`;
}

export function count(n: number, one: string, many = `${one}s`): string {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** "1, 2 and 5". */
export function list(parts: readonly (string | number)[]): string {
  if (parts.length < 2) return parts.join("");
  return `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

/** What a round asks for. */
export function task(k: number, m: number, noun: string): string {
  if (m === 1) return `Look at the ${noun}`;
  if (k === 1) return `Pick the best of ${m} ${noun}s`;
  if (k >= m) return `Put all ${m} ${noun}s in order, the best first`;
  return `Put the ${k} best of ${m} ${noun}s in order`;
}

/** A few significant digits; with a power of ten where there would be many zeros. */
export function number(value: number, digits = 3): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(Math.min(1, digits - 1));
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}
