export interface Clip {
  id: string;
  url: string;
  poster: string;
  fps: number;
  frames: number;
  width: number;
  height: number;
}

export interface Answer {
  tiers: string[][];
  unranked: string[];
}

export interface Round {
  id: string;
  kind: string;
  k: number;
  lease_seconds: number;
  clips: Clip[];
  answer: Answer | null;
}

export interface Progress {
  rounds_answered: number;
  rounds_consumed: number;
  clips_watched: number;
  minutes: number;
  state: "rendering" | "open" | "waiting" | "finished";
  message: string;
  can_undo: boolean;
  /** How many rounds are asked of a rater; null where there is no end. */
  rounds_asked: number | null;
  /** For one who is done: a code, an address, or both. */
  completion: { code: string; url: string } | null;
}

export interface Study {
  name: string;
  instructions: string;
  media: "video" | "image";
  progress: Progress;
  /** Whether raters see the results. */
  results: boolean;
  /** What opens the study for this rater in another browser. */
  return_code: string | null;
}

export interface Lease {
  round: Round | null;
  progress: Progress;
}

/** What a rater is told after a training round. */
export interface Training {
  message: string;
  order: Answer;
}

/** An answer has arrived; with it comes the next round, if there is one to rank already. */
export interface Concluded extends Lease {
  training: Training | null;
}

export interface AnswerBody extends Answer {
  key: string;
  abstain: boolean;
  seconds: number;
}

export interface ResultRound {
  iteration: number;
  kind: string;
  step_norm: number | null;
  distance_from_start: number | null;
  stayed: boolean;
  answers: number;
  seconds: number | null;
}

export interface Results {
  progress: Progress;
  rounds: ResultRound[];
  agreement: { rounds: number; raters: number; pairwise: number | null; kendall_tau: number | null; interval: [number, number] | null };
  raters: { name: string; rounds: number; pairwise: number | null; trust: number | null; repeats: number; same: number | null }[];
  /** Share of pairs in the same order, by rater and rater. */
  matrix: (number | null)[][];
  duels: { step: number; rounds: number; won: number; interval: [number, number] }[];
  activity: { open: number; raters: number; active: number; answers: number; minutes: number };
  start: Clip | null;
  now: Clip | null;
}

/** The server understood and said no; the message is its own. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** No answer, or one that says to come back later. */
export class Unreachable extends Error {}

/** Milliseconds after which a server that says nothing counts as one that does not answer; the same request is sent again. */
const PATIENCE = 15_000;

const LATER = new Set([429, 502, 503, 504]);

let token = readToken(document);

function readToken(page: Document): string {
  return page.querySelector<HTMLMetaElement>('meta[name="csrf-token"]')?.content ?? "";
}

async function send(method: string, path: string, body: unknown): Promise<Response> {
  const options: RequestInit = { method, credentials: "same-origin", cache: "no-store", redirect: "error", signal: AbortSignal.timeout(PATIENCE) };
  if (method === "POST") {
    options.headers = { "Content-Type": "application/json", "X-CSRF-Token": token };
    options.body = JSON.stringify(body);
  }
  try {
    return await fetch(path, options);
  } catch {
    throw new Unreachable();
  }
}

/** A restarted server gives another token with its page; true where there is a new one. */
async function renewToken(): Promise<boolean> {
  const response = await send("GET", "/", undefined);
  if (!response.ok) return false;
  const fresh = readToken(new DOMParser().parseFromString(await response.text(), "text/html"));
  const changed = fresh !== "" && fresh !== token;
  token = fresh || token;
  return changed;
}

async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  let response = await send(method, path, body);
  if (response.status === 403 && method === "POST" && (await renewToken())) response = await send(method, path, body);
  if (LATER.has(response.status)) throw new Unreachable();
  let content: unknown = null;
  try {
    content = await response.json();
  } catch {
    if (response.ok) throw new Unreachable();
  }
  if (response.ok) return content as T;
  const said = content as { error?: unknown } | null;
  throw new Refusal(response.status, typeof said?.error === "string" ? said.error : `The server refused this (status ${response.status}).`);
}

export const getStudy = (): Promise<Study> => call("GET", "/api/study");
export const getResults = (): Promise<Results> => call("GET", "/api/results");
export const lease = (): Promise<Lease> => call("POST", "/api/lease", {});
export const undo = (): Promise<Lease> => call("POST", "/api/undo", {});
export const renew = (round: string): Promise<{ lease_seconds: number }> => call("POST", `/api/rounds/${encodeURIComponent(round)}/renew`, {});

/** Sends an answer or a skip; the key in the body makes a second sending harmless. */
export const conclude = (round: string, action: "answer" | "skip", body: AnswerBody | { key: string }): Promise<Concluded> =>
  call("POST", `/api/rounds/${encodeURIComponent(round)}/${action}`, { ...body, next: true });
