// Runs slither and solhint on src/ and fails on every finding that ANALYSIS.md does not answer, and on every answer
// to a finding that is no more. Slither is looked for in PATH, or where the environment's SLITHER says.
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(fileURLToPath(import.meta.url));

// The compiler is solcjs, which slither can't call. It reads what a hardhat project would have left behind instead.
function slither() {
  const project = mkdtempSync(join(tmpdir(), "ipsx-analysis-"));
  try {
    for (const name of ["src", "test", "node_modules"]) symlinkSync(join(root, name), join(project, name));
    writeFileSync(join(project, "hardhat.config.js"), "");
    mkdirSync(join(project, "artifacts"));
    const info = join(project, "artifacts", "build-info");
    execFileSync(process.execPath, [join(root, "build.mjs"), "--build-info", info], { stdio: "inherit" });
    const report = join(project, "report.json");
    const options = ["--hardhat-ignore-compile", "--npx-disable", "--filter-paths", "node_modules|test/"];
    const run = spawnSync(process.env.SLITHER ?? "slither", [".", ...options, "--json", report], { cwd: project });
    if (run.error) throw new Error(`slither can't be run: ${run.error.message}. \`pip install slither-analyzer\``);
    const answer = JSON.parse(readFileSync(report, "utf8"));
    if (!answer.success) throw new Error(`slither failed: ${answer.error}`);
    return (answer.results.detectors ?? []).map((d) => ({ tool: "slither", rule: d.check, place: place(d.elements[0]) }));
  } finally {
    rmSync(project, { recursive: true });
  }
}

function place(element) {
  const parent = element?.type_specific_fields?.parent;
  return parent?.type === "contract" ? `${parent.name}.${element.name}` : (element?.name ?? "");
}

function lint() {
  const options = ["--noPoster", "-c", ".solhint.json", "-f", "json", "src/*.sol"];
  const solhint = join(root, "node_modules", ".bin", "solhint");
  const run = spawnSync(solhint, options, { cwd: root, encoding: "utf8" });
  const start = run.stdout?.indexOf("[") ?? -1;
  if (run.error || start === -1) throw new Error(`solhint can't be run: ${run.error?.message ?? run.stderr}`);
  const found = JSON.parse(run.stdout.slice(start)).filter((f) => f.ruleId);
  return found.map((f) => ({ tool: "solhint", rule: f.ruleId, place: f.filePath.replace(/^.*src\//, "") }));
}

// The rows | tool | `rule` | `place`, `place` | answer | of the tables in ANALYSIS.md.
function answers() {
  const rows = readFileSync(join(root, "ANALYSIS.md"), "utf8").matchAll(/^\| (slither|solhint) \| `(.+?)` \| (.+?) \|/gm);
  return [...rows].flatMap(([, tool, rule, places]) =>
    [...places.matchAll(/`(.+?)`/g)].map(([, place]) => ({ tool, rule, place })),
  );
}

function main() {
  const name = (f) => `${f.tool} ${f.rule} ${f.place}`;
  const found = new Set([...slither(), ...lint()].map(name));
  const answered = new Set(answers().map(name));
  const open = [...found].filter((f) => !answered.has(f));
  const stale = [...answered].filter((f) => !found.has(f));
  for (const f of open) console.error(`not answered in ANALYSIS.md: ${f}`);
  for (const f of stale) console.error(`answered in ANALYSIS.md, but not found any more: ${f}`);
  if (open.length + stale.length > 0) process.exitCode = 1;
  else console.log(`${found.size} findings, each answered in ANALYSIS.md`);
}

try {
  main();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
