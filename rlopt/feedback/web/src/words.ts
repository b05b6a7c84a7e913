import type { Round } from "./api";
import { placedOf, placeOf, tierOf, type Tiers } from "./tiers";

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
export function list(parts: readonly (string | number)[], last = "and"): string {
  if (parts.length < 2) return parts.join("");
  return `${parts.slice(0, -1).join(", ")} ${last} ${parts.at(-1)}`;
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

/** "image 3 is gone" -> "Image 3 is gone." */
export function sentence(text: string): string {
  const upper = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}

/** Where a clip stands now, and how much is still to be placed. */
export function describe(tiers: Tiers, round: Round, id: string, noun: string): string {
  const name = (clip: string): string => `${noun} ${round.clips.findIndex((other) => other.id === clip) + 1}`;
  const tier = tierOf(tiers, id);
  if (tier < 0) return sentence(`${name(id)} is not placed`);
  const ties = tiers[tier]!.filter((other) => other !== id).map(name);
  const place = `${name(id)} is ${ordinal(placeOf(tiers, tier))}${ties.length ? `, tied with ${list(ties)}` : ""}`;
  const placed = placedOf(tiers).length;
  if (placed < round.k) return `${sentence(place)} ${placed} of ${round.k} placed.`;
  if (placed === round.k) return `${sentence(place)} All places are filled: Enter submits.`;
  return `${sentence(place)} ${placed} are placed; ${round.k} were asked for, and more is fine.`;
}

/** What a first digit may still become. */
export function halfNumber(typed: string, m: number): string {
  const longer = Array.from({ length: 10 }, (_, digit) => Number(`${typed}${digit}`)).filter((n) => n <= m);
  return `${typed}… Type a second digit for ${list(longer, "or")}, or Enter for ${typed}.`;
}
