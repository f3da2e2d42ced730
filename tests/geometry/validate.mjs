// Prints the Khronos validator's issues of the given .glb files as JSON, one line a file.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const validator = createRequire(process.argv[2] + "/")("gltf-validator");
for (const path of process.argv.slice(3)) {
  const report = await validator.validateBytes(new Uint8Array(readFileSync(path)));
  console.log(JSON.stringify(report.issues));
}
