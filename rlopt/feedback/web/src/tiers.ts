/**
 * An order with ties: every tier is better than the next, and the clips of one tier tie. What is in no tier is worse than
 * all that is, and unordered. All functions give a new order and leave the old one alone.
 */
export type Tiers = readonly (readonly string[])[];

export const placedOf = (tiers: Tiers): string[] => tiers.flat();

export const tierOf = (tiers: Tiers, id: string): number => tiers.findIndex((tier) => tier.includes(id));

/** The place of a tier as in a race: 1, 2, 2, 4. */
export const placeOf = (tiers: Tiers, tier: number): number => 1 + placedOf(tiers.slice(0, tier)).length;

export function remove(tiers: Tiers, id: string): Tiers {
  return tiers.map((tier) => tier.filter((other) => other !== id)).filter((tier) => tier.length > 0);
}

/** Behind all that are placed. */
export const place = (tiers: Tiers, id: string): Tiers => [...remove(tiers, id), [id]];

/** On a place of its own before the tier of `other`; behind all where `other` is null. */
export function insertBefore(tiers: Tiers, id: string, other: string | null): Tiers {
  if (other === id) return tiers;
  const rest = remove(tiers, id);
  const at = other === null ? rest.length : tierOf(rest, other);
  return [...rest.slice(0, at), [id], ...rest.slice(at)];
}

export function tieWith(tiers: Tiers, id: string, other: string): Tiers {
  if (other === id) return tiers;
  return remove(tiers, id).map((tier) => (tier.includes(other) ? [...tier, id] : tier));
}

/** One place up: out of a tie to before it, else past the tier above; an unplaced clip becomes the last. */
export function better(tiers: Tiers, id: string): Tiers {
  const at = tierOf(tiers, id);
  if (at < 0) return place(tiers, id);
  const own = tiers[at]!;
  if (own.length > 1) return insertBefore(tiers, id, own.find((other) => other !== id)!);
  if (at === 0) return tiers;
  return insertBefore(tiers, id, tiers[at - 1]![0]!);
}

/** One place down: out of a tie to behind it, else past the tier below; the last loses its place. */
export function worse(tiers: Tiers, id: string): Tiers {
  const at = tierOf(tiers, id);
  if (at < 0) return tiers;
  const next = tiers[at + 1];
  if (tiers[at]!.length > 1) return insertBefore(tiers, id, next?.[0] ?? null);
  if (!next) return remove(tiers, id);
  return insertBefore(tiers, id, tiers[at + 2]?.[0] ?? null);
}

/** Ties with what stands directly before, or ends that tie; an unplaced clip joins the last place. */
export function toggleTie(tiers: Tiers, id: string): Tiers {
  const at = tierOf(tiers, id);
  if (at < 0) return tiers.length ? tieWith(tiers, id, tiers.at(-1)![0]!) : place(tiers, id);
  const own = tiers[at]!;
  const within = own.indexOf(id);
  if (within > 0) return [...tiers.slice(0, at), own.slice(0, within), own.slice(within), ...tiers.slice(at + 1)];
  if (at === 0) return tiers;
  return [...tiers.slice(0, at - 1), [...tiers[at - 1]!, ...own], ...tiers.slice(at + 1)];
}

export const same = (a: Tiers, b: Tiers): boolean => JSON.stringify(a) === JSON.stringify(b);
