// Verifies deliveries with the official Standard Webhooks library of npm. Reads {secret, headers, body} as JSON lines (the
// body in base64) and answers each with a line: "ok", or what the library says.
//
//     node verify.mjs NODE_MODULES < deliveries

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import path from "node:path";

const require = createRequire(path.join(path.resolve(process.argv[2]), "verify.cjs"));
const { Webhook } = require("standardwebhooks");

for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    new Webhook(secret).verify(Buffer.from(body, "base64").toString("utf8"), headers);
    console.log("ok");
  } catch (error) {
    console.log(`refused: ${error.message}`);
  }
}
