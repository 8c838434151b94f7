// The room of pictures: drop some, say what they show, read the verdict of every market.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, type Me, type Result, type ResultLine, send, Trouble, when } from "./api";
import { Alert, Badge, Drop, MarketPicker } from "./parts";
import { Verdicts } from "./verdicts";

interface Chosen {
  file: File;
  url: string;
  headline: string;
  body: string;
}

/** A title from a file's name, where the name says something: oak_desk-lamp_final2.png, not IMG_2043.jpg. */
export function titleOf(name: string): string {
  const words = name
    .replace(/\.\w+$/, "")
    .split(/[\s_\-.]+|(?<=\p{Ll})(?=\p{Lu})|(?<=\p{L})(?=\d)/u)
    .filter((word) => /\p{L}{2}/u.test(word) && !NOISE.has(word.toLowerCase()));
  const title = words.join(" ");
  return title.length < 4 ? "" : title.charAt(0).toUpperCase() + title.slice(1);
}
const NOISE = new Set("img dsc dscn pxl image picture photo bild foto final copy new version draft screenshot untitled ad".split(" "));

export function Pictures({ me, shared, lost }: { me: Me; shared?: string; lost: () => void }) {
  const [chosen, setChosen] = useState<Chosen[]>([]);
  const [title, setTitle] = useState("");
  const [guessed, setGuessed] = useState(false);
  const [markets, setMarkets] = useState(me.markets.map((one) => one.code));
  const [step, setStep] = useState("");
  const [trouble, setTrouble] = useState("");
  const [result, setResult] = useState<Result | null>(null);
  const [recent, setRecent] = useState<ResultLine[]>([]);
  const [sample, setSample] = useState<Result | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const under = useRef<HTMLDivElement>(null);
  const stop = useRef<AbortController | null>(null);

  const failed = (error: unknown) => {
    if (error instanceof Trouble && error.code === "stopped") return;
    if (error instanceof Trouble && error.code === "signed_out") return lost();
    setTrouble((error as Error).message);
  };
  const list = () => get<{ results: ResultLine[] }>("results").then((found) => setRecent(found.results), failed);
  useEffect(() => {
    void list();
    void get<Result>("sample").then(setSample, failed);
  }, []);
  useEffect(() => {
    if (!shared) return setResult(null);
    if (result?.id === shared) return;
    setTrouble("");
    get<Result>(`results/${shared}`).then(setResult, failed);
  }, [shared]);

  const compare = async (files: Chosen[], said: string, codes: string[]) => {
    stop.current?.abort();
    const mine = (stop.current = new AbortController());
    setTrouble("");
    if (files.length < 2) return setTrouble("Choose one more picture of the same product: there is nothing to compare yet.");
    if (!said.trim()) {
      setTrouble("Say what the product is, as your customers read it. Then press Compare.");
      return field.current?.focus();
    }
    if (!codes.length) return setTrouble("Choose one market at least.");
    const form = new FormData();
    form.append("title", said);
    for (const code of codes) form.append("markets", code);
    for (const one of files) form.append("pictures", one.file);
    const words = files.map(({ headline, body }) => (headline.trim() || body.trim() ? { headline, body } : null));
    if (words.some(Boolean)) form.append("copies", JSON.stringify(words));
    const asking = `Comparing ${files.length} pictures in ${codes.length} market${codes.length > 1 ? "s" : ""} …`;
    setStep("Sending the pictures …");
    try {
      const tell = (share: number) => setStep(share < 1 ? `Sending the pictures … ${Math.round(share * 100)} %` : asking);
      const found = await send<Result>("results", form, tell, mine.signal);
      setResult(found);
      history.replaceState(null, "", `#result=${found.id}`);
      dispatchEvent(new HashChangeEvent("hashchange"));
      void list();
      requestAnimationFrame(() => under.current?.scrollIntoView({ block: "start" }));
    } catch (error) {
      failed(error);
    } finally {
      if (stop.current === mine) setStep("");
    }
  };

  const add = (files: File[]) => {
    setTrouble("");
    const limit = me.max_picture_mb * 2 ** 20;
    const large = files.find((file) => file.size > limit);
    if (large) return setTrouble(`${large.name} is larger than ${me.max_picture_mb} MB. Save it smaller and choose it again.`);
    if (chosen.length + files.length > me.max_pictures)
      return setTrouble(`At most ${me.max_pictures} pictures can be compared at a time. Take some out first.`);
    const now = [...chosen, ...files.map((file) => ({ file, url: URL.createObjectURL(file), headline: "", body: "" }))];
    setChosen(now);
    let said = title;
    if (!said.trim() && now.length) {
      said = now.map((one) => titleOf(one.file.name)).find(Boolean) ?? "";
      setTitle(said);
      setGuessed(Boolean(said));
    }
    if (now.length >= 2) void compare(now, said, markets);
    else requestAnimationFrame(() => document.getElementById("pictures")?.focus());
  };
  const take = (position: number) => {
    URL.revokeObjectURL(chosen[position].url);
    setChosen(chosen.filter((_, i) => i !== position));
  };

  const say = (position: number, words: Partial<Chosen>) =>
    setChosen(chosen.map((one, i) => (i === position ? { ...one, ...words } : one)));

  return (
    <>
      <section class="ask" aria-labelledby="ask-title">
        <h1 id="ask-title">Which picture wins where?</h1>
        <p class="lead">Drop two or more ad pictures of one product. You see which one to run in which market, and why.</p>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void compare(chosen, title, markets);
          }}
        >
          <Drop
            id="pictures"
            label={chosen.length ? "Add a picture" : "Drop pictures here, or choose files"}
            hint={`PNG, JPEG or WEBP, up to ${me.max_picture_mb} MB each, ${me.max_pictures} at most`}
            accept="image/png,image/jpeg,image/webp"
            several
            files={add}
          />
          {chosen.length > 0 && (
            <ol class="chosen" aria-label="Chosen pictures">
              {chosen.map((one, position) => (
                <li key={one.url}>
                  <img src={one.url} alt={`Picture ${position + 1}: ${one.file.name}`} />
                  <Badge number={position} />
                  <button type="button" class="away" onClick={() => take(position)} aria-label={`Take out ${one.file.name}`}>
                    ×
                  </button>
                </li>
              ))}
            </ol>
          )}
          <div class="fields">
            <label for="product">What is it?</label>
            <input
              id="product"
              ref={field}
              value={title}
              maxLength={300}
              placeholder="e.g. Oak desk lamp, 40 cm"
              aria-describedby={guessed ? "guessed" : undefined}
              autocomplete="off"
              onInput={(event) => {
                setTitle(event.currentTarget.value);
                setGuessed(false);
              }}
            />
            {guessed && (
              <p id="guessed" class="quiet">
                Taken from the file's name. If that is not what customers read, correct it and compare again.
              </p>
            )}
            {chosen.length > 0 && (
              <details class="adwords">
                <summary>Words of the ads, where they have some</summary>
                {chosen.map((one, position) => (
                  <fieldset key={one.url}>
                    <legend>
                      Picture {position + 1}
                    </legend>
                    <label for={`headline-${position}`}>Headline</label>
                    <input
                      id={`headline-${position}`}
                      value={one.headline}
                      maxLength={300}
                      autocomplete="off"
                      onInput={(event) => say(position, { headline: event.currentTarget.value })}
                    />
                    <label for={`body-${position}`}>Text</label>
                    <input
                      id={`body-${position}`}
                      value={one.body}
                      maxLength={1000}
                      autocomplete="off"
                      onInput={(event) => say(position, { body: event.currentTarget.value })}
                    />
                  </fieldset>
                ))}
              </details>
            )}
            <MarketPicker me={me} chosen={markets} choose={setMarkets} />
          </div>
          <button class="main" disabled={Boolean(step)}>
            {step ? "Comparing …" : result && chosen.length ? "Compare again" : "Compare"}
          </button>
        </form>
        <p class="step" role="status">
          {step && <span class="spinner" aria-hidden="true" />}
          {step}
        </p>
        {trouble && <Alert>{trouble}</Alert>}
      </section>
      <div ref={under} class="under">
        {result ? (
          <Verdicts
            key={result.id}
            result={result}
            me={me}
            deleted={() => {
              setResult(null);
              location.hash = "#pictures";
              void list();
            }}
          />
        ) : (
          sample && !shared && <Verdicts result={sample} me={me} />
        )}
        {!result && !sample && !shared && !trouble && <p class="quiet">Getting a sample ready …</p>}
      </div>
      {recent.length > 0 && (
        <section class="recent" aria-labelledby="recent-title">
          <h2 id="recent-title">Your team's results</h2>
          <ul>
            {recent.slice(0, 12).map((one) => (
              <li key={one.id}>
                <a href={`#result=${one.id}`} aria-current={one.id === result?.id ? "true" : undefined}>
                  {one.title}
                </a>{" "}
                <span class="quiet">
                  {one.pictures} pictures, {one.markets} market{one.markets === 1 ? "" : "s"}, {one.by}, {when(one.created)}
                </span>
              </li>
            ))}
          </ul>
        </section>
      )}
    </>
  );
}
