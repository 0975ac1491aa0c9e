from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from common.audit import (
    CHECKPOINT,
    MAX_TEXT,
    PRUNED,
    START,
    Entry,
    Head,
    Verdict,
    Verification,
    checkpoint,
    digest_of,
    read_line,
    write_line,
)
from common.errors import Malformed
from common.keyring import SigningKey
from tests.envelopes import HUB, HUB_KEY, NOW_S, OTHER_KEY

NOW_MS = NOW_S * 1000


class Chain:
    """Writes lines the way a node does."""

    def __init__(self, head: Head = START) -> None:
        self.head = head
        self.lines: list[bytes] = []

    def add(self, event: str, **fields: object) -> Chain:
        line, self.head = write_line(self.head, NOW_MS, Entry(event, fields))
        self.lines.append(line)
        return self

    def seal(self, key: SigningKey = HUB_KEY, node: str = HUB) -> Chain:
        sealing = checkpoint(node, key, key.public, self.head, "test")
        return self.add(sealing.event, **sealing.fields)


def good() -> Chain:
    """Seven lines, the first and the sixth are checkpoints."""
    chain = Chain().seal()
    for number in range(4):
        chain.add("command.decided", peer="build-1", number=number)
    return chain.seal().add("command.decided", number=4)


def judge(
    lines: Sequence[bytes], *, witness: Head | None = None, is_whole: bool = True, key: SigningKey = HUB_KEY
) -> Verdict:
    verification = Verification(HUB, [key.public], is_whole=is_whole)
    if witness is not None:
        verification.expect(witness)
    for place, line in enumerate(lines, 1):
        verification.take("audit.jsonl", place, line)
    return verification.verdict()


def head_of(line: bytes) -> Head:
    return Head(json.loads(line)["n"], digest_of(line))


def said(verdict: Verdict) -> list[str]:
    return [f"{finding.line}: {finding.what}" for finding in verdict.findings]


def test_a_chain_that_nobody_touched_is_good() -> None:
    verdict = judge(good().lines)
    assert verdict.findings == ()
    assert (verdict.first, verdict.last, verdict.sealed, verdict.unsealed) == (1, 7, 6, 1)
    assert verdict.last_at == "2026-11-18T11:06:40.000Z"


def test_no_lines_are_no_fault() -> None:
    assert judge([]) == Verdict(0, 0, 0, None, ())


def replace(number: int, old: bytes, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def change(lines: list[bytes]) -> list[bytes]:
        assert old in lines[number - 1]
        return [line.replace(old, new) if place == number else line for place, line in enumerate(lines, 1)]

    return change


def drop(*numbers: int) -> Callable[[list[bytes]], list[bytes]]:
    return lambda lines: [line for place, line in enumerate(lines, 1) if place not in numbers]


def rewritten(lines: list[bytes]) -> list[bytes]:
    """What somebody without the key makes: the whole chain anew, with one line less, the old checkpoints kept."""
    chain = Chain()
    for line in (line for place, line in enumerate(lines, 1) if place != 3):
        members = json.loads(line)
        chain.add(members.pop("event"), **{name: members[name] for name in members if name not in {"n", "prev", "at"}})
    return chain.lines


TAMPERED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a value edited": (replace(3, b'"build-1"', b'"build-2"'), "4: line 3 is not the one that 4 followed"),
    "one byte of white space": (replace(3, b'{"n"', b'{ "n"'), "4: line 3 is not the one that 4 followed"),
    "the sealed end edited": (replace(5, b"3}", b"9}"), "6: line 5 is not the one that 6 followed"),
    "a line removed": (drop(3), "3: lines 3 to 3 are missing"),
    "lines removed": (drop(2, 3, 4), "2: lines 2 to 4 are missing"),
    "the beginning removed": (drop(1, 2), "1: lines 1 to 2 are missing, and no later line says that they were removed"),
    "lines swapped": (
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        "3: lines 3 to 3 are missing",
    ),
    "a line repeated": (
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
        "4: line 3 stands after line 3: lines were moved, repeated or added",
    ),
    "garbage between": (lambda lines: [*lines[:3], b"{", *lines[3:]], "4: is no line of an audit file: not JSON"),
    "no object": (
        lambda lines: [*lines[:3], b"[]", *lines[3:]],
        "4: is no line of an audit file: the line is no JSON object",
    ),
    "garbage first": (lambda lines: [b"\x00", *lines], "1: is no line of an audit file: not JSON"),
    "a number that is none": (
        replace(3, b'"n":3', b'"n":true'),
        "3: is no line of an audit file: the line lacks n, prev or event",
    ),
    "the beginning forged": (replace(1, START.digest.encode(), b"1" * 64), "1: line 1 follows something"),
    "all written anew": (
        rewritten,
        "5: the checkpoint is not signed by hub-eu: the signature does not verify with a key known for the sender",
    ),
    "a signature that is none": (
        replace(6, b'"signature":"', b'"signature":"*'),
        "6: the checkpoint is not signed by hub-eu: a part is not base64url without padding (RFC 7515 section 2)",
    ),
    "a signature left out": (
        replace(6, b'"signature":"', b'"sig":"'),
        "6: the checkpoint is not signed by hub-eu: the signature does not verify with a key known for the sender",
    ),
    "a checkpoint's key left out": (
        replace(6, b'"key":"', b'"k":"'),
        '6: the checkpoint is not signed by hub-eu: the JWK has no "x"',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "first_finding"), TAMPERED.values(), ids=TAMPERED.keys())
def test_what_was_done_to_a_chain_is_found(tamper: Callable[[list[bytes]], list[bytes]], first_finding: str) -> None:
    verdict = judge(tamper(good().lines))
    assert first_finding in said(verdict)
    assert all(finding.file == ("audit.jsonl" if finding.line else "") for finding in verdict.findings)


def test_a_line_that_cannot_be_read_counts_as_one() -> None:
    chain = good()
    chain.head = Head(chain.head.number + 1, digest_of(b"garbage"))
    chain.lines.append(b"garbage")
    assert said(judge(chain.add("command.decided").seal().lines)) == ["8: is no line of an audit file: not JSON"]


def test_a_chain_is_whole_unless_it_is_said_not_to_be() -> None:
    verification = Verification(HUB, [HUB_KEY.public])
    for place, line in enumerate(good().lines[1:], 1):
        verification.take("audit.jsonl", place, line)
    assert said(verification.verdict()) == [
        "1: lines 1 to 1 are missing, and no later line says that they were removed"
    ]


def test_a_checkpoint_of_another_node_seals_nothing() -> None:
    assert said(judge(Chain().seal(node="hub-us").lines))[0].startswith("1: the checkpoint is not signed by hub-eu")


def test_a_checkpoint_of_a_former_key_is_sealed_by_the_present_one() -> None:
    chain = Chain().seal(OTHER_KEY).add("key.rotated")
    unsealed = judge(chain.lines)
    assert said(unsealed) == ["0: no checkpoint by a key that the node holds: nothing is sealed"]
    assert unsealed.findings[0].file == ""
    verdict = judge(chain.seal().lines)
    assert (verdict.sealed, verdict.findings) == (3, ())


def test_a_checkpoint_of_a_key_that_is_not_ours_does_not_seal() -> None:
    chain = good().add("added").seal(OTHER_KEY)
    assert judge(chain.lines).sealed == 6


class TestWitness:
    def test_an_end_that_was_cut_off_is_told_apart_from_one_that_is_not_sealed_yet(self) -> None:
        lines = good().lines
        witness = head_of(lines[5])
        assert judge(lines, witness=witness).findings == ()
        assert judge(lines[:6], witness=witness).findings == ()
        assert said(judge(lines[:4], witness=witness)) == [
            "0: lines 5 to 6 are missing: a checkpoint there was seen before"
        ]

    def test_everything_removed(self) -> None:
        assert said(judge([], witness=Head(6, "0" * 64))) == [
            "0: lines 1 to 6 are missing: a checkpoint there was seen before"
        ]

    def test_another_history(self) -> None:
        witness = head_of(good().lines[5])
        other = Chain().seal()
        for _ in range(7):
            other.add("nothing.happened")
        assert said(judge(other.lines, witness=witness)) == [
            "0: line 6 is not the checkpoint that was seen there before"
        ]

    def test_another_history_that_ends_where_it_was_seen(self) -> None:
        other = Chain().seal()
        for _ in range(5):
            other.add("nothing.happened")
        verdict = judge(other.lines, witness=head_of(good().lines[5]))
        assert said(verdict) == ["0: line 6 is not the checkpoint that was seen there before"]
        assert verdict.findings[0].file == ""

    def test_another_history_that_begins_where_it_was_seen(self) -> None:
        later = Chain(good().head).seal().lines
        assert said(judge(later, witness=Head(8, "0" * 64), is_whole=False)) == [
            "0: line 8 is not the checkpoint that was seen there before"
        ]

    def test_one_from_before_the_first_line_says_nothing(self) -> None:
        chain = good()
        later = Chain(chain.head).seal().lines
        assert judge(later, witness=head_of(chain.lines[5]), is_whole=False).findings == ()


class TestBeginning:
    def test_removed_by_the_node_itself(self) -> None:
        chain = good()
        before = chain.head
        chain.add(PRUNED, file="audit-000000000007.jsonl", last=before.number, digest=before.digest).seal()
        assert judge(chain.lines[7:]).findings == ()
        assert judge(chain.lines[6:]).findings != ()
        assert judge(chain.lines[6:], is_whole=False).findings == ()

    def test_removed_up_to_elsewhere(self) -> None:
        chain = good().add(PRUNED, last=3, digest="0" * 64).seal()
        assert said(judge(chain.lines[3:]))[-1].startswith("1: lines 1 to 3 are missing")

    def test_removed_up_to_a_line_without_a_number(self) -> None:
        chain = good()
        first = head_of(chain.lines[0])
        chain.add(PRUNED, digest=first.digest).seal()
        assert said(judge(chain.lines[1:]))[-1].startswith("1: lines 1 to 1 are missing")


class TestLine:
    def test_holds_what_was_decided(self) -> None:
        line, head = write_line(
            START, NOW_MS, Entry("x", {"ids": ["a", "b"], "n_of": 3, "none": None, "is": True, "f": 0.5})
        )
        assert json.loads(line) == {
            "n": 1, "prev": START.digest, "at": "2026-11-18T11:06:40.000Z", "event": "x",
            "ids": ["a", "b"], "n_of": 3, "is": True, "f": 0.5,
        }  # fmt: skip
        assert head == Head(1, digest_of(line))

    @pytest.mark.attack(56)
    @pytest.mark.parametrize("name", ['\n{"n":1}', "\x1b[2J", "\u202egpj.exe", "\udc80", "\x00"], ids=ascii)
    def test_is_one_line_that_writes_to_no_terminal(self, name: str) -> None:
        line, head = write_line(START, NOW_MS, Entry("x", {"peer": name, "more": {name: [name]}}))
        assert line.decode("ascii").isprintable()
        assert name not in read_line(line).members["peer"]
        assert read_line(line).members["peer"].isprintable()
        assert head.number == 1

    def test_is_bounded(self) -> None:
        line, _ = write_line(START, NOW_MS, Entry("x", {"reason": "\x1b" * 1_000_000, "path": object()}))
        assert len(line) < MAX_TEXT * 12

    @pytest.mark.parametrize("raw", [b"", b"\xff", b"{}", b'{"n":0,"prev":"","event":""}', b'{"n":1,"n":1}'])
    def test_that_no_node_wrote(self, raw: bytes) -> None:
        with pytest.raises(Malformed):
            read_line(raw)

    def test_checkpoint_names_the_key(self) -> None:
        line = read_line(good().lines[0])
        assert line.event == CHECKPOINT
        assert (line.members["kid"], line.members["key"]) == (HUB_KEY.kid, HUB_KEY.public.to_jwk()["x"])
        assert (line.members["node"], line.members["cause"]) == (HUB, "test")
