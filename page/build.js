// Build the page: one script, its style and its text, and the licences of what the script contains.
//
//   node build.js <folder>

import { build } from "esbuild";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "../workflow/foldwise/web/built");

/** Folder of the package that a bundled file belongs to; none for our own files. */
function packageOf(file) {
  const parts = file.split("/");
  const at = parts.lastIndexOf("node_modules");
  if (at < 0) return null;
  return parts.slice(0, at + (parts[at + 1].startsWith("@") ? 3 : 2)).join("/");
}

function licence(folder) {
  const { name, version, license } = JSON.parse(readFileSync(join(here, folder, "package.json")));
  const file = readdirSync(join(here, folder)).find((one) => /^licen[cs]e/i.test(one));
  const text = file ? readFileSync(join(here, folder, file), "utf8").trim() : "(The package has no licence file.)";
  return `${name} ${version}: ${license}\n\n${text}\n`;
}

const made = await build({
  absWorkingDir: here,
  entryPoints: ["src/main.js"],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outfile: "built/page.js",
  write: false,
  metafile: true,
  legalComments: "none",
  logLevel: "warning",
  loader: { ".wasm": "binary" },
  define: { global: "window" },
  // vtk.js reads XML files with it, which the page has none of.
  alias: { xmlbuilder2: "./src/without_xml.js" },
});

const used = Object.entries(made.metafile.outputs["built/page.js"].inputs);
const folders = new Set(used.filter(([, part]) => part.bytesInOutput).map(([file]) => packageOf(file)).filter(Boolean));

// Written beside, then renamed: a server never reads half a page.
const beside = `${target}.new`;
rmSync(beside, { recursive: true, force: true });
mkdirSync(beside, { recursive: true });
writeFileSync(join(beside, "page.js"), made.outputFiles[0].contents);
for (const name of ["index.html", "style.css"]) cpSync(join(here, name), join(beside, name));
writeFileSync(join(beside, "licences.txt"), [...folders].sort().map(licence).join(`\n${"-".repeat(80)}\n\n`));
if (existsSync(target)) rmSync(target, { recursive: true });
renameSync(beside, target);
