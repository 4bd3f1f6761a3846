"""The reference agrees with the server."""

from __future__ import annotations

from google.rpc import code_pb2

from palaver_server.api.statuses import CODES
from tools.reference import contract, errors

NEVER_SENT = {"UNIMPLEMENTED"}
"""Reasons of the contract that this server never sends, because it implements the whole contract."""


def test_the_contract_documents_the_status_that_the_server_sends_with_each_reason():
    documented = {reason.name: reason.status for reason in errors.reasons(contract.read())}
    sent = {reason: code_pb2.Code.Name(code) for reason, code in CODES.items()}
    assert {name: status for name, status in documented.items() if name not in NEVER_SENT} == sent
