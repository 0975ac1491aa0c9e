// A hub in Node, POST only, by somebody who had read docs/protocol.md and nothing else of this project. usage: node second_hub.mjs DIR PORT [--spoke-dir DIR --repo file://... ]
// Prints an invite, waits until a spoke has joined and listens, then runs the scenario and prints a line per check.
import http from 'node:http'
import fs from 'node:fs'
import crypto from 'node:crypto'
import zlib from 'node:zlib'
import { execFileSync } from 'node:child_process'
import * as F from './second_codec.mjs'
const [dir, port, ...rest] = process.argv.slice(2)
const opt = (n) => {
    const i = rest.indexOf('--' + n)
    return i < 0 ? undefined : rest[i + 1]
}
fs.mkdirSync(dir, { recursive: true })
const SELF = 'node-hub',
    URL_ = `http://127.0.0.1:${port}`
const st = new F.Store(dir + '/hub.json', () => ({ keys: [F.newKey()], peers: {}, invites: {}, agents: {}, epoch: 0 }))
const d = st.d
const key = () => d.keys[0]
const log = (...a) => console.log(new Date().toISOString().slice(11, 23), ...a)
const findKey = (kid) => {
    for (const p of Object.values(d.peers)) {
        const k = F.liveKey(p, kid)
        if (k) return { iss: p.id, jwk: k.jwk, state: p.state, peer: p }
    }
}
const sleep = (ms) => new Promise((r) => setTimeout(r, ms))

// ---------------------------------------------------------------- server
const drop = { events: 0, badreply: 0, lie: 0 }
const heard = []
function serve(req, body) {
    const path = req.url,
        reply = (o, results) => F.seal(key(), 'reply+jwt', SELF, o.p.iss, { re: o.p.jti, results }).text
    if (req.method === 'GET' && path === '/federation/v1/identity')
        return F.seal(key(), 'identity+jwt', SELF, 'any', {
            identity: { instance: SELF, kind: 'hub', url: URL_, keys: [F.pubOf(key())], protocols: [1] },
        }).text
    if (req.method !== 'POST' || !['/federation/v1/envelopes', '/federation/v1/join'].includes(path))
        throw new F.Problem(404, 'not_found')
    if (body.length > F.MAX) throw new F.Problem(413, 'too_large')
    if (
        req.headers['content-type']?.split(';')[0].trim().toLowerCase() !== 'application/jose' ||
        req.headers['content-encoding']
    )
        throw new F.Problem(415, 'unsupported_media_type')
    if (path.endsWith('join')) {
        const o = F.open(body, { self: SELF, own: true, types: ['join+jwt'] })
        const id = o.p.identity
        if (id.kind !== 'spoke') throw new F.Problem(403, 'wrong_direction')
        const inv = d.invites[o.p.invite]
        const mac =
            inv &&
            crypto
                .createHmac('sha256', F.unb64u(inv.secret))
                .update(o.h.kid + '.' + o.p.aud)
                .digest()
        if (
            !inv ||
            inv.exp < F.now() ||
            !crypto.timingSafeEqual(mac, Buffer.concat([F.unb64u(o.p.mac), Buffer.alloc(32)]).subarray(0, 32)) ||
            (inv.by && inv.by !== o.p.iss + ' ' + o.h.kid)
        )
            throw new F.Problem(403, 'invite_refused')
        const have = d.peers[o.p.iss]
        if (have && have.state !== 'revoked' && F.kidOf(have.keys[0].jwk) !== o.h.kid)
            throw new F.Problem(409, 'peer_refused')
        st.seen(o.p.iss, o.p.jti, o.p.exp)
        inv.by = o.p.iss + ' ' + o.h.kid
        d.peers[o.p.iss] ??= { id: o.p.iss, keys: [{ jwk: o.who.jwk }], url: id.url, state: 'active', epoch: 0 }
        st.save()
        log('joined', o.p.iss, id.url)
        return reply(o, [{ id: o.p.iss, connection: 'active' }])
    }
    const o = F.open(body, { self: SELF, keys: findKey, types: ['event+jwt', 'rotate+jwt'] })
    if (o.typ === 'event+jwt' && drop.events > 0) {
        drop.events--
        log('  (dropping an EVENT of', o.p.events.length, 'with 503)')
        throw new F.Problem(503, 'unavailable', 'no', { retryAfter: 4 })
    }
    st.seen(o.p.iss, o.p.jti, o.p.exp)
    let results
    if (o.typ === 'rotate+jwt') {
        results = [
            F.takeRotate(o, o.who.peer, SELF, (kid) =>
                Object.values(d.peers).some((p) => p.id !== o.p.iss && p.keys.some((k) => F.kidOf(k.jwk) === kid)),
            ),
        ]
        log('ROTATE', o.p.iss, JSON.stringify(results[0]))
    } else
        results = o.p.events.map(({ agent: a }) => {
            const own = d.agents[a.agentId]
            heard.push({ id: a.agentId, seq: a.seq, status: a.status, kid: o.h.kid, n: o.p.events.length })
            if (own?.spoke !== o.p.iss || drop.lie === a.agentId) {
                log('  EVENT not ours', a.agentId, a.status)
                return { id: a.agentId, error: { code: 'not_allowed', detail: 'not your agent', retryable: false } }
            }
            if (!own.status || a.seq > own.status.seq) own.status = a
            log(
                '  EVENT',
                a.agentId.slice(-6),
                a.seq,
                a.status,
                a.reason ?? '',
                a.receipt ? JSON.stringify(a.receipt) : '',
            )
            return { id: a.agentId, seq: a.seq }
        })
    st.save()
    if (drop.badreply > 0 && o.typ === 'event+jwt') {
        drop.badreply--
        log('  (answering an EVENT with a wrong re)')
        return F.seal(key(), 'reply+jwt', SELF, o.p.iss, { re: F.uuid7(), results }).text
    }
    return reply(o, results)
}
http.createServer((req, res) => {
    const chunks = []
    let n = 0
    const timer = setTimeout(() => send(new F.Problem(408, 'too_slow')), 10000)
    const send = (x) => {
        clearTimeout(timer)
        if (res.headersSent) return
        if (x instanceof F.Problem) {
            log('  refused', req.method, req.url, x.message)
            res.writeHead(x.status, {
                'Content-Type': 'application/problem+json',
                ...(x.extra.retryAfter ? { 'Retry-After': String(x.extra.retryAfter) } : {}),
            })
            res.end(x.json())
        } else {
            res.writeHead(200, { 'Content-Type': 'application/jose' })
            res.end(x)
        }
    }
    req.on('data', (c) => {
        n += c.length
        if (n <= F.MAX + 1) chunks.push(c)
        else send(new F.Problem(413, 'too_large'))
    })
    req.on('end', () => {
        try {
            send(serve(req, Buffer.concat(chunks)))
        } catch (e) {
            send(e instanceof F.Problem ? e : (log(e), new F.Problem(503, 'unavailable', 'x', { retryAfter: 1 })))
        }
    })
}).listen(+port, '127.0.0.1')

// ---------------------------------------------------------------- client
let peer
async function post(textOut, { type = 'application/jose', headers = {} } = {}) {
    const r = await fetch(peer.url.replace(/\/$/, '') + '/federation/v1/envelopes', {
        method: 'POST',
        redirect: 'manual',
        body: textOut,
        headers: { 'Content-Type': type, ...headers },
    })
    const ct = r.headers.get('content-type')
    const body = Buffer.from(await r.arrayBuffer())
    if (r.status !== 200)
        return { status: r.status, problem: JSON.parse(body), retryAfter: r.headers.get('retry-after'), ct }
    return { status: 200, body, ct }
}
/** sign, send, verify everything the document demands of a receiver; answers {status, results} or {status, problem}. */
async function ask(typ, members, { over = {}, k = key(), n, aud = peer.id, ...o } = {}) {
    const env = F.seal(k, typ, SELF, aud, members, over)
    const r = await post(env.text, o)
    r.env = env
    if (r.status !== 200) return r
    if (r.ct !== 'application/jose') log('  !! content type', r.ct)
    const a = F.open(r.body, { self: SELF, keys: findKey, types: ['reply+jwt'] })
    if (a.p.iss !== peer.id || a.p.re !== env.payload.jti || a.p.results.length !== (n ?? 1)) throw new Error('unknown')
    st.seen(a.p.iss, a.p.jti, a.p.exp)
    st.save()
    r.kid = a.h.kid
    r.reply = a.p
    return Object.assign(r, { results: a.p.results })
}
const cmds = (list, o = {}) => {
    for (const c of list) if (c.command === 'spawn') d.agents[c.id] ??= { spoke: peer.id }
    st.save()
    return ask('command+jwt', { commands: list }, { n: list.length, ...o })
}
const spawn = (type = 'worker', x = {}) => ({
    id: F.uuid7(),
    command: 'spawn',
    taskId: 'T-1',
    agentType: type,
    context: { repository: opt('repo'), branch: 'main', workItems: ['look around'] },
    ...x,
})
const C = (command, x) => ({ id: F.uuid7(), command, ...x })
const brief = (r) =>
    r.results
        ? r.results
              .map((x) =>
                  x.error
                      ? `${x.error.code}(${x.error.detail})`
                      : x.agent
                        ? `${x.agent.status}#${x.agent.seq}`
                        : JSON.stringify(x.log ?? x.diff ?? x.connection ?? x),
              )
              .join(' | ')
              .slice(0, 300)
        : `${r.status} ${r.problem.code} "${r.problem.detail}"${r.retryAfter ? ' Retry-After ' + r.retryAfter : ''}`
let bad = 0
const say = (name, want, r) => {
    const got = brief(r)
    const ok = want.test(got)
    if (!ok) bad++
    log(ok ? 'ok  ' : 'DIFF', name, '->', got, ok ? '' : ' wanted ' + want)
    return r
}
const until = async (f, s = 20) => {
    for (let i = 0; i < s * 10; i++) {
        if (f()) return true
        await sleep(100)
    }
    return false
}
const spoke = (...a) => {
    const r = execFileSync(process.env.SPOKE, ['--dir', opt('spoke-dir'), ...a], { encoding: 'utf8' })
    return r
}

async function scenario() {
    const idr = await fetch(peer.url + '/federation/v1/identity')
    const ido = F.open(Buffer.from(await idr.arrayBuffer()), { self: 'any', own: true, types: ['identity+jwt'] })
    log('IDENTITY', JSON.stringify(ido.p.identity), 'kid', ido.h.kid)
    const w = spawn('worker'),
        t = spawn('tester', { taskId: 'T-2', priority: 5 }),
        ghost = F.uuid7()
    drop.events = 1
    drop.badreply = 1
    say(
        'batch',
        /^queued#1 \| queued#1 \| queued#1 \| not_found.* \| .*offset.*\|/,
        await cmds([
            w,
            t,
            C('status', { agentId: w.id }),
            C('kill', { agentId: ghost }),
            C('logs', { agentId: w.id }),
            C('diff', { agentId: w.id }),
        ]),
    )
    say('same command ids again', /^\w+#\d \| \w+#\d/, await cmds([w, t]))
    say(
        'same id, defaults spelled out, other order',
        /^\w+#\d/,
        await cmds([
            {
                maxAttempts: 3,
                timeoutS: 3600,
                priority: 5,
                context: { skills: [], workItems: ['look around'], branch: 'main', repository: opt('repo') },
                agentType: 'worker',
                taskId: 'T-1',
                command: 'spawn',
                id: w.id,
            },
        ]),
    )
    say('same id, other content', /^conflict/, await cmds([{ ...w, taskId: 'T-other' }]))
    say('spawn after its kill', /^killed/, await cmds([{ ...spawn(), id: ghost }]))
    say('unknown agent', /^not_found/, await cmds([C('status', { agentId: F.uuid7() })]))
    say('status id = spawn id', /./, await cmds([{ id: w.id, command: 'status', agentId: w.id }]))
    const two = F.uuid7()
    say(
        'two commands with one id',
        /./,
        await cmds([
            { id: two, command: 'status', agentId: w.id },
            { id: two, command: 'status', agentId: t.id },
        ]),
    )
    const twin = spawn()
    say('one spawn twice in one envelope', /./, await cmds([twin, twin]))
    say('stale id', /^stale/, await cmds([{ ...spawn(), id: F.uuid7(Date.now() - 31 * 864e5) }]))
    say('id from the future', /./, await cmds([{ ...spawn(), id: F.uuid7(Date.now() + 864e5) }]))
    say(
        'refused repository',
        /^not_allowed/,
        await cmds([
            spawn('worker', {
                context: { repository: 'https://elsewhere.example/x.git', branch: 'main', workItems: ['x'] },
            }),
        ]),
    )
    say(
        'bad branch',
        /^invalid/,
        await cmds([spawn('worker', { context: { repository: opt('repo'), branch: 'a..b', workItems: ['x'] } })]),
    )
    say(
        'password',
        /^invalid|^not_allowed/,
        await cmds([
            spawn('worker', {
                context: { repository: 'https://u:p@h.example/x.git', branch: 'main', workItems: ['x'] },
            }),
        ]),
    )
    const n = F.now(),
        one = [C('status', { agentId: w.id })],
        sh = (name, want, o) => cmds(one, o).then((r) => say(name, want, r))
    await sh('expired', /403 expired/, { over: { claims: { iat: n - 200, exp: n - 100 } } })
    await sh('expired 50 s ago, within the skew', /#/, { over: { claims: { iat: n - 110, exp: n - 50 } } })
    await sh('not yet valid', /403 not_yet_valid/, { over: { claims: { iat: n + 100, exp: n + 160 } } })
    await sh('exp-iat 301', /400 malformed/, { over: { claims: { iat: n, exp: n + 301 } } })
    await sh('wrong audience', /403 wrong_audience/, { aud: 'somebody-else' })
    await sh('aud list', /400 malformed/, { over: { claims: { aud: [peer.id] } } })
    await sh('alg EdDSA', /401 bad_signature/, { over: { header: { alg: 'EdDSA' } } })
    await sh('header jwk', /400 malformed/, { over: { header: { jwk: {} } } })
    await sh('unknown kid', /401 bad_signature/, { k: F.newKey() })
    await sh('unknown typ', /400 malformed/, { over: { header: { typ: 'jwt' } } })
    await sh('iss not mine', /401 bad_signature/, { over: { claims: { iss: 'other-hub' } } })
    await sh('unknown claim', /400 malformed/, { over: { claims: { sub: 'x' } } })
    await sh('traceparent', /#/, {
        over: { claims: { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' } },
    })
    await sh('traceparent that is none', /./, { over: { claims: { traceparent: 'nonsense' } } })
    await sh('v 1.0', /400 malformed/, {
        over: {
            raw: JSON.stringify({
                v: 1,
                iss: SELF,
                aud: peer.id,
                jti: F.uuid7(),
                iat: n,
                exp: n + 60,
                commands: one,
            }).replace('"v":1', '"v":1.0'),
        },
    })
    await sh('member twice', /400 malformed/, {
        over: {
            raw: JSON.stringify({
                v: 1,
                iss: SELF,
                aud: peer.id,
                jti: F.uuid7(),
                iat: n,
                exp: n + 60,
                commands: one,
            }).replace('"v":1', '"v":1,"v":1'),
        },
    })
    await sh('media type with charset', /./, { type: 'application/jose; charset=utf-8' })
    await sh('Content-Encoding: identity', /415/, { headers: { 'Content-Encoding': 'identity' } })
    await sh('wrong media type', /415/, { type: 'application/json' })
    say('unknown command', /400 malformed/, await cmds([C('dance', {})]))
    say('empty list', /400 malformed/, await cmds([]))
    say('too large', /413/, { ...(await post('a'.repeat(F.MAX + 1))) })
    say('null for optional', /400/, await cmds([C('logs', { agentId: w.id, offset: null })]))
    say('agentId no uuid', /./, await cmds([C('status', { agentId: 'x' })]))
    say('id is UUIDv4', /400/, await cmds([{ ...one[0], id: crypto.randomUUID() }]))
    await until(() => d.agents[w.id].status) // its first event may come a second after the reply
    say(
        'EVENT to a spoke',
        /403 wrong_direction/,
        await ask('event+jwt', { events: [{ agent: d.agents[w.id].status }] }),
    )
    say(
        'REPLY as a request',
        /403 wrong_direction/,
        await ask('reply+jwt', { re: F.uuid7(), results: [{ id: 'x', seq: 1 }] }),
    )
    const env = F.seal(key(), 'command+jwt', SELF, peer.id, { commands: one })
    await post(env.text)
    say('replay', /409 replayed/, await post(env.text))
    const refused = F.seal(key(), 'command+jwt', SELF, peer.id, { commands: [C('status', { agentId: F.uuid7() })] })
    await post(refused.text)
    say('replay after refusal', /409 replayed/, await post(refused.text))
    const e2 = F.seal(key(), 'command+jwt', SELF, peer.id, { commands: one }).text
    say('bad signature', /401/, await post(e2.slice(0, -8) + (e2.at(-8) === 'A' ? 'B' : 'A') + e2.slice(-7)))
    say('no signature', /401/, await post(e2.slice(0, e2.lastIndexOf('.') + 1)))
    say('no payload', /400/, await post(e2.split('.')[0] + '..' + e2.split('.')[2]))
    say('newline at the end', /./, await post(e2 + '\n'))

    await until(() => d.agents[w.id].status?.status === 'completed' && d.agents[t.id].status?.status === 'running')
    log('worker', JSON.stringify(d.agents[w.id].status))
    log(
        'events of it',
        heard
            .filter((h) => h.id === w.id)
            .map((h) => `${h.seq}${h.status}/${h.n}`)
            .join(' '),
    )
    let off = 0,
        all = ''
    for (let i = 0; i < 50; i++) {
        const r = await cmds([C('logs', { agentId: w.id, offset: off, limit: 100 })])
        const l = r.results[0].log
        all += l.data
        off = l.nextOffset
        if (l.eof) break
        if (!r.results[0].log) break
    }
    log('log of', off, 'bytes', JSON.stringify(all.slice(0, 60)))
    say('offset past the end', /./, await cmds([C('logs', { agentId: w.id, offset: 99999999 })]))
    say('diff', /offset/, await cmds([C('diff', { agentId: w.id })]))
    say('diff of a running one', /./, await cmds([C('diff', { agentId: t.id })]))
    say('send to a running one', /./, await cmds([C('send', { agentId: t.id, text: 'go on' })]))
    say('send to an ended one', /./, await cmds([C('send', { agentId: w.id, text: 'go on' })]))
    say('resume', /not_allowed/, await cmds([C('resume', { agentId: t.id })]))
    const oldThaw = C('thaw')
    await sleep(5)
    say('freeze', /"frozen":true,"killed":0/, await cmds([C('freeze', { reason: 'test' })]))
    say('freeze again', /"frozen":true/, await cmds([C('freeze')]))
    say('spawn while frozen', /^frozen/, await cmds([spawn()]))
    say('spawn sent again while frozen', /^running/, await cmds([t]))
    say('an older thaw', /./, await cmds([oldThaw]))
    say('thaw', /"frozen":false/, await cmds([C('thaw')]))
    say('thaw again', /"frozen":false/, await cmds([C('thaw')]))
    const fz = C('freeze')
    await sleep(2)
    say('freeze and thaw in one envelope', /./, await cmds([fz, C('thaw')]))
    say('that freeze again', /"frozen":false/, await cmds([fz]))
    say('  spawn then', /queued/, await cmds([spawn()]))
    say('thaw', /false/, await cmds([C('thaw')]))
    const f2 = C('freeze')
    await cmds([f2])
    await sleep(5)
    await cmds([C('thaw')])
    say('freeze held up behind its thaw (two envelopes)', /"frozen":false/, await cmds([f2]))
    say('  spawn then', /queued/, await cmds([spawn()]))
    await cmds([C('thaw')])
    say(
        'freeze with a spawn after it, then thaw, spawn',
        /"frozen":true.*frozen.*"frozen":false.*queued/,
        await cmds([C('freeze'), spawn(), C('thaw'), spawn()]),
    )
    say('kill', /^running/, await cmds([C('kill', { agentId: t.id, graceS: 1, reason: 'enough' })]))
    await until(() => d.agents[t.id].status?.status === 'killed')
    log('killed', JSON.stringify(d.agents[t.id].status))
    say('kill again', /^killed/, await cmds([C('kill', { agentId: t.id })]))

    // rotation of ours
    const old = key(),
        nw = F.newKey(),
        ok = F.kidOf(old),
        nk = F.kidOf(nw),
        ep = Math.max(F.now(), d.epoch + 1)
    const rot = (k, next, e, from = F.kidOf(k), o = {}) =>
        ask(
            'rotate+jwt',
            {
                next: F.pubOf(next),
                epoch: e,
                proof: F.b64u(F.rawSign(next, F.rotateText(from, F.kidOf(next), e, peer.id))),
            },
            { k, ...o },
        )
    say(
        'ROTATE with a wrong proof',
        /401/,
        await ask('rotate+jwt', { next: F.pubOf(nw), epoch: ep, proof: F.b64u(Buffer.alloc(64)) }),
    )
    say(
        'ROTATE to a refused key',
        /400/,
        await ask('rotate+jwt', {
            next: { kty: 'OKP', crv: 'Ed25519', x: F.b64u(Buffer.alloc(32)) },
            epoch: ep,
            proof: F.b64u(Buffer.alloc(64)),
        }),
    )
    say('ROTATE to itself', /./, await rot(old, old, ep - 5))
    say('ROTATE', new RegExp(nk), await rot(old, nw, ep))
    d.epoch = ep
    say('told again under the old key', new RegExp(nk), await rot(old, nw, ep))
    say('told again under the new key', new RegExp(nk), await rot(nw, nw, ep, nk))
    say('told again with a higher epoch', /./, await rot(old, nw, ep + 1))
    say('and with the first epoch', /./, await rot(old, nw, ep))
    say('a former key names a successor', /not_allowed/, await rot(old, F.newKey(), ep + 2))
    say('stale epoch', /stale/, await rot(nw, F.newKey(), ep))
    say('back to the old key', /not_allowed/, await rot(nw, old, ep + 3))
    const r1 = await cmds(one, { k: old })
    say('a COMMAND under the old key in the overlap', /#/, r1)
    d.keys = [nw, old]
    st.save()
    say('a COMMAND under the new key', /#/, await cmds(one))
    const w2 = spawn('worker')
    say('spawn under the new key', /queued/, await cmds([w2]))
    await until(() => d.agents[w2.id].status?.status === 'completed')
    log('after the rotation:', d.agents[w2.id].status?.status)
    // rotation of the spoke's
    if (opt('spoke-dir')) {
        log('spoke keys rotate:', spoke('keys', 'rotate').trim().split('\n').join('; '))
        const before = F.kidOf(peer.keys[0].jwk)
        await until(() => F.kidOf(peer.keys[0].jwk) !== before)
        const r = await cmds(one)
        say('status after the spoke rotated', /#/, r)
        log('REPLY signed by the new key:', r.kid === F.kidOf(peer.keys[0].jwk))
        const w3 = spawn('worker')
        drop.lie = w3.id
        await cmds([w3])
        await sleep(6000)
        log(
            'events refused with not_allowed:',
            heard
                .filter((h) => h.id === w3.id)
                .map((h) => h.seq + h.status)
                .join(' '),
        )
        drop.lie = 0
        const q = Array.from({ length: 1000 }, () => C('status', { agentId: w.id }))
        const big = await cmds(q)
        log(
            '1000 statuses:',
            big.results?.length ?? brief(big),
            big.body?.length,
            'bytes; results null:',
            big.results?.filter((x) => x.agent?.result === null).length,
        )
        let limited
        for (let i = 0; i < 300 && !limited; i += 20) {
            const rs = await Promise.all(Array.from({ length: 20 }, () => cmds(one)))
            limited = rs.find((r) => r.status !== 200)
        }
        log('rate:', limited ? brief(limited) : 'none met')
        await sleep(2000)
        const t2 = spawn('tester')
        await cmds([t2])
        await until(() => d.agents[t2.id].status?.status === 'running')
        say('freeze with killAgents', /"frozen":true,"killed":[1-9]/, await cmds([C('freeze', { killAgents: true })]))
        await until(() => d.agents[t2.id].status?.status === 'killed')
        log('t2', d.agents[t2.id].status?.status, JSON.stringify(d.agents[t2.id].status?.receipt))
        await cmds([C('thaw')])
        spoke('peer', 'suspend', SELF)
        say('suspended', /403 connection_inactive/, await cmds(one))
        spoke('peer', 'resume', SELF)
        say('resumed', /#/, await cmds(one))
        spoke('peer', 'revoke', SELF)
        say('revoked', /401 bad_signature/, await cmds(one))
    }
    await sleep(1500)
    log('done;', bad, 'differences')
    process.exit(bad ? 1 : 0)
}
const inv = {
    hub: SELF,
    url: URL_,
    fingerprint: 'SHA256:' + F.kidOf(key()),
    invite: F.uuid7(),
    secret: F.b64u(crypto.randomBytes(32)),
    exp: F.now() + 86400,
}
d.invites[inv.invite] = inv
st.save()
fs.writeFileSync(dir + '/invite', 'hubspoke1.' + F.b64u(JSON.stringify(inv)))
log('invite in', dir + '/invite')
for (;;) {
    await sleep(300)
    peer = Object.values(d.peers).find((p) => p.state === 'active' && p.url)
    if (peer) {
        try {
            await fetch(peer.url + '/federation/v1/identity')
            break
        } catch {}
    }
}
for (let i = 0; i < 20; i++) {
    const r = await cmds([C('status', { agentId: F.uuid7() })])
    if (r.status === 200) break
    log('  first answer', brief(r))
    await sleep(500)
}
scenario().catch((e) => {
    log('FAILED', e)
    process.exit(2)
})
