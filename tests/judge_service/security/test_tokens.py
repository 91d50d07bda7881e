"""The token file: the entries it accepts, and the errors for all others."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest

from judge_service.errors import ServerStartError
from judge_service.security import tokens as tokens_module
from judge_service.security.tokens import Token, Tokens, digest_of, new_token, to_entry

SECRET = "rlaif_a-token-of-the-tests"
DIGEST = digest_of(SECRET)
GOOD = f'- name: trainer\n  sha256: "{DIGEST}"\n  scopes: [judge, read]\n'


def tokens(folder: Path, text: str) -> Tokens:
    path = folder / "tokens.yaml"
    path.write_text(text, encoding="utf-8")
    return Tokens(path)


def test_a_token_is_matched_by_its_digest_and_nothing_else_is(tmp_path: Path) -> None:
    limits = "  requests_per_minute: 90\n  max_concurrent: 4\n"
    known = tokens(tmp_path, GOOD + limits)
    assert known.find(SECRET) == Token(
        name="trainer",
        sha256=DIGEST,
        scopes=frozenset({"judge", "read"}),
        requests_per_minute=90,
        max_concurrent=4,
    )
    for other in ("", DIGEST, SECRET[:-1], SECRET + " ", SECRET.upper(), "x" * 100_000, "ключ"):
        assert known.find(other) is None


def test_every_entry_is_compared_whichever_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        seen.append(one)
        return real(one, other)

    made = [new_token() for _ in range(3)]
    entries = [
        to_entry(Token(name=f"n{i}", sha256=digest_of(t), scopes=frozenset({"read"})))
        for i, t in enumerate(made)
    ]
    known = tokens(tmp_path, "\n".join(entries))
    monkeypatch.setattr(tokens_module.hmac, "compare_digest", compare)
    for presented, name in zip([*made, "wrong"], ["n0", "n1", "n2", None], strict=True):
        seen.clear()
        match = known.find(presented)
        assert (match and match.name) == name
        assert seen == [digest_of(token) for token in made]


BAD = [
    ("", "holds no token; `rlaif token new NAME"),
    ("# nobody yet\n", "holds no token"),
    ("[]\n", "holds no token"),
    ("name: x\n", "expected a list of tokens"),
    ("- trainer\n", ":1:3: entry 1: expected the keys"),
    (GOOD.replace("sha256", "sha265"), "entry 1 'trainer': unknown key 'sha265'; did you mean"),
    (GOOD.replace(DIGEST, SECRET), ":2:11: entry 1 'trainer': sha256 must be 64 hex"),
    (GOOD.replace(DIGEST, DIGEST.upper()), "lower case"),
    (GOOD.replace("read", "write"), "scopes must be a list of judge, read, admin"),
    (GOOD.replace("[judge, read]", "[]"), "scopes must be"),
    (GOOD.replace("[judge, read]", "judge"), "scopes must be"),
    (GOOD.replace("trainer", '"a b"'), "name must be letters"),
    (GOOD.replace("trainer", "anonymous"), "callers without a token"),
    (GOOD + GOOD, ":4:9: entry 2 'trainer': entry 1 has this name too; rename one"),
    (GOOD + GOOD.replace("trainer", "twin"), ":5:11: entry 2 'twin': entry 1 has this token too"),
    (GOOD + "  requests_per_minute: 0\n", "requests_per_minute must be a number above 0"),
    (GOOD + "  requests_per_minute: .inf\n", "requests_per_minute must be a number above 0"),
    (GOOD + "  requests_per_minute: yes\n", "requests_per_minute must be a number above 0"),
    (GOOD + "  max_concurrent: 1.5\n", "max_concurrent must be a whole number"),
    (GOOD + "  max_concurrent: yes\n", "max_concurrent must be a whole number"),
    (GOOD + "  name: again\n", "duplicate key 'name', first on line "),
    (GOOD + "  max_concurrent: &a 3\n", "the anchor &a is not allowed"),
    (GOOD + "  scopes: [\n", "not valid YAML"),
    ("- name: [\n" * 50, "not valid YAML"),
]


@pytest.mark.parametrize(("text", "problem"), BAD)
def test_a_wrong_file_is_refused_with_place_and_entry_and_never_quotes_a_token(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(ServerStartError) as refused:
        tokens(tmp_path, text)
    message = str(refused.value)
    assert problem in message
    assert "tokens.yaml" in message
    assert SECRET not in message


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError) as refused:
        tokens(tmp_path, GOOD.replace("read", "write") + "- name: x\n  scopes: [read]\n")
    lines = str(refused.value).splitlines()
    assert [line.partition("entry ")[2][:1] for line in lines] == ["1", "2"]


def test_a_missing_or_binary_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"absent\.yaml cannot be read: No such file"):
        Tokens(tmp_path / "absent.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ServerStartError, match="not UTF-8"):
        Tokens(tmp_path / "binary")


OTHER = new_token()
SECOND = to_entry(Token(name="second", sha256=digest_of(OTHER), scopes=frozenset({"read"}))) + "\n"

BLANK = ["", "# nobody\n", "[]\n", "---\n# nobody\n", "\ufeff", "null\n"]


@pytest.mark.parametrize("text", [*BLANK, None], ids=repr)
def test_a_file_that_is_missing_or_empty_when_read_again_admits_nobody(
    tmp_path: Path, text: str | None
) -> None:
    known = tokens(tmp_path, GOOD)
    if text is None:
        known.path.unlink()
    else:
        known.path.write_text(text, encoding="utf-8")
    (line,) = known.reload()
    assert "nobody is admitted" in line
    assert known.find(SECRET) is None
    assert (len(known), known.stale, known.alarms) == (0, False, ("tokens-none",))
    known.path.write_text(GOOD)
    assert known.reload() == ()
    assert known.find(SECRET)
    assert known.alarms == ()


REJECTED = [  # (entry, its log message)
    ("- name: half\n  scopes: [read]\n", "entry 2 'half': lacks the key 'sha256'"),
    ("- half\n", "entry 2: expected the keys"),
    (GOOD.replace(DIGEST, "f" * 64), "entry 2 'trainer': entry 1 has this name too"),
    (GOOD.replace("trainer", "twin"), "entry 1 'trainer': entry 2 has this token too"),
    (GOOD.replace("trainer", "twin").replace("read", "write"), "scopes must be a list"),
    (f'- name: x\n  name: y\n  sha256: "{"e" * 64}"\n  scopes: [read]\n', "duplicate key 'name'"),
    (f'- name: x\n  sha256: &a "{"e" * 64}"\n  scopes: [read]\n', "anchor &a is not allowed"),
]


@pytest.mark.parametrize(
    ("entry", "expected"), REJECTED, ids=[expected for _, expected in REJECTED]
)
def test_an_entry_with_a_problem_is_named_and_the_others_hold(
    tmp_path: Path, entry: str, expected: str
) -> None:
    known = tokens(tmp_path, GOOD + SECOND)
    known.path.write_text(GOOD + entry + SECOND)
    problems = known.reload()
    assert any(expected in problem for problem in problems)
    assert known.find(OTHER)
    twins = "trainer" in entry or DIGEST in entry
    assert (known.find(SECRET) is None) == twins, "neither of two with one name or digest is held"
    assert (known.rejected, known.stale) == (1 + twins, False)
    assert known.alarms == ("tokens-rejected",)
    assert SECRET not in "".join(problems)


UNUSABLE = [
    (GOOD + "  scopes: [\n").encode(),
    b"name: x\n",
    b"\xff\xfe",
    b"&all\n" + GOOD.encode(),
    GOOD.encode() + b"---\n" + GOOD.encode(),
]


@pytest.mark.parametrize("content", UNUSABLE, ids=repr)
def test_a_file_that_cannot_be_used_as_a_whole_leaves_the_last_good_tokens_and_an_alarm(
    tmp_path: Path, content: bytes
) -> None:
    known = tokens(tmp_path, GOOD)
    known.path.write_bytes(content)
    (line,) = known.reload()
    assert "those read before stay in force" in line
    assert str(known.path) in line
    assert known.find(SECRET)
    assert (known.stale, known.unread, known.alarms) == (True, False, ("tokens-stale",))
    known.path.unlink()
    known.reload()
    assert known.find(SECRET) is None, "a revocation after it counts all the same"
    assert not known.stale


def test_a_file_that_cannot_be_opened_leaves_the_last_good_tokens_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, encoding: str = "") -> str:
        raise PermissionError(13, "Permission denied")

    known = tokens(tmp_path, GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", denied)
        assert "Permission denied" in known.reload()[0]
        assert known.find(SECRET)
        assert (known.stale, known.unread) == (True, True)
    assert known.reload() == ()
    assert (known.stale, known.unread) == (False, False)


def test_a_pipe_or_a_folder_in_place_of_the_file_is_not_read(tmp_path: Path) -> None:
    known = tokens(tmp_path, GOOD)
    for make in (os.mkfifo, os.mkdir):
        known.path.unlink()
        make(known.path)
        assert "is not a regular file" in known.reload()[0]
        assert known.find(SECRET)
        assert known.stale
        if make is os.mkdir:
            known.path.rmdir()


@pytest.mark.parametrize("name", ["trainer", "1.0", "yes", "0x1F", "null"])
def test_an_entry_reads_back_as_it_was(tmp_path: Path, name: str) -> None:
    made = Token(
        name=name,
        sha256=DIGEST,
        scopes=frozenset({"admin", "judge"}),
        requests_per_minute=1234567.5,
        max_concurrent=3,
    )
    assert tokens(tmp_path, to_entry(made)).find(SECRET) == made


def test_tokens_are_long_random_and_fit_into_metadata() -> None:
    made = {new_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(token.isascii() and len(token) == 49 for token in made)
