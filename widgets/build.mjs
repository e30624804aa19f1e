// Builds the bench's front end into scfm_widgets/static/. The result is committed, so that nobody who installs needs Node.
//
//   node build.mjs           write the bundle
//   node build.mjs --watch   write it again at every change
//   node build.mjs --check   build in memory and compare with what is committed; exit 1 where they differ
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const LIMIT_KB = 250;
const LIMIT_GZIP_KB = 80;

/** @type {esbuild.BuildOptions} */
const options = {
  absWorkingDir: here,
  entryPoints: { index: "src/index.tsx" },
  outdir: "scfm_widgets/static",
  bundle: true,
  format: "esm",
  minify: true,
  target: "es2022",
  charset: "utf8",
  jsx: "automatic",
  jsxImportSource: "preact",
  define: { "process.env.NODE_ENV": '"production"' },
  legalComments: "none",
  logLevel: "warning",
};

/** Everything comes with the wheel: neither code nor styles may reach for another host. */
function faults(name, text) {
  const found = [];
  if (
    /\bimport\s*\(?\s*["'`](?:https?:)?\/\//.test(text) ||
    /@import\s+(?:url\()?["']?(?:https?:)?\/\//.test(text)
  ) {
    found.push(`${name} imports from another host`);
  }
  for (const url of text.match(/https?:\/\/[^\s"'`)]+/g) ?? []) {
    // Names of XML vocabularies look like addresses and are never fetched.
    if (!url.startsWith("http://www.w3.org/")) found.push(`${name} holds the address ${url}`);
  }
  return found;
}

async function build() {
  const { outputFiles } = await esbuild.build({ ...options, write: false });
  const problems = [];
  for (const file of outputFiles) {
    const name = file.path.slice(here.length);
    problems.push(...faults(name, file.text));
    if (name.endsWith(".js")) {
      const kb = file.contents.length / 1000;
      const gzip = gzipSync(file.contents).length / 1000;
      console.log(`${name}: ${kb.toFixed(1)} kB, ${gzip.toFixed(1)} kB gzip`);
      if (kb > LIMIT_KB || gzip > LIMIT_GZIP_KB) {
        problems.push(`${name} is larger than ${LIMIT_KB} kB (${LIMIT_GZIP_KB} kB gzip)`);
      }
    }
  }
  return { outputFiles, problems };
}

async function check() {
  const { outputFiles, problems } = await build();
  for (const file of outputFiles) {
    const name = file.path.slice(here.length);
    const committed = await readFile(file.path).catch(() => null);
    if (committed === null) problems.push(`${name} is missing; run \`npm run build\` and commit it`);
    else if (!committed.equals(file.contents)) {
      problems.push(`${name} is not what its sources give; run \`npm run build\` and commit it`);
    }
  }
  return problems;
}

const mode = process.argv[2];
if (mode === "--watch") {
  const context = await esbuild.context({ ...options, logLevel: "info" });
  await context.watch();
} else {
  const problems = mode === "--check" ? await check() : (await build()).problems;
  if (mode !== "--check" && problems.length === 0) await esbuild.build(options);
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length ? 1 : 0;
}
