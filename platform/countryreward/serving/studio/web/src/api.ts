// What the page asks the service, and what goes wrong in words that say what to do.

export interface Market {
  code: string;
  name: string;
}

export interface Me {
  name: string;
  team: string;
  markets: Market[];
  others: Market[];
  max_pictures: number;
  max_picture_mb: number;
  max_table_mb: number;
  kept_hours: number;
  simulated: boolean;
  variants: number;
}

export interface SpeakingAd {
  like: number;
  title: string;
  headline: string;
  effect: string;
  good: boolean;
}

export interface MarketSaid {
  market: string;
  name: string;
  winner: number | null;
  sure: number;
  words: string;
  why: string;
  order: number[];
  shares: number[];
  claim: "better" | "won as delivered";
  past_ads: number;
  ads: SpeakingAd[];
}

export interface Result {
  id: string;
  title: string;
  by: string;
  created: string;
  deleted_after: string | null;
  pictures: string[];
  headlines: string[];
  markets: MarketSaid[];
  note: string;
}

export interface ResultLine {
  id: string;
  title: string;
  by: string;
  created: string;
  pictures: number;
  markets: number;
}

export interface Report {
  id: string;
  name: string;
  state: "waiting" | "running" | "done" | "failed" | "cancelled";
  rows: number | null;
  done: number;
  refused: number;
  error: string;
  created: string;
  deleted_after: string | null;
}

export interface Variant {
  n: number;
  design: string[];
  origin: string;
  place: number | null;
  ahead: boolean | null;
  sure: number | null;
  words: string;
  check: boolean;
}

export interface Variants {
  id: string;
  market: string;
  name: string;
  picture: number;
  state: "waiting" | "running" | "done" | "failed" | "cancelled";
  waiting_for: number | null;
  done: number;
  total: number;
  variants: Variant[];
  error: string;
  created: string;
}

export class Trouble extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** What to say of an error's code; {wait} is a time such as "in 5 seconds". Others say it themselves. */
const WORDS: Record<string, string> = {
  rate_limited: "Your team has asked a lot just now. Try again {wait}.",
  quota: "Your team has as much waiting as fits. Wait until something is done, or delete it.",
  busy: "Many are asking at the moment. Try again {wait}.",
  starting: "The service is starting. Try again {wait}.",
  too_large: "That is too large to send. Choose smaller files, or fewer at a time.",
  slow_body: "Your connection paused for too long. Try again, or send smaller files.",
  internal: "Something went wrong on our side. Try again; if it happens again, tell whoever invited you.",
};

function trouble(status: number, text: string, wait: string | null): Trouble {
  let code = "internal";
  let message = "";
  try {
    ({ code, message } = JSON.parse(text).error);
  } catch {
    code = status === 503 ? "busy" : status === 413 ? "too_large" : "internal";
  }
  const seconds = Number(wait) || 5;
  const when = seconds < 90 ? `in ${seconds} seconds` : `in ${Math.ceil(seconds / 60)} minutes`;
  const said = WORDS[code]?.replace("{wait}", when) ?? message;
  return new Trouble(code, said.charAt(0).toUpperCase() + said.slice(1));
}

const UNREACHED = "The service cannot be reached. Check your connection and try again.";
const OURS = { "X-Studio": "1" };

async function call(method: string, path: string, body?: unknown): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(`api/${path}`, {
      method,
      headers: body === undefined ? OURS : { ...OURS, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
    });
  } catch {
    throw new Trouble("unreached", UNREACHED);
  }
  if (!answer.ok) throw trouble(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

export const get = async <T>(path: string): Promise<T> => (await call("GET", path)).json();
export const remove = async (path: string): Promise<void> => void (await call("DELETE", path));
export const post = async (path: string, body: unknown): Promise<Response> => call("POST", path, body);

/** Send files, telling the share that has been sent, 0 to 1. `stop` ends it. */
export function send<T>(path: string, form: FormData, sent: (share: number) => void, stop?: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `api/${path}`);
    request.setRequestHeader("X-Studio", "1");
    request.upload.onprogress = (event) => event.lengthComputable && sent(event.loaded / event.total);
    request.upload.onload = () => sent(1);
    request.onload = () =>
      request.status < 300
        ? resolve(JSON.parse(request.responseText))
        : reject(trouble(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    request.onerror = () => reject(new Trouble("unreached", UNREACHED));
    request.onabort = () => reject(new Trouble("stopped", ""));
    stop?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

export const pictureOf = (result: Result, number: number): string =>
  result.id === "sample" ? `api/sample/pictures/${number}` : `api/results/${result.id}/pictures/${number}`;

/** "today 14:05", or the day. */
export function when(moment: string): string {
  const date = new Date(moment);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const days = Math.round((new Date(date).setHours(0, 0, 0, 0) - new Date().setHours(0, 0, 0, 0)) / 86_400_000);
  const day = days === 0 ? "today" : days === 1 ? "tomorrow" : days === -1 ? "yesterday" : date.toLocaleDateString();
  return `${day} ${time}`;
}
