// A small map: a tile for every market, about where it lies, in the colour and with the number of the picture that wins there.
import type { MarketSaid } from "./api";

/** Column and row of some countries on a grid of 24 x 12, west to east, north to south. */
const PLACES: Record<string, [number, number]> = Object.fromEntries(
  (
    "CA3,1 US4,3 MX3,5 GT4,6 CR5,7 PA6,7 CU6,5 DO7,6 CO6,8 VE7,7 EC5,8 PE6,9 BR8,9 BO7,9 PY7,10 CL6,11 AR7,11 UY8,10 " +
    "IS9,0 IE9,2 GB10,2 PT9,5 ES10,5 FR10,4 BE11,3 NL11,2 LU10,3 DE12,3 CH11,4 AT12,4 IT12,5 DK12,2 NO12,0 SE13,0 FI14,0 " +
    "EE15,1 LV14,1 LT14,2 PL13,3 CZ13,4 SK14,4 HU14,5 RO15,4 BG15,5 GR14,6 HR13,5 RS15,6 UA15,3 RU17,1 TR16,5 CY15,7 " +
    "MA9,6 DZ10,6 TN11,6 EG14,7 NG11,8 GH10,8 KE15,9 ET15,8 ZA14,11 IL16,6 JO17,6 LB16,7 IQ17,5 IR18,5 SA17,7 AE18,7 " +
    "QA18,6 KW18,8 KZ18,3 UZ18,4 PK19,6 IN19,7 LK19,9 BD20,7 NP20,6 CN20,4 MN20,3 HK21,6 TW22,6 KR22,4 JP23,4 " +
    "TH20,8 VN21,7 MY20,9 SG21,9 ID21,10 PH22,8 AU22,11 NZ23,11"
  )
    .split(" ")
    .map((one) => [one.slice(0, 2), one.slice(2).split(",").map(Number)] as [string, [number, number]]),
);

export function World({ markets }: { markets: MarketSaid[] }) {
  const placed = markets.filter((one) => PLACES[one.market]);
  if (placed.length < 3) return null;
  return (
    <svg class="world" viewBox="0 0 960 480" role="img" aria-label="Map of the markets; the list below says the same">
      {Object.entries(PLACES).map(([code, [column, row]]) => (
        <circle key={code} class="land" cx={column * 40 + 20} cy={row * 40 + 20} r="4" />
      ))}
      {placed.map((one) => {
        const [column, row] = PLACES[one.market];
        return (
          <g
            key={one.market}
            transform={`translate(${column * 40} ${row * 40})`}
            class={one.winner === null ? "tile unsure" : `tile p${one.winner % 8}`}
            onClick={() => jump(one.market)}
          >
            <title>{`${one.name}: ${one.winner === null ? "not sure" : `picture ${one.winner + 1}, ${one.words}`}`}</title>
            <rect x="1" y="1" width="38" height="38" rx="8" />
            <text x="20" y="17">{one.market}</text>
            <text x="20" y="33" class="number">{one.winner === null ? "?" : one.winner + 1}</text>
          </g>
        );
      })}
    </svg>
  );
}

/** For the mouse; the list below is for everybody. */
function jump(market: string) {
  const card = document.getElementById(`market-${market}`);
  card?.scrollIntoView({ block: "center" });
  card?.querySelector("summary")?.focus();
}
