// Signs, verifies and names keys with npm's jose. One JSON array of jobs comes on stdin, their answers leave on stdout.
import { CompactSign, calculateJwkThumbprint, compactVerify, importJWK } from "jose";
import { text } from "node:stream/consumers";

const jobs = {
  async sign({ jwk, header, payload }) {
    const key = await importJWK(jwk, header.alg);
    return new CompactSign(Buffer.from(payload, "base64")).setProtectedHeader(header).sign(key);
  },
  async verify({ jwk, jws }) {
    const key = await importJWK(jwk, "Ed25519");
    const { protectedHeader, payload } = await compactVerify(jws, key, { algorithms: ["Ed25519"] });
    return { header: protectedHeader, payload: Buffer.from(payload).toString("base64") };
  },
  async thumbprint({ jwk }) {
    return calculateJwkThumbprint(jwk);
  },
};

async function answer({ job, ...given }) {
  try {
    return { value: await jobs[job](given) };
  } catch (error) {
    return { error: error.code ?? String(error) };
  }
}

const asked = JSON.parse(await text(process.stdin));
process.stdout.write(JSON.stringify(await Promise.all(asked.map(answer))));
