// The codec of second_hub.mjs, written from docs/protocol.md sections 1 to 4 alone.
import crypto from 'node:crypto'
import fs from 'node:fs'

export class Problem extends Error {
    constructor(status, code, detail = code, extra = {}) {
        super(`${status} ${code}: ${detail}`)
        Object.assign(this, { status, code, detail, extra })
    }
    json(link) {
        const { retryAfter, ...rest } = this.extra
        return JSON.stringify({
            type: `https://hubspoke.invalid/problems/${this.code}`,
            title: this.code,
            status: this.status,
            code: this.code,
            detail: this.detail,
            now: now(),
            ...rest,
            ...(link && retryAfter ? { retryAfterS: retryAfter } : {}),
        })
    }
}
export const malformed = (d) => new Problem(400, 'malformed', d)
export const badSig = () => new Problem(401, 'bad_signature', 'no valid signature by a known key')
export const now = () => Math.floor(Date.now() / 1000)
export const MAX = 1048576
export const b64u = (b) => Buffer.from(b).toString('base64url')
export function unb64u(s) {
    if (typeof s !== 'string' || !/^[A-Za-z0-9_-]*$/.test(s)) throw malformed('base64url')
    const b = Buffer.from(s, 'base64url')
    if (b.toString('base64url') !== s) throw malformed('base64url spelling')
    return b
}
export const ID = /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/
export const UUID7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
let lastMs = 0,
    ctr = 0
export function uuid7(ms = null) {
    // ordered within this process
    let t = ms ?? Math.max(Date.now(), lastMs)
    if (ms == null) {
        if (t === lastMs) {
            if (++ctr > 0xfff) {
                t++
                ctr = 0
            }
        } else ctr = 0
        lastMs = t
    }
    const r = crypto.randomBytes(10)
    const h = t.toString(16).padStart(12, '0')
    const a = (0x7000 | (ms == null ? ctr : r.readUInt16BE(0) & 0xfff)).toString(16)
    r[2] = (r[2] & 0x3f) | 0x80
    const x = r.subarray(2).toString('hex')
    return `${h.slice(0, 8)}-${h.slice(8)}-${a}-${x.slice(0, 4)}-${x.slice(4, 16)}`
}

// ---- keys
const BAD = new Set(
    `0000000000000000000000000000000000000000000000000000000000000000 0000000000000000000000000000000000000000000000000000000000000080
edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
0100000000000000000000000000000000000000000000000000000000000000 0100000000000000000000000000000000000000000000000000000000000080
eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa
26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05 26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85`.split(
        /\s+/,
    ),
)
const P = (1n << 255n) - 19n
export function pubJwk(j) {
    // returns the bare public JWK or throws malformed
    if (!isObj(j) || j.kty !== 'OKP' || j.crv !== 'Ed25519' || typeof j.x !== 'string' || 'd' in j)
        throw malformed('not a public Ed25519 JWK')
    const b = unb64u(j.x)
    if (b.length !== 32) throw malformed('x')
    const hex = b.toString('hex')
    if (BAD.has(hex)) throw malformed('refused key')
    // GUESS: "whose number" = the 255 low bits (y); with the sign bit counted every second key would be refused
    const y = BigInt('0x' + Buffer.from(b).reverse().toString('hex')) & ((1n << 255n) - 1n)
    if (y >= P) throw malformed('refused key')
    return { kty: 'OKP', crv: 'Ed25519', x: j.x }
}
export const kidOf = (j) =>
    crypto.createHash('sha256').update(`{"crv":"Ed25519","kty":"OKP","x":"${j.x}"}`).digest('base64url')
export const newKey = () => crypto.generateKeyPairSync('ed25519').privateKey.export({ format: 'jwk' })
export const pubOf = (k) => ({ kty: 'OKP', crv: 'Ed25519', x: k.x })
export const rawSign = (k, text) =>
    crypto.sign(null, Buffer.from(text), crypto.createPrivateKey({ key: k, format: 'jwk' }))
export function rawVerify(j, text, sig) {
    if (sig.length !== 64) return false
    try {
        return crypto.verify(null, Buffer.from(text), crypto.createPublicKey({ key: j, format: 'jwk' }), sig)
    } catch {
        return false
    }
}
export function seal(key, typ, iss, aud, members, over = {}) {
    const iat = now()
    const payload = { v: 1, iss, aud, jti: uuid7(), iat, exp: iat + 60, ...members, ...over.claims }
    const header = { alg: 'Ed25519', kid: kidOf(key), typ, ...over.header }
    const input = b64u(JSON.stringify(header)) + '.' + b64u(over.raw ?? JSON.stringify(payload))
    return { text: input + '.' + b64u(rawSign(key, input)), payload }
}

// ---- JSON as section 2.2 wants it; integers are kept apart from 5.0 by the class Flt
export class Flt {
    constructor(v) {
        this.v = v
    }
    valueOf() {
        return this.v
    }
    toJSON() {
        return this.v
    }
}
export const isObj = (v) => v !== null && typeof v === 'object' && !Array.isArray(v) && !(v instanceof Flt)
export function parseStrict(buf) {
    let s
    try {
        s = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(buf)
    } catch {
        throw malformed('not UTF-8')
    }
    let i = 0
    const ws = () => {
        while (i < s.length && ' \t\n\r'.includes(s[i])) i++
    }
    const str = () => {
        const m = /"((?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)"/y
        m.lastIndex = i
        const r = m.exec(s)
        if (!r) throw malformed('string')
        i = m.lastIndex
        const v = JSON.parse(r[0])
        if (!v.isWellFormed()) throw malformed('lone surrogate')
        return v
    }
    const val = (d) => {
        ws()
        const c = s[i]
        if (c === '{' || c === '[') {
            if (d > 32) throw malformed('too deep') // GUESS: the payload object itself is the first of the 32
            i++
            const o = c === '{' ? Object.create(null) : []
            const end = c === '{' ? '}' : ']'
            ws()
            if (s[i] === end) {
                i++
                return c === '{' ? { ...o } : o
            }
            for (;;) {
                if (c === '{') {
                    ws()
                    const k = str()
                    if (k in o) throw malformed('member twice')
                    ws()
                    if (s[i++] !== ':') throw malformed('colon')
                    o[k] = val(d + 1)
                } else o.push(val(d + 1))
                ws()
                const e = s[i++]
                if (e === end) break
                if (e !== ',') throw malformed('comma')
            }
            return c === '{' ? Object.fromEntries(Object.entries(o)) : o
        }
        if (c === '"') return str()
        for (const [w, v] of [
            ['true', true],
            ['false', false],
            ['null', null],
        ])
            if (s.startsWith(w, i)) {
                i += w.length
                return v
            }
        const m = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y
        m.lastIndex = i
        const r = m.exec(s)
        if (!r) throw malformed('value')
        i = m.lastIndex
        const n = Number(r[0])
        if (!Number.isFinite(n)) throw malformed('number')
        if (r[1] || r[2]) return new Flt(n) // GUESS: 1e3 is no integer either
        if (!Number.isSafeInteger(n)) throw malformed('integer')
        return n
    }
    const v = val(1)
    ws()
    if (i !== s.length) throw malformed('trailing')
    return v
}

// ---- envelopes
const TYPS = {
    'command+jwt': ['commands'],
    'reply+jwt': ['re', 'results'],
    'event+jwt': ['events'],
    'hello+jwt': ['nonce', 'challenge?', 'capacity?', 'labels?'],
    'identity+jwt': ['identity'],
    'join+jwt': ['identity', 'invite?', 'mac?'],
    'rotate+jwt': ['next', 'epoch', 'proof'],
}
export function only(o, names, what = 'object') {
    if (!isObj(o)) throw malformed(what + ' is no object')
    for (const n of names) if (!n.endsWith('?') && !(n in o)) throw malformed(`${what}: no ${n}`)
    const all = new Set(names.map((n) => n.replace('?', '')))
    for (const k in o) if (!all.has(k)) throw malformed(`${what}: unknown ${k}`)
}
export const int = (v, lo, hi, what) => {
    if (!Number.isInteger(v) || v < lo || v > hi) throw malformed(what)
    return v
}
export const text = (v, lo, hi, what, re) => {
    if (typeof v !== 'string' || [...v].length < lo || [...v].length > hi || (re && !re.test(v))) throw malformed(what)
    return v
}
const S53 = Number.MAX_SAFE_INTEGER

/** Every check of section 4 up to the window. keys(kid) -> {iss, jwk, state} of a registered key, or undefined. */
export function open(raw, { self, keys, types, skew = 60, own = false, conn = (p) => p.state === 'active' }) {
    const body = Buffer.isBuffer(raw) ? raw : Buffer.from(raw)
    if (body.length > MAX) throw new Problem(413, 'too_large')
    const parts = body.toString('latin1').split('.')
    if (parts.length !== 3) throw malformed('not three parts')
    if (!parts[0] || !parts[1]) throw malformed('empty part')
    const hb = unb64u(parts[0]),
        pb = unb64u(parts[1]),
        sig = unb64u(parts[2])
    const h = parseStrict(hb)
    if (!isObj(h)) throw malformed('header')
    for (const k in h) if (!['alg', 'kid', 'typ'].includes(k)) throw malformed('header member ' + k)
    if (h.alg !== 'Ed25519') throw badSig()
    if (typeof h.kid !== 'string' || typeof h.typ !== 'string' || !(h.typ in TYPS)) throw malformed('header')
    let who, p
    const input = parts[0] + '.' + parts[1]
    if (own) {
        // IDENTITY, JOIN: the first key that it brings
        p = checkPayload(parseStrict(pb), h.typ)
        const jwk = pubJwk(p.identity.keys[0])
        if (kidOf(jwk) !== h.kid || !rawVerify(jwk, input, sig)) throw badSig()
        if (p.identity.instance !== p.iss) throw badSig()
        who = { iss: p.iss, jwk, state: 'active' }
    } else {
        who = keys(h.kid)
        if (!who || !rawVerify(who.jwk, input, sig)) throw badSig()
        p = checkPayload(parseStrict(pb), h.typ)
        if (who.iss !== p.iss) throw badSig()
    }
    if (p.aud !== (h.typ === 'identity+jwt' ? 'any' : self)) throw new Problem(403, 'wrong_audience')
    if (!conn(who)) throw new Problem(403, 'connection_inactive')
    if (!types.includes(h.typ)) throw new Problem(403, 'wrong_direction')
    const t = now()
    if (p.iat > t + skew) throw new Problem(403, 'not_yet_valid')
    if (p.exp <= t - skew) throw new Problem(403, 'expired')
    return { h, p, who, typ: h.typ }
}
function checkPayload(p, typ) {
    if (!isObj(p)) throw malformed('payload')
    only(p, ['v', 'iss', 'aud', 'jti', 'iat', 'exp', 'traceparent?', ...TYPS[typ]], 'payload')
    if (p.v !== 1) throw malformed('v')
    text(p.iss, 1, 63, 'iss', ID)
    text(p.aud, 1, 63, 'aud', ID)
    text(p.jti, 36, 36, 'jti', UUID7)
    int(p.iat, -S53, S53, 'iat')
    int(p.exp, -S53, S53, 'exp')
    if (p.exp - p.iat < 1 || p.exp - p.iat > 300) throw malformed('lifetime')
    if ('traceparent' in p) text(p.traceparent, 1, 1000, 'traceparent')
    const list = (l) => {
        if (!Array.isArray(l) || l.length < 1 || l.length > 1000) throw malformed('list')
        return l
    }
    if (typ === 'command+jwt') list(p.commands).forEach(checkCommand)
    if (typ === 'event+jwt')
        list(p.events).forEach((e) => {
            only(e, ['agent'], 'event')
            checkAgent(e.agent)
        })
    if (typ === 'reply+jwt') {
        text(p.re, 36, 36, 're', UUID7)
        list(p.results).forEach(checkResult)
    }
    if (typ === 'identity+jwt' || typ === 'join+jwt') {
        const d = p.identity
        only(d, ['instance', 'kind', 'url', 'keys', 'protocols'], 'identity')
        text(d.instance, 1, 63, 'instance', ID)
        if (!['hub', 'spoke'].includes(d.kind)) throw malformed('kind')
        if (d.url !== null && typeof d.url !== 'string') throw malformed('url')
        if (!Array.isArray(d.keys) || d.keys.length < 1 || d.keys.length > 8) throw malformed('keys')
        d.keys.forEach(pubJwk)
        if (
            !Array.isArray(d.protocols) ||
            d.protocols.length < 1 ||
            d.protocols.length > 16 ||
            !d.protocols.includes(1) ||
            !d.protocols.every(Number.isInteger)
        )
            throw malformed('protocols')
        if ('invite' in p !== 'mac' in p) throw malformed('invite and mac')
        if ('invite' in p) {
            text(p.invite, 36, 36, 'invite', UUID7)
            unb64u(p.mac)
        }
    }
    if (typ === 'rotate+jwt') {
        int(p.epoch, -S53, S53, 'epoch')
        if (typeof p.proof !== 'string') throw malformed('proof')
        if (!isObj(p.next)) throw malformed('next')
    }
    if (typ === 'hello+jwt') {
        if (unb64u(p.nonce).length !== 32) throw malformed('nonce')
        if ('challenge' in p && unb64u(p.challenge).length !== 32) throw malformed('challenge')
    }
    return p
}
const CMD = {
    spawn: ['taskId', 'agentType', 'context', 'priority?', 'timeoutS?', 'maxAttempts?'],
    status: ['agentId'],
    kill: ['agentId', 'graceS?', 'reason?'],
    logs: ['agentId', 'offset?', 'limit?'],
    diff: ['agentId', 'offset?', 'limit?'],
    send: ['agentId', 'text'],
    resume: ['agentId', 'text?'],
    freeze: ['killAgents?', 'reason?'],
    thaw: [],
}
export function checkCommand(c) {
    if (!isObj(c) || typeof c.command !== 'string' || !Object.hasOwn(CMD, c.command)) throw malformed('command')
    only(c, ['id', 'command', ...CMD[c.command]], c.command)
    text(c.id, 36, 36, 'id', UUID7)
    if ('agentId' in c) text(c.agentId, 36, 36, 'agentId', UUID7) // GUESS: any UUIDv7
    if (c.command === 'spawn') {
        text(c.taskId, 1, 128, 'taskId', /^[A-Za-z0-9._:/-]+$/)
        if (!['worker', 'reviewer', 'tester'].includes(c.agentType)) throw malformed('agentType')
        const x = c.context
        only(x, ['repository', 'branch', 'workItems', 'skills?'], 'context')
        text(x.repository, 1, 2048, 'repository')
        text(x.branch, 1, 255, 'branch')
        if (Buffer.byteLength(x.branch) > 255) throw malformed('branch')
        if (!Array.isArray(x.workItems) || x.workItems.length < 1 || x.workItems.length > 100)
            throw malformed('workItems')
        x.workItems.forEach((w) => text(w, 1, 10000, 'workItem'))
        if ('skills' in x) {
            if (!Array.isArray(x.skills) || x.skills.length > 50) throw malformed('skills')
            x.skills.forEach((k) => text(k, 1, 64, 'skill', /^[a-z0-9][a-z0-9-]{0,63}$/))
        }
        for (const [n, hi] of [
            ['priority', 10],
            ['timeoutS', 86400],
            ['maxAttempts', 10],
        ])
            if (n in c) int(c[n], 1, hi, n)
    }
    if ('graceS' in c) int(c.graceS, 0, 300, 'graceS')
    if ('reason' in c) text(c.reason, 0, 1000, 'reason')
    if ('offset' in c) int(c.offset, 0, S53, 'offset')
    if ('limit' in c) int(c.limit, 1, 262144, 'limit')
    if ('text' in c) text(c.text, 1, 10000, 'text')
    if ('killAgents' in c && typeof c.killAgents !== 'boolean') throw malformed('killAgents')
}
export function checkAgent(a) {
    if (!isObj(a)) throw malformed('agent')
    for (const n of ['agentId', 'taskId', 'agentType', 'status'])
        if (typeof a[n] !== 'string') throw malformed('agent.' + n)
    if (!UUID7.test(a.agentId)) throw malformed('agentId')
    int(a.seq, 1, S53, 'seq')
    int(a.attempt, 0, S53, 'attempt')
    const T = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
    text(a.queuedAt, 24, 24, 'queuedAt', T)
    for (const n of ['startedAt', 'finishedAt', 'reason', 'exitCode', 'signal', 'result', 'queue', 'receipt'])
        if (!(n in a)) throw malformed('agent lacks ' + n)
    for (const n of ['startedAt', 'finishedAt']) if (a[n] !== null) text(a[n], 24, 24, n, T)
    if (a.exitCode !== null) int(a.exitCode, -S53, S53, 'exitCode')
    if (a.result !== null) {
        if (!isObj(a.result)) throw malformed('result')
        for (const n of ['summary', 'data', 'commits', 'branch', 'diffStat', 'usage', 'preservedRef', 'logBytes'])
            if (!(n in a.result)) throw malformed('result lacks ' + n)
    }
    for (const n of ['priority', 'timeoutS', 'maxAttempts']) int(a.granted?.[n], 1, S53, 'granted.' + n)
}
export function checkResult(r) {
    if (!isObj(r) || typeof r.id !== 'string') throw malformed('result')
    if ('error' in r) {
        only(r, ['id', 'error'], 'result')
        only(r.error, ['code', 'detail', 'retryable'], 'error')
        if (typeof r.error.retryable !== 'boolean') throw malformed('retryable')
        return
    }
    const kinds = [['agent'], ['log'], ['diff'], ['connection'], ['seq'], ['epoch']]
    const k = kinds.find(([n]) => n in r)
    if (!k) throw malformed('result of no kind ' + JSON.stringify(r))
    only(r, ['id', ...k], 'result')
    if (r.agent) checkAgent(r.agent)
    const l = r.log ?? r.diff
    if (l) {
        only(l, ['offset', 'data', 'nextOffset', 'eof'], 'log')
    }
}

// ---- a store: one JSON file, written in one step
export class Store {
    constructor(file, init) {
        this.file = file
        this.d = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file)) : init()
        this.save()
    }
    save() {
        const t = this.file + '.tmp'
        const fd = fs.openSync(t, 'w', 0o600)
        fs.writeSync(fd, JSON.stringify(this.d))
        fs.fsyncSync(fd)
        fs.closeSync(fd)
        fs.renameSync(t, this.file)
    }
    seen(iss, jti, exp, skew = 60) {
        // throws replayed; caller saves
        const s = (this.d.seen ??= {})
        const t = now()
        for (const k in s) if (s[k] < t) delete s[k]
        const k = iss + ' ' + jti
        if (k in s) throw new Problem(409, 'replayed')
        s[k] = exp + skew + 5
    }
}
export const rotateText = (o, n, e, aud) => `hubspoke-rotate-v1.${o}.${n}.${e}.${aud}`
/** The table of section 7; peer = {id, keys:[{jwk, until?}], epoch}. Changes peer, returns the one result. */
export function takeRotate({ h, p }, peer, self, takenByOther, overlapS = 86400) {
    const next = pubJwk(p.next),
        nk = kidOf(next),
        err = (code, d, r = false) => ({ id: nk, error: { code, detail: d, retryable: r } })
    let proof
    try {
        proof = unb64u(p.proof)
    } catch {
        throw malformed('proof')
    }
    if (!rawVerify(next, rotateText(h.kid, nk, p.epoch, self), proof)) throw badSig()
    const cur = kidOf(peer.keys[0].jwk)
    if (nk === cur && p.epoch >= (peer.epoch ?? 0)) {
        peer.epoch = p.epoch
        return { id: nk, epoch: p.epoch }
    }
    if (h.kid !== cur) return err('not_allowed', 'not the current key')
    if (p.epoch <= (peer.epoch ?? 0)) return err('stale', 'epoch')
    if (peer.keys.some((k) => kidOf(k.jwk) === nk) || peer.past?.includes(nk))
        return err('not_allowed', 'was a key before')
    if (takenByOther(nk)) return err('conflict', 'key of another')
    peer.keys = [{ jwk: next }, ...peer.keys.map((k, i) => (i ? k : { ...k, until: now() + overlapS }))]
    peer.past = [...(peer.past ?? []), cur]
    peer.epoch = p.epoch
    return { id: nk, epoch: p.epoch }
}
export const liveKey = (peer, kid) => peer.keys.find((k) => kidOf(k.jwk) === kid && (!k.until || k.until > now()))
