// New pictures for a market, made from one of a result's, and how each fares beside it.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, pictureOf, post, remove, type Result, type Variants, type Variant } from "./api";
import { Alert, Badge } from "./parts";

const open = (one: Variants) => one.state === "waiting" || one.state === "running";

/** What was asked for of a result, and a way to ask for more. */
export function useVariants(result: Result, possible: boolean) {
  const [made, setMade] = useState<Variants[]>([]);
  const [trouble, setTrouble] = useState("");
  const timer = useRef(0);
  const look = async () => {
    clearTimeout(timer.current);
    try {
      const found = (await get<{ variants: Variants[] }>(`results/${result.id}/variants`)).variants;
      setMade(found);
      if (found.some(open)) timer.current = window.setTimeout(look, 1_200);
    } catch (error) {
      setTrouble((error as Error).message);
    }
  };
  useEffect(() => {
    if (possible) void look();
    return () => clearTimeout(timer.current);
  }, []);
  const ask = async (market: string, picture: number) => {
    setTrouble("");
    try {
      await post(`results/${result.id}/variants`, { market, picture });
      await look();
      document.getElementById("new-title")?.scrollIntoView({ block: "start" });
    } catch (error) {
      setTrouble((error as Error).message);
    }
  };
  const drop = async (id: string) => {
    try {
      await remove(`variants/${id}`);
      await look();
    } catch (error) {
      setTrouble((error as Error).message);
    }
  };
  return { made, trouble, ask, drop };
}

export function NewPictures({ result, made, trouble, drop }: { result: Result; made: Variants[]; trouble: string; drop: (id: string) => void }) {
  if (!made.length && !trouble) return null;
  return (
    <section class="new" aria-labelledby="new-title">
      <h3 id="new-title">New pictures</h3>
      {trouble && <Alert>{trouble}</Alert>}
      {made.map((one) => (
        <article key={one.id} aria-label={`New pictures for ${one.name}`}>
          <div class="row">
            <h4>For {one.name}</h4>
            <button onClick={() => drop(one.id)}>
              {open(one) ? "Stop" : "Delete"}
              <span class="unseen"> new pictures for {one.name}</span>
            </button>
          </div>
          {open(one) && (
            <p class="step" role="status">
              <span class="spinner" aria-hidden="true" />
              {one.state === "waiting" && one.waiting_for
                ? `${one.waiting_for} others come first`
                : `${one.done} of ${one.total} pictures made`}
            </p>
          )}
          {one.error && <Alert>{one.error}</Alert>}
          <ul class="side">
            <li class="yours">
              <img src={pictureOf(result, one.picture)} alt={`Picture ${one.picture + 1}`} />
              <p>
                <Badge number={one.picture} /> <b>Yours</b>
              </p>
            </li>
            {one.variants.map((variant) => (
              <Made key={variant.n} of={one} variant={variant} />
            ))}
          </ul>
        </article>
      ))}
      <p class="quiet">
        Made by a computer: for the country, or from standard designs that are the same everywhere. Check that a picture
        shows your product as it is before you run it.
      </p>
    </section>
  );
}

function Made({ of, variant }: { of: Variants; variant: Variant }) {
  const path = `api/variants/${of.id}/pictures/${variant.n}`;
  const said =
    variant.sure === null ? "" : variant.ahead === null ? "Too close to call" : `${variant.ahead ? "Ahead of yours" : "Yours is ahead"}: ${variant.words}, ${variant.sure} %`;
  return (
    <li class={variant.ahead ? "ahead" : undefined}>
      <a href={path} download={`${of.name}-${variant.n + 1}.png`}>
        <img src={path} alt={`New picture ${variant.n + 1} for ${of.name}: ${variant.design.join(" ")}`} />
      </a>
      <p>
        <b>{said || (of.state === "done" ? "Not compared" : "Comparing …")}</b>
      </p>
      {variant.check && <p class="bad">Look closely: the product may have changed.</p>}
      <p class="quiet">
        {variant.origin}. {variant.design[1]}
      </p>
    </li>
  );
}
