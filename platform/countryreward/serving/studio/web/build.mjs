// Bundles src/ into ../static: two files whose names change with their content, an icon, and the page that names them.
import { build } from "esbuild";
import { rmSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const out = new URL("../static/", import.meta.url).pathname;
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const { metafile } = await build({
  absWorkingDir: new URL(".", import.meta.url).pathname,
  entryPoints: { app: "src/app.tsx", style: "src/style.css", icon: "src/icon.svg" },
  bundle: true,
  minify: true,
  format: "iife",
  target: ["es2021", "chrome100", "firefox100", "safari15.4"],
  jsx: "automatic",
  jsxImportSource: "preact",
  loader: { ".svg": "copy" },
  entryNames: "[name]-[hash]",
  outdir: out,
  legalComments: "none",
  metafile: true,
});
const names = Object.keys(metafile.outputs).map((path) => path.split("/").pop());
let page = readFileSync(new URL("src/index.html", import.meta.url), "utf8");
for (const name of names) page = page.replaceAll(`assets/${name.replace(/-[A-Z0-9]+\./, ".")}`, `assets/${name}`);
writeFileSync(`${out}index.html`, page);
const bytes = Object.values(metafile.outputs).reduce((sum, one) => sum + one.bytes, 0);
console.log(`studio: ${names.join(", ")}: ${(bytes / 1024).toFixed(0)} KiB`);
