// Compiles src/ and test/ into artifacts/. `--check` compiles and fails if the artifacts checked in differ.
// `--build-info DIR` writes the compiler's input and output into DIR instead, as analysers read it.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const root = dirname(fileURLToPath(import.meta.url));

// What is built: the contracts that are deployed, and the hostile ones that tests deploy beside them.
const wanted = {
  src: ["Centralizer", "IPSX", "TokenSale"],
  test: ["ContractWallet", "HostileToken", "SaleAttacker"],
};

const settings = {
  optimizer: { enabled: true, runs: 10_000 },
  viaIR: true,
  // The oldest rules the contracts need: transient storage.
  evmVersion: "cancun",
  // Without the metadata hash, a changed comment does not change the bytecode.
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
};

// 2394: transient storage may break composability. It is used by the re-entrancy guard alone, which clears it.
const accepted = new Set(["2394"]);

function sources() {
  const found = {};
  for (const folder of Object.keys(wanted)) {
    for (const name of readdirSync(join(root, folder)).filter((n) => n.endsWith(".sol")).sort()) {
      found[`${folder}/${name}`] = { content: readFileSync(join(root, folder, name), "utf8") };
    }
  }
  return found;
}

function resolveImport(path) {
  for (const base of [root, join(root, "node_modules")]) {
    try {
      return { contents: readFileSync(join(base, path), "utf8") };
    } catch (error) {
      if (error.code !== "ENOENT") return { error: error.message };
    }
  }
  return { error: `${path} is neither here nor in node_modules: run \`npm ci --ignore-scripts\`` };
}

function compile(outputSelection = settings.outputSelection) {
  const input = { language: "Solidity", sources: sources(), settings: { ...settings, outputSelection } };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: resolveImport }));
  const problems = (output.errors ?? []).filter((e) => e.severity !== "info" && !accepted.has(e.errorCode));
  if (problems.length > 0) {
    throw new Error(problems.map((e) => e.formattedMessage).join("\n"));
  }
  return { input, output };
}

function artifacts() {
  const { contracts } = compile().output;
  const compiler = solc.version();
  const settingsHash = createHash("sha256").update(JSON.stringify([compiler, settings])).digest("hex");
  const files = new Map();
  for (const [folder, names] of Object.entries(wanted)) {
    for (const name of names) {
      const built = contracts[`${folder}/${name}.sol`][name];
      const artifact = {
        contract: name,
        compiler,
        settingsHash,
        abi: built.abi,
        bytecode: `0x${built.evm.bytecode.object}`,
        deployedBytecode: `0x${built.evm.deployedBytecode.object}`,
      };
      const path = folder === "src" ? `artifacts/${name}.json` : `artifacts/${folder}/${name}.json`;
      files.set(path, `${JSON.stringify(artifact, null, 2)}\n`);
    }
  }
  return files;
}

function writeBuildInfo(directory) {
  const everything = { "*": { "": ["ast"], "*": ["abi", "evm.bytecode", "evm.deployedBytecode", "devdoc", "userdoc"] } };
  const info = { solcVersion: solc.version().split("+")[0], ...compile(everything) };
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "contracts.json"), JSON.stringify(info));
}

function readOrNull(path) {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return null;
    throw error;
  }
}

function main() {
  const info = process.argv.indexOf("--build-info");
  if (info !== -1) return writeBuildInfo(process.argv[info + 1]);
  const check = process.argv.includes("--check");
  const different = [];
  for (const [path, content] of artifacts()) {
    const target = join(root, path);
    if (!check) {
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, content);
    } else if (readOrNull(target) !== content) {
      different.push(path);
    }
  }
  if (different.length > 0) {
    throw new Error(`not what the sources compile to: ${different.join(", ")}. Run \`node build.mjs\` and commit.`);
  }
}

try {
  main();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
