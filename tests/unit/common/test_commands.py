from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from common.commands import (
    COMMAND_NAMES,
    MAX_COMMANDS,
    Spawn,
    SpawnFields,
    content_hash,
    encode_content,
    encode_spawn,
    parse_commands,
)
from common.errors import Malformed
from tests.envelopes import id_of, spawn


def of_agent(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": id_of(3), "command": name, "agentId": id_of(2), **changes}


COMPLETE: dict[str, dict[str, Any]] = {
    "spawn": spawn(),
    "status": of_agent("status"),
    "kill": of_agent("kill", graceS=9, reason="superseded"),
    "logs": of_agent("logs", offset=1, limit=2),
    "diff": of_agent("diff", offset=1, limit=2),
    "send": of_agent("send", text="go on"),
    "resume": of_agent("resume", text="go on"),
    "freeze": {"id": id_of(3), "command": "freeze", "killAgents": True, "reason": "night"},
    "thaw": {"id": id_of(3), "command": "thaw"},
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "spawn": {"priority": 5, "timeout_s": 3600, "max_attempts": 3},
    "kill": {"grace_s": 10, "reason": None},
    "logs": {"offset": 0, "limit": 65_536},
    "diff": {"offset": 0, "limit": 65_536},
    "resume": {"text": None},
    "freeze": {"kill_agents": False, "reason": None},
}


def test_a_spawn_is_sent_without_what_has_its_default_and_read_to_the_same() -> None:
    fields = SpawnFields.model_validate({name: spawn()[name] for name in ("taskId", "agentType", "context")})
    content = encode_content(fields)
    sent = json.loads(encode_spawn(id_of(9), content))
    assert sent == {"id": id_of(9), "command": "spawn", **json.loads(content)}
    assert set(sent) == {"id", "command", "taskId", "agentType", "context"}
    [parsed] = parse_commands([sent])
    assert isinstance(parsed, Spawn)
    assert encode_content(parsed) == content


def refusal_of(*commands: Any) -> str:
    with pytest.raises(Malformed) as refused:
        parse_commands(list(commands))
    return refused.value.message


def test_every_command_has_a_case() -> None:
    assert tuple(COMPLETE) == COMMAND_NAMES


@pytest.mark.parametrize("name", COMPLETE)
def test_a_complete_command_is_read_whole(name: str) -> None:
    [command] = parse_commands([COMPLETE[name]])
    assert command.model_dump(by_alias=True) == COMPLETE[name]


@pytest.mark.parametrize("name", COMPLETE)
def test_a_member_left_out_is_refused_or_has_its_default(name: str) -> None:
    for member in COMPLETE[name]:
        without = {key: value for key, value in COMPLETE[name].items() if key != member}
        try:
            [command] = parse_commands([without])
        except Malformed:
            continue
        snake = {
            "timeoutS": "timeout_s",
            "maxAttempts": "max_attempts",
            "graceS": "grace_s",
            "killAgents": "kill_agents",
        }
        attribute = snake.get(member, member)
        assert getattr(command, attribute) == DEFAULTS[name][attribute]


WRONG_VALUES: list[Any] = [
    None,
    True,
    5,
    5.0,
    1.5,
    "5",
    "",
    [],
    {},
    ["5"],
    {"a": 1},
    -1,
    2**53 - 1,
    "a\0b",
    "\u202e",
    "x\n",
]
FREE_TEXT = {"reason", "text", "repository", "branch", "workItems"}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, member in members:
        yield from leaves(member, (*path, step))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = new
    return changed


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


@pytest.mark.attack(46)
@pytest.mark.parametrize("name", COMPLETE)
def test_a_member_of_another_type_is_refused(name: str) -> None:
    for path in leaves(COMPLETE[name]):
        good = at(COMPLETE[name], path)
        for wrong in WRONG_VALUES:
            if type(wrong) is type(good):
                continue
            refusal_of(replaced(COMPLETE[name], path, wrong))


@pytest.mark.parametrize("name", COMPLETE)
def test_an_unknown_member_is_refused_at_every_level(name: str) -> None:
    refusal_of({**COMPLETE[name], "x": 1})
    for path in leaves(COMPLETE[name]):
        if isinstance(at(COMPLETE[name], path), dict):
            refusal_of(replaced(COMPLETE[name], (*path, "x"), 1))


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("member", ["agent_id", "grace_s", "task_id", "timeout_s", "kill_agents"])
def test_the_names_of_python_are_unknown_members(name: str, member: str) -> None:
    refusal_of({**COMPLETE[name], member: id_of(2)})


SPELLINGS: dict[str, Callable[[str], str]] = {
    "newline behind": lambda text: text + "\n",
    "newline before": lambda text: "\n" + text,
    "NUL behind": lambda text: text + "\0",
    "NUL inside": lambda text: text[:2] + "\0" + text[2:],
    "space": lambda text: text + " ",
    "right-to-left override": lambda text: "\u202e" + text,
    "zero width space": lambda text: text + "\u200b",
    "full-width": lambda text: "\uff21" + text[1:],
    "Cyrillic": lambda text: text[:-1] + "\u0430",
    "lone low surrogate": lambda text: text + "\udc00",
}


@pytest.mark.attack(47)
@pytest.mark.attack(55)
@pytest.mark.parametrize("respell", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize(
    "path",
    [("id",), ("taskId",), ("agentType",), ("command",), ("context", "skills", 0)],
    ids=lambda path: ".".join(map(str, path)),
)
def test_an_id_is_plain_ascii_to_its_last_character(path: tuple[Any, ...], respell: Callable[[str], str]) -> None:
    refusal_of(replaced(COMPLETE["spawn"], path, respell(at(COMPLETE["spawn"], path))))


RANGES = [
    ("spawn", ("priority",), 1, 10),
    ("spawn", ("timeoutS",), 1, 86_400),
    ("spawn", ("maxAttempts",), 1, 10),
    ("kill", ("graceS",), 0, 300),
    ("logs", ("offset",), 0, None),
    ("logs", ("limit",), 1, 262_144),
    ("diff", ("offset",), 0, None),
    ("diff", ("limit",), 1, 262_144),
]


@pytest.mark.parametrize(("name", "path", "low", "high"), RANGES, ids=str)
def test_ranges_are_exact(name: str, path: tuple[str], low: int, high: int | None) -> None:
    parse_commands([replaced(COMPLETE[name], path, low)])
    refusal_of(replaced(COMPLETE[name], path, low - 1))
    if high is not None:
        parse_commands([replaced(COMPLETE[name], path, high)])
        refusal_of(replaced(COMPLETE[name], path, high + 1))


LENGTHS: list[tuple[str, tuple[Any, ...], Callable[[int], Any], int, int]] = [
    ("spawn", ("taskId",), lambda n: "t" * n, 1, 128),
    ("spawn", ("context", "repository"), lambda n: "r" * n, 1, 2048),
    ("spawn", ("context", "branch"), lambda n: "b" * n, 1, 255),
    ("spawn", ("context", "workItems"), lambda n: ["w"] * n, 1, 100),
    ("spawn", ("context", "workItems", 0), lambda n: "\N{GRINNING FACE}" * n, 1, 10_000),
    ("spawn", ("context", "skills"), lambda n: ["s"] * n, 0, 50),
    ("spawn", ("context", "skills", 0), lambda n: "s" * n, 1, 64),
    ("kill", ("reason",), lambda n: "r" * n, 0, 1000),
    ("freeze", ("reason",), lambda n: "r" * n, 0, 1000),
    ("send", ("text",), lambda n: "t" * n, 1, 10_000),
    ("resume", ("text",), lambda n: "t" * n, 1, 10_000),
]


@pytest.mark.parametrize(
    ("name", "path", "make", "low", "high"), LENGTHS, ids=[f"{name} {path[-1]}" for name, path, *_ in LENGTHS]
)
def test_lengths_are_exact(name: str, path: tuple[Any, ...], make: Callable[[int], Any], low: int, high: int) -> None:
    for good in (low, high):
        parse_commands([replaced(COMPLETE[name], path, make(good))])
    refusal_of(replaced(COMPLETE[name], path, make(high + 1)))
    if low:
        refusal_of(replaced(COMPLETE[name], path, make(low - 1)))


@pytest.mark.parametrize("skill", ["-a", "A", "a_b", "a.b", "a b", "ä"])
def test_refuses_a_skill(skill: str) -> None:
    refusal_of(replaced(COMPLETE["spawn"], ("context", "skills"), [skill]))


ENVELOPE_LEVEL: dict[str, Any] = {
    "not a list": {"0": spawn()},
    "a string": "spawn",
    "null": None,
    "no command": [],
    "one too many": [COMPLETE["thaw"]] * (MAX_COMMANDS + 1),
    "a number in it": [spawn(), 5],
    "null in it": [None],
    "a list in it": [[spawn()]],
    "unknown command": [{**COMPLETE["thaw"], "command": "destroy"}],
    "command in other case": [{**COMPLETE["thaw"], "command": "Thaw"}],
    "no command name": [{"id": id_of(3)}],
    "command name a list": [{"id": id_of(3), "command": ["thaw"]}],
    "command name an object": [{"id": id_of(3), "command": {}}],
}


@pytest.mark.parametrize("value", ENVELOPE_LEVEL.values(), ids=ENVELOPE_LEVEL)
def test_refuses_as_commands(value: Any) -> None:
    with pytest.raises(Malformed):
        parse_commands(value)


def test_takes_the_largest_number_of_commands() -> None:
    assert len(parse_commands([COMPLETE["thaw"]] * MAX_COMMANDS)) == MAX_COMMANDS


HOSTILE = "x\n\x1b[2J\u202e" * 10_000


@pytest.mark.attack(56)
@pytest.mark.parametrize(
    "command",
    [
        {**COMPLETE["thaw"], HOSTILE: 1},
        {**COMPLETE["thaw"], "command": HOSTILE},
        {**COMPLETE["thaw"], "id": HOSTILE},
        spawn(agentType=HOSTILE),
        spawn(context={**spawn()["context"], "skills": [HOSTILE]}),
    ],
    ids=["member name", "command", "id", "agent type", "skill"],
)
def test_the_message_is_one_short_line_without_what_was_sent(command: dict[str, Any]) -> None:
    message = refusal_of(command)
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 200


def test_the_message_names_the_place() -> None:
    assert refusal_of(spawn(), spawn(priority=11)).startswith("commands.1.spawn.priority: ")
    assert refusal_of({**COMPLETE["thaw"], "grace": 1}).startswith("commands.0.thaw.grace: ")


def hash_of(command: dict[str, Any]) -> str:
    [parsed] = parse_commands([command])
    assert isinstance(parsed, Spawn)
    return content_hash(parsed)


OPTIONAL = {"priority": 5, "timeoutS": 3600, "maxAttempts": 3}


def test_a_default_given_and_a_default_left_out_are_the_same_content() -> None:
    given = spawn(**OPTIONAL)
    given["context"]["skills"] = []
    left_out = {key: value for key, value in spawn().items() if key not in OPTIONAL}
    left_out["context"] = {key: value for key, value in spawn()["context"].items() if key != "skills"}
    assert hash_of(given) == hash_of(left_out)


def test_the_order_of_members_is_no_content() -> None:
    members = list(spawn().items())
    for seed in range(10):
        random.Random(seed).shuffle(members)
        assert hash_of(dict(members)) == hash_of(spawn())


OTHER_CONTENT: dict[str, tuple[tuple[Any, ...], Any]] = {
    "task": (("taskId",), "T-43"),
    "agent type": (("agentType",), "tester"),
    "priority": (("priority",), 6),
    "timeout": (("timeoutS",), 1801),
    "attempts": (("maxAttempts",), 3),
    "repository": (("context", "repository"), "https://git.example.org/team/app"),
    "branch": (("context", "branch"), "Main"),
    "work item": (("context", "workItems", 0), "fix the login redirect "),
    "more work items": (("context", "workItems"), ["fix the login redirect", "x"]),
    "one work item cut in two": (("context", "workItems"), ["fix the login", "redirect"]),
    "no skills": (("context", "skills"), []),
    "skill": (("context", "skills", 0), "rust"),
    "decomposed letter": (("context", "branch"), "mai\u0301n"),
}


@pytest.mark.attack(23)
def test_any_other_content_has_another_hash() -> None:
    changed = {name: hash_of(replaced(spawn(), path, new)) for name, (path, new) in OTHER_CONTENT.items()}
    assert len({hash_of(spawn()), *changed.values()}) == len(changed) + 1


def test_the_hash_of_a_known_spawn_stays_the_same_over_releases() -> None:
    assert hash_of(spawn()) == "a0d8d55fc1824c921528914a152d2177cad5f0fc3b501a806129691658842214"
