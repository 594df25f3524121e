"""What somebody writes with the generated Python client: sign in, run a workflow, read what it returned."""

from __future__ import annotations

import sys
from uuid import UUID

from bifrost_client import AuthenticatedClient, Client
from bifrost_client.api.auth import get_me, sign_in
from bifrost_client.api.executions import get_execution
from bifrost_client.api.workflows import execute_workflow, list_workflows
from bifrost_client.models import (
    Credentials,
    LoginResponse,
    UserResponse,
    WorkflowExecution,
    WorkflowExecutionRequest,
    WorkflowExecutionRequestInputDataType0,
    WorkflowExecutionResponse,
)


def main(url: str, email: str, password: str) -> None:
    nobody = Client(base_url=url, raise_on_unexpected_status=True)
    login = sign_in.sync(client=nobody, body=Credentials(username=email, password=password))
    assert isinstance(login, LoginResponse), login
    assert isinstance(login.access_token, str), login
    client = AuthenticatedClient(base_url=url, token=login.access_token, raise_on_unexpected_status=True)

    me = get_me.sync(client=client)
    assert isinstance(me, UserResponse), me
    assert me.email == email, me
    workflows = list_workflows.sync(client=client)
    assert isinstance(workflows, list), workflows
    assert "greet" in [workflow.name for workflow in workflows], workflows

    given = WorkflowExecutionRequestInputDataType0.from_dict({"name": "Grace"})
    ran = execute_workflow.sync(
        client=client, body=WorkflowExecutionRequest(workflow_id="greet", input_data=given)
    )
    assert isinstance(ran, WorkflowExecutionResponse), ran
    assert ran.status == "Success", ran
    read = get_execution.sync(UUID(ran.execution_id), client=client)
    assert isinstance(read, WorkflowExecution), read
    result = read.to_dict()["result"]
    assert result == {"greeting": "Hello Grace"}, result
    print(f"the Python client read {result}")


if __name__ == "__main__":
    main(*sys.argv[1:])
