"""Attacks by what skill hosts offer and answer."""

from __future__ import annotations

import asyncio
import json

from palaver.v1 import assistant_pb2
from palaver.v1 import skill_host_service_pb2 as skills_pb
from tests.attack.attack import Attack
from tests.attack.callers import ODD_SCHEMAS, SLOW_CHECKS, SLOW_SCHEMAS, check_complaints, create
from tests.attack.endpoints import post
from tests.attack.target import Target
from tests.support.endpoint import skill_calls
from tests.support.server_process import server_process
from tests.support.skill_host import SkillHost, content

LISTING_WAIT = 10.0
"""Seconds until the server must have asked a host that has come up for its skills."""

GOOD = "good"


def listing(*schemas: str) -> bytes:
    """Returns a list of a good skill and others with these schemas."""
    skills = [
        assistant_pb2.Skill(name=f"bad_{number}", parameters_json_schema=schema)
        for number, schema in enumerate(schemas)
    ]
    return skills_pb.ListSkillsResponse(skills=[*skills, assistant_pb2.Skill(name=GOOD)]).SerializeToString()


async def good_skill_serves(target: Target, host: SkillHost) -> bool:
    """Returns whether the server offers the good skill and calls it."""
    for _ in range(20):
        target.endpoint.script(skill_calls((GOOD, "{}")))
        await post(target, "a call of the good skill", skill_names=[GOOD])
        target.endpoint.forget()
        if host.requests:
            return True
        await asyncio.sleep(0.5)  # the server asks for the skills every other second
    return False


async def slow_listings(target: Target) -> None:
    """Comes up with skills whose schemas are expensive to check."""
    await create(target)
    schemas = [*SLOW_SCHEMAS.values()] * 5 + [json.dumps({"allOf": [{}] * 100_000})]
    async with SkillHost(address=target.skill_host, good=lambda request: content("ok")) as host:
        host.listing = listing(*schemas)
        await asyncio.wait_for(host.listed.wait(), LISTING_WAIT)
        if not await good_skill_serves(target, host):
            target.found("the good skill beside slow ones can't be called")


async def odd_listings(target: Target) -> None:
    """Comes up with skills whose schemas make no sense, beside a good one, and is there when a server starts."""
    await create(target)
    async with SkillHost(address=target.skill_host, good=lambda request: content("ok")) as host:
        host.listing = listing(*ODD_SCHEMAS)
        await asyncio.wait_for(host.listed.wait(), LISTING_WAIT)
        if not await good_skill_serves(target, host):
            target.found("the good skill beside odd ones can't be called: the refresh has ended")
        with (target.folder / "another log").open("wb") as log:
            settings = {"PALAVER_SKILL_HOSTS": target.skill_host}
            try:
                async with server_process(target.folder / "another", target.endpoint.url, stderr=log, **settings):
                    pass
            except AssertionError:
                line = (target.folder / "another log").read_text(errors="replace").strip().splitlines()[-1:]
                target.found(f"a server does not start beside odd skills: {line}")


async def slow_checks(target: Target) -> None:
    """Offers skills whose schemas are harmless by themselves. The model calls them with expensive arguments."""
    await create(target)
    async with SkillHost(address=target.skill_host, good=lambda request: content("ok")) as host:
        host.listing = listing(*(json.dumps({"type": "object", **schema}) for schema, _ in SLOW_CHECKS.values()))
        if not await good_skill_serves(target, host):
            target.found("the good skill can't be called")
        for number, (what, (_, arguments)) in enumerate(SLOW_CHECKS.items()):
            target.endpoint.script(skill_calls((f"bad_{number}", json.dumps(arguments))))
            answer = await post(target, what)
            check_complaints(target, what, answer.responses)
            target.endpoint.forget()


async def large_results(target: Target) -> None:
    """Answers calls with results of 4 MB, and with what is no result."""
    await create(target)
    answers = {
        "text": content("x" * 4_000_000),
        "an error": skills_pb.InvokeSkillResponse(error="\u6c34" * 1_300_000),
        "nothing": skills_pb.InvokeSkillResponse(),
        "no message": b"\xff" * 100_000,
        "more than a message": content("x" * 8_000_000),
    }
    for what, answer in answers.items():
        host = SkillHost("", target.skill_host, good=lambda request, answer=answer: answer)
        async with host:
            if not await good_skill_serves(target, host):
                target.found(f"the skill that answers with {what} can't be called")


ATTACKS = (
    Attack("skill host: schemas that are slow to check", slow_listings),
    Attack("skill host: schemas that make no sense", odd_listings),
    Attack("skill host: arguments that are slow to check", slow_checks, max_growth=96),
    Attack("skill host: results of 4 MB", large_results),
)
