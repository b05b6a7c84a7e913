import type { AnswerBody } from "./api";
import type { Tiers } from "./tiers";

/** What neither a reload nor the end of a tab may lose: the browser keeps it, for the tab that comes next. */
export interface Draft {
  tiers: Tiers;
  history: Tiers[];
  seconds: number;
}

/** An answer that was sent, of whose arrival nothing is known yet. */
export interface Pending {
  round: string;
  action: "answer" | "skip";
  body: AnswerBody | { key: string };
}

const DRAFT = "rlopt-draft:";
const PENDING = "rlopt-pending";

/** An answer on its way is of one tab; a draft is of the browser. */
const place = (name: string): Storage => (name === PENDING ? sessionStorage : localStorage);

function read<T>(name: string): T | null {
  try {
    return JSON.parse(place(name).getItem(name) ?? "null") as T | null;
  } catch {
    return null;
  }
}

function write(name: string, value: unknown): void {
  try {
    if (value === null) place(name).removeItem(name);
    else place(name).setItem(name, JSON.stringify(value));
  } catch {
    // A full or forbidden storage costs the draft at a reload, nothing else.
  }
}

/** Drafts of rounds that are over are of no use. */
function forgetOthers(round: string): void {
  try {
    for (const name of Object.keys(localStorage)) if (name.startsWith(DRAFT) && name !== DRAFT + round) localStorage.removeItem(name);
  } catch {
    // Then they stay, which does no harm.
  }
}

/** The draft of a round, unless it names clips that the round does not have. */
export function readDraft(round: string, clips: readonly string[]): Draft | null {
  const draft = read<Draft>(DRAFT + round);
  const known = (tiers: Tiers): boolean => tiers.flat().every((id) => clips.includes(id)) && new Set(tiers.flat()).size === tiers.flat().length;
  try {
    return draft && [draft.tiers, ...draft.history].every(known) ? draft : null;
  } catch {
    return null;
  }
}

export function writeDraft(round: string, draft: Draft | null): void {
  if (draft) forgetOthers(round);
  write(DRAFT + round, draft);
}
export const readPending = (): Pending | null => read<Pending>(PENDING);
export const writePending = (pending: Pending | null): void => write(PENDING, pending);

/** 128 random bits; crypto.randomUUID is missing on plain-http addresses other than localhost. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const SHORTCUTS = "rlopt-shortcuts";

export function shortcutsOn(): boolean {
  try {
    return localStorage.getItem(SHORTCUTS) !== "off";
  } catch {
    return true;
  }
}

export function setShortcuts(on: boolean): void {
  try {
    localStorage.setItem(SHORTCUTS, on ? "on" : "off");
  } catch {
    // Then the choice holds for this page only.
  }
}
