// The room of tables: a CSV of many pairs goes in, a report comes out.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { get, type Me, remove, type Report, send, Trouble, when } from "./api";
import { Alert, Drop, MarketPicker } from "./parts";

const EXAMPLE = "row_id,title,image_a,image_b,market\n1,Oak desk lamp,lamp-a.jpg,lamp-b.jpg,KR\n2,Oak desk lamp,lamp-a.jpg,lamp-b.jpg,BR\n";
const STATES = { waiting: "Waiting", running: "Working", done: "Done", failed: "Stopped", cancelled: "Cancelled" };

export function Tables({ me, lost }: { me: Me; lost: () => void }) {
  const [table, setTable] = useState<File | null>(null);
  const [archive, setArchive] = useState<File | null>(null);
  const [markets, setMarkets] = useState<string[]>([]);
  const [reports, setReports] = useState<Report[] | null>(null);
  const [step, setStep] = useState("");
  const [trouble, setTrouble] = useState("");
  const timer = useRef(0);

  const failed = (error: unknown) => {
    if (error instanceof Trouble && error.code === "signed_out") return lost();
    setTrouble((error as Error).message);
  };
  const look = async () => {
    clearTimeout(timer.current);
    try {
      const found = (await get<{ reports: Report[] }>("reports")).reports;
      setReports(found);
      if (found.some(open)) timer.current = window.setTimeout(look, 1_500);
    } catch (error) {
      failed(error);
    }
  };
  useEffect(() => {
    void look();
    return () => clearTimeout(timer.current);
  }, []);

  const choose = (files: File[]) => {
    setTrouble("");
    for (const file of files) {
      if (file.name.toLowerCase().endsWith(".zip")) setArchive(file);
      else if (/\.(csv|tsv|jsonl|parquet)$/i.test(file.name)) setTable(file);
      else setTrouble(`${file.name} is neither a table (.csv) nor a .zip of pictures. Choose another file.`);
    }
  };
  const start = async () => {
    setTrouble("");
    if (!table) return setTrouble("Choose a table first: a .csv with a row for each pair of pictures.");
    if (table.size + (archive?.size ?? 0) > me.max_table_mb * 2 ** 20)
      return setTrouble(`Table and pictures are together larger than ${me.max_table_mb} MB. Send them in parts.`);
    const form = new FormData();
    for (const code of markets) form.append("markets", code);
    form.append("table", table);
    if (archive) form.append("images", archive);
    setStep("Sending …");
    try {
      await send("reports", form, (share) => setStep(`Sending … ${Math.round(share * 100)} %`));
      setTable(null);
      setArchive(null);
      await look();
    } catch (error) {
      failed(error);
    } finally {
      setStep("");
    }
  };
  const example = useMemo(() => URL.createObjectURL(new Blob([EXAMPLE], { type: "text/csv" })), []);

  return (
    <>
      <section class="ask" aria-labelledby="tables-title">
        <h1 id="tables-title">Compare a whole table</h1>
        <p class="lead">Many pairs of pictures at once: send a table and a zip of its pictures, and download a report.</p>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void start();
          }}
        >
          <Drop
            id="files"
            label="Drop a table and a zip of its pictures, or choose files"
            hint="A .csv with the columns row_id, title, image_a, image_b and, if you like, market; a .zip with the pictures it names"
            accept=".csv,.tsv,.jsonl,.parquet,.zip"
            several
            files={choose}
          />
          <p class="quiet">
            <a href={example} download="example.csv">
              Download an example table
            </a>
          </p>
          {(table || archive) && (
            <ul class="files" aria-label="Chosen files">
              {[table, archive].map(
                (file) =>
                  file && (
                    <li key={file.name}>
                      {file.name} <span class="quiet">{size(file.size)}</span>{" "}
                      <button type="button" onClick={() => (file === table ? setTable(null) : setArchive(null))}>
                        Take out<span class="unseen"> {file.name}</span>
                      </button>
                    </li>
                  ),
              )}
            </ul>
          )}
          <div class="fields">
            <MarketPicker me={me} chosen={markets} choose={setMarkets} none="as the table says" />
          </div>
          <button class="main" disabled={Boolean(step)}>
            {step || "Start the report"}
          </button>
        </form>
        {trouble && <Alert>{trouble}</Alert>}
      </section>
      <section class="reports" aria-labelledby="reports-title">
        <h2 id="reports-title">Reports</h2>
        {reports?.length === 0 && <p class="quiet">None yet.</p>}
        <ul>
          {reports?.map((one) => (
            <Row key={one.id} report={one} changed={look} failed={failed} />
          ))}
        </ul>
      </section>
    </>
  );
}

function Row({ report, changed, failed }: { report: Report; changed: () => void; failed: (error: unknown) => void }) {
  const away = async () => {
    if (!confirm(open(report) ? "Stop this report and delete its pictures?" : "Delete this report?")) return;
    try {
      await remove(`reports/${report.id}`);
      changed();
    } catch (error) {
      failed(error);
    }
  };
  const rows = report.rows === null ? "reading the table" : `${report.done} of ${report.rows} rows`;
  return (
    <li class="report">
      <div>
        <b>{report.name}</b>
        <span class={`state ${report.state}`}>{STATES[report.state]}</span>
        <span class="quiet">{when(report.created)}</span>
      </div>
      {open(report) && (
        <p role="status">
          <progress max={report.rows ?? undefined} value={report.rows === null ? undefined : report.done} aria-label={`Progress of ${report.name}`} />{" "}
          {rows}
        </p>
      )}
      {report.state === "done" && (
        <p class="quiet">
          {report.rows} rows{report.refused > 0 && `, of which ${report.refused} could not be used: the report says why`}
          {report.deleted_after && `. Will be deleted ${when(report.deleted_after)}.`}
        </p>
      )}
      {report.error && <Alert>{report.error}</Alert>}
      <div class="row">
        {report.state === "done" && (
          <a class="button" href={`api/reports/${report.id}/file`} download>
            Download the report<span class="unseen"> of {report.name}</span>
          </a>
        )}
        <button onClick={away}>
          {open(report) ? "Stop" : "Delete"}
          <span class="unseen"> {report.name}</span>
        </button>
      </div>
    </li>
  );
}

const open = (report: Report) => report.state === "waiting" || report.state === "running";
const size = (bytes: number) => (bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KB` : `${(bytes / 2 ** 20).toFixed(1)} MB`);
