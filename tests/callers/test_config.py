"""The callers' file: what a block becomes, and errors that name the block and the key, and never a value."""

from __future__ import annotations

import pytest

from palaver_server.callers.blocks import CallerBlock, TokenRule
from palaver_server.callers.config import CallersError, parse_callers
from palaver_server.callers.keys import Keys, digest_of, new_key
from palaver_server.domain.rights import Access
from tests.support.callers import toml

DIGEST = "ab" * 32
SECRET = "plv_secret"


def parse(**block: object) -> CallerBlock:
    return parse_callers(toml({"shop": block}).encode())[0]


def error(text: str) -> str:
    with pytest.raises(CallersError) as caught:
        parse_callers(text.encode())
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_block_allows_everything_but_admin_by_default():
    block = parse(key_sha256=[DIGEST])
    assert block.key_digests == (bytes.fromhex(DIGEST),)
    rights = block.rights_of({})
    assert rights.access is Access.WRITE
    for names in (rights.ids, rights.collections, rights.storage_connections, rights.chat_models, rights.skills):
        assert "anything" in names
    assert (rights.max_turns, rights.turns_per_minute) == (None, None)


def test_every_key_of_a_block():
    block = parse(
        key_sha256=[DIGEST, DIGEST.upper().replace("AB", "AC")],
        issuer="https://issuer.example/v2.0",
        audience="a",
        algorithms=["ES256", "EdDSA"],
        require={"scp": "chat", "roles": ["a", "b"], "email_verified": True},
        client_certificate="spiffe://prod/*",
        collections=["Shop*"],
        ids=["{oid}.*", "shared"],
        storage_connections=["AzureWebJobsStorage"],
        ai_connections=[],
        chat_models=["gpt-4o*"],
        skills=["*"],
        access="admin",
        max_turns=5,
        turns_per_minute=60,
    )
    assert block.tokens == TokenRule(
        "https://issuer.example/v2.0",
        ("a",),
        (("scp", ("chat",)), ("roles", ("a", "b")), ("email_verified", (True,))),
        ("ES256", "EdDSA"),
    )
    rights = block.rights_of({"oid": "7"})
    assert rights.access is Access.ADMIN
    assert "shopping" in rights.collections
    assert "7.1" in rights.ids
    assert "shared" in rights.ids
    assert "8.1" not in rights.ids
    assert "any" not in rights.ai_connections
    assert (rights.max_turns, rights.turns_per_minute) == (5, 60)
    assert "shared" in block.rights_of({}).ids


KEY = f'key_sha256 = ["{DIGEST}"]\n'
ISSUER = 'issuer = "https://i.example"\naudience = "a"\n'


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("", "[callers.shop]: must have a key_sha256, an issuer or a client_certificate"),
        ("key_sha256 = []", "[callers.shop]: must have a key_sha256"),
        (f'key_sha256 = "{SECRET}"', "[callers.shop] key_sha256: must be SHA-256 digests of 64 hexadecimal digits"),
        ("key_sha256 = 7", "[callers.shop] key_sha256: must be a list of texts"),
        ('key_sha256 = [""]', "[callers.shop] key_sha256: must be a list of texts"),
        (KEY + f'colour = "{SECRET}"', "[callers.shop] 'colour': no such key; the keys are key_sha256, "),
        (KEY + 'access = "root"', "[callers.shop] access: must be one of read, write, admin"),
        (KEY + "access = 1", "[callers.shop] access: must be a text"),
        (KEY + "max_turns = 0", "[callers.shop] max_turns: must be a whole number of 1 or more"),
        (KEY + "max_turns = true", "[callers.shop] max_turns: must be a whole number"),
        (KEY + "turns_per_minute = 1.5", "[callers.shop] turns_per_minute: must be a whole number"),
        (KEY + 'ids = ["{sub}.*"]', "[callers.shop] ids: must have no claims in braces"),
        (ISSUER + 'ids = ["{sub}*"]', "[callers.shop] ids: must have a separator between {sub} and *"),
        (KEY + 'collections = ["{sub}"]', "[callers.shop] collections: must have no braces"),
        (KEY + 'audience = "a"', "[callers.shop] audience: must not be set without an issuer"),
        (KEY + 'algorithms = ["RS256"]', "[callers.shop] algorithms: must not be set without an issuer"),
        (KEY + 'require = { scp = "a" }', "[callers.shop] require: must not be set without an issuer"),
        ('issuer = "https://i.example"', "[callers.shop] audience: must be set"),
        (ISSUER + 'algorithms = ["HS256"]', "[callers.shop] algorithms: must be among RS256, ES256, EdDSA"),
        (ISSUER + 'algorithms = ["none"]', "[callers.shop] algorithms: must be among"),
        (ISSUER + 'require = "scp"', "[callers.shop] require: must be a table of claims"),
        (ISSUER + "require = { scp = [] }", "[callers.shop] require.scp: must be a text"),
        ('issuer = "http://i.example"\naudience = "a"', "[callers.shop] issuer: must be an https:// address"),
        ('issuer = "http://localhost.evil/"\naudience = "a"', "[callers.shop] issuer: must be an https:// address"),
        ('issuer = "http://localhost@evil/"\naudience = "a"', "[callers.shop] issuer: must be an https:// address"),
        ('issuer = "https://a:b@evil/"\naudience = "a"', "[callers.shop] issuer: must be an https:// address"),
    ],
)
def test_an_error_names_the_block_and_the_key(block: str, words: str):
    assert error(f"[callers.shop]\n{block}").startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must have at least one block [callers.NAME]"),
        ("callers = 7", "must have at least one block"),
        ("[callers]\nshop = 7", "[callers.shop]: must be a block"),
        ("[shop]", "'shop': every block must be a [callers.NAME]"),
        ('[callers."a b"]', "[callers.'a b']: a name must be 1 to 64 ASCII letters"),
        (f"[callers.shop\n{SECRET}", "not valid TOML: "),
        (
            f"[callers.a]\n{KEY}[callers.b]\n{KEY}",
            "[callers.b] key_sha256: must not identify the same callers as [callers.a]",
        ),
        (
            f"[callers.a]\n{ISSUER}[callers.b]\n{ISSUER}",
            "[callers.b] issuer: must not identify the same callers as [callers.a]",
        ),
    ],
)
def test_an_error_of_the_file(text: str, words: str):
    assert error(text).startswith(words)


def test_text_that_is_not_utf8_is_an_error():
    with pytest.raises(CallersError, match="UTF-8"):
        parse_callers(b"\xff")


def test_a_key_is_recognised_by_its_digest():
    keys = [new_key() for _ in range(3)]
    blocks = [CallerBlock(str(number), (digest_of(key),)) for number, key in enumerate(keys)]
    found = Keys.of(blocks)
    assert [found.owner_of(key) for key in keys] == blocks
    assert found.owner_of(new_key()) is None
    assert found.owner_of(digest_of(keys[0]).hex()) is None
    assert found.owner_of("\udc80") is None
    assert all(key.startswith("plv_") and len(key) >= 40 for key in keys)
