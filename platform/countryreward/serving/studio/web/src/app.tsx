// The page: signed out, signing in, or one of two rooms: pictures and tables.
import { render } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { get, type Me, post, remove, Trouble } from "./api";
import { Pictures } from "./pictures";
import { Tables } from "./tables";
import { Alert } from "./parts";

type State = { kind: "looking"; told?: string } | { kind: "out"; trouble?: string } | { kind: "invited"; code: string } | { kind: "in"; me: Me };

/** The invitation in the address, which is taken out of it at once: it stays in no history and no bookmark. */
function takeInvitation(): string | null {
  const found = /^#invite=(ci_[0-9a-f]{8}_[\w-]{43})$/.exec(location.hash);
  if (location.hash.startsWith("#invite=")) history.replaceState(null, "", location.pathname);
  return found ? found[1] : null;
}

function Studio() {
  const [state, setState] = useState<State>({ kind: "looking" });
  const enter = useCallback(async () => {
    try {
      const { signed_in } = await get<{ signed_in: boolean }>("session"); // without a session the page asks nothing else
      setState(signed_in ? { kind: "in", me: await get<Me>("me") } : { kind: "out" });
    } catch (error) {
      if (error instanceof Trouble && error.code === "starting") {
        setState({ kind: "looking", told: "The service is starting, this takes a moment …" });
        return void setTimeout(enter, 2_000);
      }
      const known = error instanceof Trouble && error.code === "signed_out";
      setState({ kind: "out", trouble: known ? undefined : (error as Error).message });
    }
  }, []);
  useEffect(() => {
    const look = () => {
      const code = takeInvitation();
      if (code) setState({ kind: "invited", code });
      return code;
    };
    if (!look()) void enter();
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  if (state.kind === "in") return <Rooms me={state.me} out={() => setState({ kind: "out" })} />;
  return (
    <main class="door">
      <Brand />
      {state.kind === "looking" && <p aria-live="polite">{state.told ?? "One moment …"}</p>}
      {state.kind === "invited" && <ComeIn code={state.code} enter={enter} />}
      {state.kind === "out" && (
        <>
          <h1>Which picture wins where?</h1>
          <p>
            To come in, open the invitation link you were sent. It works once, for three days. After that this browser
            remembers you.
          </p>
          <p>
            No link, or it was used already? Ask whoever runs CountryReward at your company for a new one.
          </p>
          {state.trouble && <Alert>{state.trouble}</Alert>}
        </>
      )}
    </main>
  );
}

/** A click, so that programs which open links in e-mails do not use the invitation up. */
function ComeIn({ code, enter }: { code: string; enter: () => Promise<void> }) {
  const [trouble, setTrouble] = useState("");
  const [busy, setBusy] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => button.current?.focus(), []);
  const come = async () => {
    setBusy(true);
    setTrouble("");
    try {
      await post("session", { code });
      await enter();
    } catch (error) {
      setTrouble((error as Error).message);
      setBusy(false);
    }
  };
  return (
    <>
      <h1>You are invited</h1>
      <p>The studio shows which of your ad pictures wins in which country, how sure that is, and which past ads say so.</p>
      <button class="main" ref={button} onClick={come} disabled={busy}>
        {busy ? "Opening …" : "Open the studio"}
      </button>
      {trouble && <Alert>{trouble}</Alert>}
    </>
  );
}

const Brand = () => (
  <p class="brand">
    <span aria-hidden="true" class="globe" /> CountryReward <b>Studio</b>
  </p>
);

function Rooms({ me, out }: { me: Me; out: () => void }) {
  const [hash, setHash] = useState(location.hash);
  const [erased, setErased] = useState(0);
  useEffect(() => {
    const changed = () => setHash(location.hash);
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  const tables = hash === "#tables";
  const shared = /^#result=(r-[0-9a-f]{32})$/.exec(hash)?.[1];
  const here = (room: boolean) => (room ? ("page" as const) : undefined);
  return (
    <>
      <a class="skip" href="#work" onClick={(event) => { event.preventDefault(); document.getElementById("work")?.focus(); }}>
        Skip to the content
      </a>
      <header class="top">
        <Brand />
        <nav aria-label="Rooms">
          <a href="#pictures" aria-current={here(!tables)}>Pictures</a>
          <a href="#tables" aria-current={here(tables)}>Tables</a>
        </nav>
        <You me={me} out={out} erased={() => { location.hash = "#pictures"; setErased(erased + 1); }} />
      </header>
      {me.simulated && (
        <aside class="demo" aria-label="About this demo">
          This is the demo: what it knows comes from simulated clicks, not from real ones.
        </aside>
      )}
      <main id="work" tabIndex={-1} key={erased}>
        {tables ? <Tables me={me} lost={out} /> : <Pictures me={me} shared={shared} lost={out} />}
      </main>
      <footer>
        Pictures and results are deleted {me.kept_hours >= 1 ? `${Math.round(me.kept_hours)} hours` : "soon"} after they
        were sent. Only team {me.team} can see them.
      </footer>
    </>
  );
}

function You({ me, out, erased }: { me: Me; out: () => void; erased: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const menu = useRef<HTMLDetailsElement>(null);
  const [trouble, setTrouble] = useState("");
  const [told, setTold] = useState("");
  useEffect(() => {
    const close = (event: Event) => {
      const away = event instanceof KeyboardEvent ? event.key === "Escape" : !menu.current?.contains(event.target as Node);
      if (away && menu.current?.open) {
        menu.current.open = false;
        if (event instanceof KeyboardEvent) menu.current.querySelector("summary")?.focus();
      }
    };
    addEventListener("click", close);
    addEventListener("keydown", close);
    return () => {
      removeEventListener("click", close);
      removeEventListener("keydown", close);
    };
  }, []);
  const erase = async () => {
    setTrouble("");
    try {
      await remove("everything");
      dialog.current?.close();
      setTold("All pictures and results were deleted.");
      erased();
    } catch (error) {
      setTrouble((error as Error).message);
    }
  };
  const leave = async () => {
    try {
      await remove("session");
    } catch (error) {
      if (!(error instanceof Trouble && error.code === "signed_out")) return setTold((error as Error).message);
    }
    out();
  };
  return (
    <>
      <details class="you" ref={menu}>
        <summary>{me.name}</summary>
        <div class="menu">
          <p>Team {me.team}</p>
          <button onClick={() => { menu.current!.open = false; dialog.current?.showModal(); }}>Delete my images …</button>
          <button onClick={leave}>Sign out</button>
        </div>
      </details>
      <p class="told" role="status">{told}</p>
      <dialog ref={dialog} aria-labelledby="erase-title">
        <h2 id="erase-title">Delete all images?</h2>
        <p>
          Every picture, result, table and report that team {me.team} made in the studio is deleted now, also those of your
          colleagues. Links you shared stop working. This cannot be undone.
        </p>
        {trouble && <Alert>{trouble}</Alert>}
        <div class="row">
          <button class="danger" onClick={erase}>Delete everything</button>
          <button onClick={() => dialog.current?.close()}>Keep it</button>
        </div>
      </dialog>
    </>
  );
}

render(<Studio />, document.getElementById("studio")!);
