// What was found, market by market: the picture to choose, how sure, how much there is to go by, and the past ads that say so.
import { useState } from "preact/hooks";
import { type MarketSaid, type Me, pictureOf, remove, type Result, when } from "./api";
import { Alert, Badge } from "./parts";
import { NewPictures, useVariants } from "./variants";
import { World } from "./world";

type Order = "name" | "sure" | "winner";

export function Verdicts({ result, me, deleted }: { result: Result; me: Me; deleted?: () => void }) {
  const [order, setOrder] = useState<Order>("sure");
  const [told, setTold] = useState("");
  const [trouble, setTrouble] = useState("");
  const sample = result.id === "sample";
  const possible = me.variants > 0 && !sample;
  const { made, trouble: notMade, ask, drop } = useVariants(result, possible);
  const markets = [...result.markets].sort(
    (a, b) =>
      (order === "winner" ? (a.winner ?? 99) - (b.winner ?? 99) : 0) ||
      (order !== "name" ? (b.winner === null ? 0 : b.sure) - (a.winner === null ? 0 : a.sure) : 0) ||
      a.name.localeCompare(b.name),
  );
  const share = async () => {
    const link = `${location.origin}${location.pathname}#result=${result.id}`;
    try {
      await navigator.clipboard.writeText(link);
      setTold(`The link is copied. It works for signed-in people of team ${me.team}.`);
    } catch {
      setTold(`Copy this link for signed-in people of team ${me.team}: ${link}`);
    }
  };
  const erase = async () => {
    if (!confirm("Delete this result with its pictures now?")) return;
    try {
      await remove(`results/${result.id}`);
      deleted?.();
    } catch (error) {
      setTrouble((error as Error).message);
    }
  };
  return (
    <section class={sample ? "verdicts sample" : "verdicts"} aria-labelledby="verdict-title">
      {sample && <p class="stamp">Sample</p>}
      <h2 id="verdict-title">{result.title}</h2>
      {sample && <p class="note">{result.note}</p>}
      <div class="overview">
      <ol class="legend">
        {result.pictures.map((name, number) => (
          <li key={number}>
            <figure>
              <img src={pictureOf(result, number)} alt={`Picture ${number + 1}`} width={320} height={320} />
              <figcaption>
                <Badge number={number} /> <span class="file">{sample ? `Picture ${number + 1}` : name}</span>
                {result.headlines[number] && <q class="said">{result.headlines[number]}</q>}
                <span class="wins">{wins(result, number)}</span>
              </figcaption>
            </figure>
          </li>
        ))}
      </ol>
      <div>
        <p class="sum">{sum(result)}</p>
        {result.markets.some((one) => one.winner !== null && one.claim !== "better") && (
          <p class="note">
            A picture that wins, wins as ads are delivered: platforms choose who sees which ad, so the people who saw it may be
            part of the reason.
          </p>
        )}
        <World markets={result.markets} />
      </div>
      </div>
      <div class="row tools">
        <label>
          Sort by{" "}
          <select value={order} onChange={(event) => setOrder(event.currentTarget.value as Order)}>
            <option value="sure">how sure</option>
            <option value="name">market</option>
            <option value="winner">picture</option>
          </select>
        </label>
        {!sample && <button onClick={share}>Copy link</button>}
        <button onClick={() => print()}>Print</button>
        {!sample && <button onClick={erase}>Delete</button>}
      </div>
      <p role="status" class="told">{told}</p>
      {trouble && <Alert>{trouble}</Alert>}
      {possible && <NewPictures result={result} made={made} trouble={notMade} drop={drop} />}
      <ul class="cards">
        {markets.map((one) => (
          <Card
            key={one.market}
            said={one}
            result={result}
            more={possible ? () => void ask(one.market, one.winner ?? one.order[0]) : undefined}
            making={made.some((some) => some.market === one.market && (some.state === "waiting" || some.state === "running"))}
          />
        ))}
      </ul>
      {!sample && (
        <p class="quiet printed">
          Compared by {result.by}, {when(result.created)}.
          {result.deleted_after && ` Will be deleted ${when(result.deleted_after)}.`}
        </p>
      )}
    </section>
  );
}

function Card(props: { said: MarketSaid; result: Result; more?: () => void; making: boolean }) {
  const { said, result } = props;
  const { winner } = said;
  return (
    <li class={winner === null ? "card unsure" : `card p${winner % 8}`} id={`market-${said.market}`}>
      <div class="head">
        {winner === null ? (
          <span class="thumb none" aria-hidden="true">?</span>
        ) : (
          <img class="thumb" src={pictureOf(result, winner)} alt="" width={72} height={72} />
        )}
        <div>
          <h3>{said.name}</h3>
          <p class="answer">
            {winner === null ? (
              <b>Not sure</b>
            ) : (
              <>
                <Badge number={winner} /> <b>Picture {winner + 1}</b>
              </>
            )}
          </p>
        </div>
      </div>
      {winner === null ? (
        <p class="why">{said.why}</p>
      ) : (
        <p class="sure">
          <meter min={0} max={100} value={said.sure} aria-label={`How sure for ${said.name}`}>
            {said.sure} %
          </meter>
          <span>
            {said.words}, {said.sure} %
          </span>
        </p>
      )}
      {said.past_ads === 0 ? (
        <p class="evidence">No past ads</p>
      ) : (
        <details class="evidence">
          <summary>
            {said.past_ads} past ads <span class="unseen">from {said.name}</span>
          </summary>
          {result.pictures.map((_, number) => (
            <Speaking key={number} said={said} number={number} />
          ))}
          {result.pictures.length > 2 && (
            <ol class="places" aria-label="All pictures, best first">
              {said.order.map((number) => (
                <li key={number}>
                  <Badge number={number} /> beats the others {said.shares[number]} times in 100
                </li>
              ))}
            </ol>
          )}
        </details>
      )}
      {props.more && (
        <button class="more" onClick={props.more} disabled={props.making}>
          {props.making ? "Making new pictures …" : "Make new pictures"}
          <span class="unseen"> for {said.name}</span>
        </button>
      )}
    </li>
  );
}

function Speaking({ said, number }: { said: MarketSaid; number: number }) {
  const ads = said.ads.filter((ad) => ad.like === number);
  if (!ads.length) return null;
  return (
    <>
      <p class="like">
        Most like <Badge number={number} />
      </p>
      <ul class="ads">
        {ads.map((ad, position) => (
          <li key={position}>
            <span class="ad">
              {ad.title}
              {ad.headline && <q class="said">{ad.headline}</q>}
            </span>
            <span class={ad.good ? "effect good" : "effect bad"}>{ad.effect}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

function wins(result: Result, number: number): string {
  const count = result.markets.filter((one) => one.winner === number).length;
  return `wins in ${count} of ${result.markets.length}`;
}

/** The verdict in one sentence. */
function sum(result: Result): string {
  const unsure = result.markets.filter((one) => one.winner === null).length;
  const winners = new Set(result.markets.flatMap((one) => (one.winner === null ? [] : [one.winner])));
  const rest = unsure ? ` In ${unsure === 1 ? "one market" : `${unsure} markets`} we are not sure.` : "";
  if (!winners.size) return "We are not sure in any of these markets. Run the pictures for a while and compare their clicks.";
  if (winners.size === 1) return `Picture ${[...winners][0] + 1} is the one to run ${unsure ? "wherever there is a clear answer" : "everywhere"}.${rest}`;
  return `One picture does not fit all: choose by market.${rest}`;
}
