// Small parts that several rooms show.
import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import type { Market, Me } from "./api";

/** Something went wrong; it says what to do. Read out at once. */
export const Alert = ({ children }: { children: ComponentChildren }) => (
  <p class="alert" role="alert">
    {children}
  </p>
);

/** A picture's number in its colour, so that colour is never all that tells. */
export const Badge = ({ number }: { number: number }) => <span class={`badge p${number % 8}`}>{number + 1}</span>;

/** Where files are dropped, or chosen by mouse and keyboard alike. */
export function Drop(props: {
  id: string;
  label: string;
  hint: string;
  accept: string;
  several?: boolean;
  files: (files: File[]) => void;
}) {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <div
      class={`drop${over ? " over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        props.files([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      <input
        id={props.id}
        ref={input}
        type="file"
        accept={props.accept}
        multiple={props.several}
        aria-describedby={`${props.id}-hint`}
        onKeyDown={(event) => {
          if (event.key !== "Enter") return; // as on a button; the browser knows the space bar alone
          event.preventDefault();
          input.current?.click();
        }}
        onChange={() => {
          props.files([...(input.current?.files ?? [])]);
          input.current!.value = ""; // so that the same file can be chosen again
        }}
      />
      <label for={props.id}>
        <b>{props.label}</b>
      </label>
      <span id={`${props.id}-hint`} class="quiet">
        {props.hint}
      </span>
    </div>
  );
}

/** Which markets to ask: all that were learned, unless some are left out or others added. */
export function MarketPicker(props: { me: Me; chosen: string[]; choose: (codes: string[]) => void; none?: string }) {
  const { me, chosen, choose } = props;
  const learned = me.markets.map((one) => one.code);
  const added = me.others.filter((one) => chosen.includes(one.code));
  const toggle = (code: string) =>
    choose(chosen.includes(code) ? chosen.filter((one) => one !== code) : [...chosen, code]);
  const all = learned.every((code) => chosen.includes(code));
  const box = (one: Market) => (
    <label key={one.code} class="tick">
      <input type="checkbox" checked={chosen.includes(one.code)} onChange={() => toggle(one.code)} /> {one.name}
    </label>
  );
  return (
    <details class="markets">
      <summary>
        Markets: {props.none && !chosen.length ? props.none : all && chosen.length === learned.length ? `all ${learned.length}` : `${chosen.length} chosen`}
      </summary>
      <fieldset>
        <legend class="unseen">Markets</legend>
        <div class="ticks">{[...me.markets, ...added].map(box)}</div>
        <div class="row">
          <button type="button" onClick={() => choose(all ? [] : learned)}>
            {all ? "None" : "All"}
          </button>
          <label>
            <span class="unseen">Add another country</span>
            <select
              value=""
              onChange={(event) => event.currentTarget.value && choose([...chosen, event.currentTarget.value])}
            >
              <option value="">Another country …</option>
              {me.others
                .filter((one) => !chosen.includes(one.code))
                .map((one) => (
                  <option key={one.code} value={one.code}>
                    {one.name}
                  </option>
                ))}
            </select>
          </label>
        </div>
        {added.length > 0 && (
          <p class="quiet">Nothing was learned of {added.map((one) => one.name).join(", ")} yet, so the answer will be “not sure”.</p>
        )}
      </fieldset>
    </details>
  );
}
