// A small spoke without a URL, written from the protocol page and docs/link.md with npm's jose and the WebSocket that
// Node brings: it joins by an invite, dials the hub, runs "agents" that echo their work items, and prints what it sees
// as JSON lines. A real spoke also bounds what it reads, remembers each `jti` and command, and dials again.
// Usage: node link_spoke.mjs, the invite in the first line of stdin; ends with stdin.
import { CompactSign, calculateJwkThumbprint, compactVerify, decodeJwt, exportJWK, generateKeyPair, importJWK } from "jose";
import { createHmac, randomBytes } from "node:crypto";
import { createInterface } from "node:readline/promises";

const SPOKE = "spoke-node", JOSE = { "Content-Type": "application/jose" };
const print = (seen) => console.log(JSON.stringify(seen));
const check = (good, code) => { if (!good) throw new Error(code); };
const now = () => Math.floor(Date.now() / 1000);
const uuid7 = (bytes = randomBytes(16)) => {
  bytes.writeUIntBE(Date.now(), 0, 6);
  [bytes[6], bytes[8]] = [0x70 | (bytes[6] & 0x0f), 0x80 | (bytes[8] & 0x3f)];
  return bytes.toString("hex").replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
};
const lines = createInterface({ input: process.stdin }).on("close", () => process.exit(0));
const invite = JSON.parse(Buffer.from((await lines[Symbol.asyncIterator]().next()).value.split(".")[1], "base64url"));
const { publicKey, privateKey } = await generateKeyPair("Ed25519");
const jwk = await exportJWK(publicKey), kid = await calculateJwkThumbprint(jwk);
let hubKey;

function seal(typ, body) {
  const claims = { v: 1, iss: SPOKE, aud: invite.hub, jti: uuid7(), iat: now(), exp: now() + 60 };
  const payload = Buffer.from(JSON.stringify({ ...claims, ...body }));
  return new CompactSign(payload).setProtectedHeader({ alg: "Ed25519", kid, typ }).sign(privateKey);
}
async function open(envelope, aud = SPOKE) { // every envelope of the hub: signature, then audience and window
  const { payload, protectedHeader } = await compactVerify(envelope, await importJWK(hubKey, "Ed25519"), { algorithms: ["Ed25519"] });
  const claims = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
  check(claims.iss === invite.hub && claims.aud === aud && claims.exp > now() - 60, "not for me");
  return { ...claims, typ: protectedHeader.typ };
}
const identity = await (await fetch(`${invite.url}/federation/v1/identity`)).text();
[hubKey] = decodeJwt(identity).identity.keys;
check(`SHA256:${await calculateJwkThumbprint(hubKey)}` === invite.fingerprint, "another hub");
await open(identity, "any");
const mac = createHmac("sha256", Buffer.from(invite.secret, "base64url")).update(`${kid}.${invite.hub}`).digest("base64url");
const about = { instance: SPOKE, kind: "spoke", url: null, keys: [jwk], protocols: [1] };
const join = { method: "POST", headers: JOSE, body: await seal("join+jwt", { identity: about, invite: invite.invite, mac }) };
const joined = await open(await (await fetch(`${invite.url}/federation/v1/join`, join)).text());
check(joined.results[0].connection === "active", "not active");

const agents = new Map(), unanswered = [];
const link = new WebSocket(`${invite.url.replace(/^http/, "ws")}/federation/v1/link`, "federation.v1");
const statusOf = ({ agentId, taskId, agentType, status, seq }) => ({ agentId, taskId, agentType, status, seq, attempt: 1,
  queuedAt: null, startedAt: null, finishedAt: null, reason: status === "killed" ? "killed_by_peer" : null, exitCode: null,
  signal: null, result: null, granted: null, queue: null, receipt: null });
async function advance(agent, status) { // an EVENT; its answer is the next one that comes
  Object.assign(agent, { status, seq: agent.seq + 1 });
  unanswered.push(agent.agentId);
  link.send(await seal("event+jwt", { events: [{ agent: statusOf(agent) }] }));
}
function act({ id, command, agentId = id, ...fields }, after) {
  if (command === "spawn" && !agents.has(id)) {
    agents.set(id, { agentId, ...fields, status: "queued", seq: 1 });
    after.push(() => advance(agents.get(id), fields.context.workItems[0] === "stay" ? "running" : "completed"));
  }
  const agent = agents.get(agentId);
  if (!agent) return { id, error: { code: "not_found", detail: "no such agent", retryable: false } };
  if (command === "kill") after.push(() => advance(agent, "killed"));
  const data = agent.context.workItems.join("\n"), size = Buffer.byteLength(data);
  return command === "logs" ? { id, log: { offset: 0, data, nextOffset: size, eof: true } } : { id, agent: statusOf(agent) };
}
async function take(text, nonce) {
  if (text.startsWith("{\"challenge\"")) {
    const capacity = { agents: 2, running: 0, queued: 0 };
    return link.send(await seal("hello+jwt", { nonce: JSON.parse(text).challenge, challenge: nonce, capacity, labels: { runtime: "node" } }));
  }
  if (text.startsWith("{")) return print({ problem: JSON.parse(text).code, to: unanswered.shift() });
  const envelope = await open(text), { typ, results, commands } = envelope, after = [];
  if (typ === "hello+jwt") return check(envelope.nonce === nonce, "replayed"), print({ up: true, extensions: link.extensions });
  if (typ === "reply+jwt") return print({ acknowledged: unanswered.shift() === results[0].id, ...results[0] });
  for (const { command } of commands) print({ command });
  link.send(await seal("reply+jwt", { re: envelope.jti, results: commands.map((command) => act(command, after)) }));
  for (const step of after) await step();
}
const nonce = randomBytes(32).toString("base64url");
let turn = Promise.resolve(); // one message after the other
link.onmessage = ({ data }) => { turn = turn.then(() => take(data, nonce)).catch((error) => print({ error: error.message })); };
link.onclose = ({ code, reason }) => print({ closed: code, reason });
