// Bundles web/assets into web/static: hashed names, manifest.json, icon sprite, third-party licences.
// `node build.mjs` builds once, `node build.mjs --watch` builds on every change.
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, rm, watch, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const outdir = join(here, "static");
const watching = process.argv.includes("--watch");

const ICONS = [
  "alert", "check", "chevron-down", "chevron-right", "clock", "copy", "cpu", "database", "globe",
  "link-external", "person", "search", "stopwatch", "x", "zoom-in", "zoom-out",
];

async function bundle() {
  const result = await build({
    absWorkingDir: here,
    entryPoints: ["assets/app.ts", "assets/record_page.ts", "assets/app.css"],
    bundle: true,
    minify: true,
    sourcemap: watching ? "inline" : false,
    target: ["es2023", "chrome123", "firefox120", "safari17.5"],
    format: "esm",
    outdir: "static",
    entryNames: "[name]-[hash]",
    legalComments: "none",
    metafile: true,
    write: false,
    logLevel: "warning",
  });
  const files = new Map();
  for (const output of result.outputFiles) {
    const entry = result.metafile.outputs[relative(here, output.path)].entryPoint;
    files.set(basename(entry).replace(/\.ts$/, ".js"), { name: basename(output.path), contents: output.contents });
  }
  addHashed(files, "icons.svg", await sprite());
  addHashed(files, "favicon.svg", await readFile(join(here, "assets/favicon.svg")));
  const packages = packagesOf(result.metafile);
  packages.add("@primer/octicons");
  addHashed(files, "third-party-licences.txt", await licences(packages));
  return files;
}

function addHashed(files, name, contents) {
  const hash = createHash("sha256").update(contents).digest("hex").slice(0, 8).toUpperCase();
  files.set(name, { name: name.replace(/\.(\w+)$/, `-${hash}.$1`), contents });
}

async function sprite() {
  const symbols = await Promise.all(ICONS.map(async (icon) => {
    const svg = await readFile(join(here, `node_modules/@primer/octicons/build/svg/${icon}-16.svg`), "utf8");
    const inner = svg.replace(/^<svg[^>]*>/, "").replace(/<\/svg>\s*$/, "");
    return `<symbol id="${icon}" viewBox="0 0 16 16">${inner}</symbol>`;
  }));
  return `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`;
}

function packagesOf(metafile) {
  const names = Object.keys(metafile.inputs).map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]);
  return new Set(names.filter(Boolean));
}

async function licences(packages) {
  const texts = await Promise.all([...packages].sort().map(async (name) => {
    const directory = join(here, "node_modules", name);
    const about = JSON.parse(await readFile(join(directory, "package.json"), "utf8"));
    const file = (await readdir(directory)).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${name} ships no licence file`);
    return `${name} ${about.version} (${about.license})\n\n${(await readFile(join(directory, file), "utf8")).trim()}\n`;
  }));
  return texts.join("\n" + "-".repeat(80) + "\n\n");
}

// The manifest is written last: a page never names a file that is not there yet.
async function write(files) {
  await mkdir(outdir, { recursive: true });
  for (const { name, contents } of files.values()) await writeFile(join(outdir, name), contents);
  const manifest = Object.fromEntries([...files].map(([key, file]) => [key, file.name]));
  await writeFile(join(outdir, "manifest.json"), JSON.stringify(manifest, null, 2) + "\n");
  const current = new Set([...Object.values(manifest), "manifest.json", ".stamp"]);
  for (const entry of await readdir(outdir)) {
    if (!current.has(entry)) await rm(join(outdir, entry), { recursive: true });
  }
}

await write(await bundle());
if (watching) {
  console.log("watching web/assets");
  for await (const _ of watch(join(here, "assets"))) {
    try {
      await write(await bundle());
    } catch (error) {
      console.error(String(error));
    }
  }
}
