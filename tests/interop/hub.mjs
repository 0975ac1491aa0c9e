// A small hub, written from the protocol page alone with npm's jose: it invites one spoke, lets one agent run to its
// end, kills another, and prints what it sees as JSON lines, the invite first. A real hub also bounds the bodies it
// reads, remembers each `jti`, and keeps what it did over a restart.
// Usage: node hub.mjs REPOSITORY BRANCH ITEMS ITEMS, the work items of the two agents as JSON arrays; ends with stdin.
import { CompactSign, compactVerify, decodeJwt } from "jose";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, importJWK } from "jose";
import { createHmac, randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";

const HUB = "hub-node", JOSE = { "Content-Type": "application/jose" }, TERMINAL = ["completed", "failed", "killed"];
const print = (seen) => console.log(JSON.stringify(seen));
const check = (good, code) => { if (!good) throw new Error(code); };
const now = () => Math.floor(Date.now() / 1000);
const uuid7 = (bytes = randomBytes(16)) => {
  bytes.writeUIntBE(Date.now(), 0, 6);
  [bytes[6], bytes[8]] = [0x70 | (bytes[6] & 0x0f), 0x80 | (bytes[8] & 0x3f)];
  return bytes.toString("hex").replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
};
const { publicKey, privateKey } = await generateKeyPair("Ed25519");
const jwk = await exportJWK(publicKey), kid = await calculateJwkThumbprint(jwk);
const secret = randomBytes(32), invite = uuid7(), joined = Promise.withResolvers(), newest = {};

function seal(typ, aud, body) {
  const claims = { v: 1, iss: HUB, aud, jti: uuid7(), iat: now(), exp: now() + 60 };
  const payload = Buffer.from(JSON.stringify({ ...claims, ...body }));
  return new CompactSign(payload).setProtectedHeader({ alg: "Ed25519", kid, typ }).sign(privateKey);
}
async function open(envelope, typ, { instance, keys: [key] }) { // signature first, then what section 2 says of claims
  const options = { algorithms: ["Ed25519"] };
  const { payload, protectedHeader } = await compactVerify(envelope, await importJWK(key, "Ed25519"), options);
  const claims = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
  check(protectedHeader.kid === (await calculateJwkThumbprint(key)) && claims.iss === instance, "bad_signature");
  check(protectedHeader.typ === typ, "wrong_direction");
  check(claims.v === 1 && claims.exp > claims.iat && claims.exp - claims.iat <= 300, "malformed");
  check(claims.aud === HUB, "wrong_audience");
  check(claims.iat <= now() + 60 && claims.exp > now() - 60, "expired");
  return { ...claims, kid: protectedHeader.kid };
}
const routes = {
  "GET /federation/v1/identity": () =>
    seal("identity+jwt", "any", { identity: { instance: HUB, kind: "hub", url, keys: [jwk], protocols: [1] } }),
  async "POST /federation/v1/join"(body) { // the sender holds its key, and knows the secret of the invite
    const { identity } = decodeJwt(body), join = await open(body, "join+jwt", identity);
    const mac = createHmac("sha256", secret).update(`${join.kid}.${HUB}`).digest("base64url");
    check(join.invite === invite && join.mac === mac, "invite_refused");
    joined.resolve(identity);
    return seal("reply+jwt", join.iss, { re: join.jti, results: [{ id: join.iss, connection: "active" }] });
  },
  async "POST /federation/v1/envelopes"(body) { // events, each acknowledged with its seq
    const { iss, jti, kid, events } = await open(body, "event+jwt", await joined.promise);
    const results = events.map(({ agent: { agentId, seq } }) => ({ id: agentId, seq }));
    for (const { id, seq } of results) newest[id] = Math.max(newest[id] ?? 0, seq);
    for (const { agent } of events) print({ event: agent, kid });
    return seal("reply+jwt", iss, { re: jti, results });
  },
};
const server = createServer(async (request, response) => {
  try {
    const answer = await routes[`${request.method} ${request.url}`](await text(request));
    response.writeHead(200, JOSE).end(answer);
  } catch (error) {
    print({ refused: request.url, error: error.code ?? error.message });
    response.writeHead(400, { "Content-Type": "application/problem+json" }).end('{"status":400,"code":"malformed"}');
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const url = `http://127.0.0.1:${server.address().port}`;
const base64url = (bytes) => Buffer.from(bytes).toString("base64url");
const inside = { hub: HUB, url, fingerprint: `SHA256:${kid}`, invite, secret: base64url(secret), exp: now() + 3600 };
print({ invite: `hubspoke1.${base64url(JSON.stringify(inside))}`, url });
const spoke = await joined.promise;

async function send(command) { // until it is answered: the same command again, in a fresh envelope
  const body = await seal("command+jwt", spoke.instance, { commands: [command] });
  const response = await fetch(`${spoke.url}/federation/v1/envelopes`, { method: "POST", headers: JOSE, body });
  if (response.status !== 200) return print({ rejected: await response.json() }), await pause(200), send(command);
  const { re, kid, results: [result] } = await open(await response.text(), "reply+jwt", spoke);
  check(re === decodeJwt(body).jti && result.id === command.id, "bad_reply");
  print({ command: command.command, result, kid });
  return result;
}
const ask = (command, fields) => send({ id: uuid7(), command, ...fields });
async function spawn(items) {
  const [repository, branch] = process.argv.slice(2), context = { repository, branch, workItems: JSON.parse(items) };
  return (await ask("spawn", { taskId: "T-42", agentType: "worker", context })).id;
}
async function until(agentId, statuses) {
  const { agent } = await ask("status", { agentId });
  if (!statuses.includes(agent.status)) return await pause(100), until(agentId, statuses);
  while (TERMINAL.includes(agent.status) && newest[agentId] !== agent.seq) await pause(20); // the EVENT of its end
}
const short = await spawn(process.argv[4]);
await until(short, TERMINAL);
await ask("logs", { agentId: short });
const long = await spawn(process.argv[5]);
await until(long, ["running"]);
await ask("kill", { agentId: long, graceS: 5, reason: "seen enough" });
await until(long, TERMINAL);
print({ done: true });
process.stdin.on("end", () => process.exit(0)).resume();
