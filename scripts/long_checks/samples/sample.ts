// What somebody writes with the generated types. It is type-checked, not run.
import createClient from "openapi-fetch";
import type { components, paths } from "./bifrost";

type Execution = components["schemas"]["WorkflowExecution"];

export async function greet(baseUrl: string, token: string): Promise<Execution> {
  const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${token}` } });
  const ran = await client.POST("/api/workflows/execute", {
    body: { workflow_id: "greet", input_data: { name: "Grace" } },
  });
  if (ran.data === undefined) {
    throw new Error(ran.error.detail ?? ran.error.title);
  }
  const read = await client.GET("/api/executions/{execution_id}", {
    params: { path: { execution_id: ran.data.execution_id } },
  });
  if (read.data === undefined) {
    throw new Error(read.error.title);
  }
  return read.data;
}

export async function mistakes(baseUrl: string): Promise<void> {
  const client = createClient<paths>({ baseUrl });
  // @ts-expect-error there is no such operation
  await client.GET("/api/no-such-thing");
  // @ts-expect-error a priority is a number
  await client.POST("/api/workflows/execute", { body: { workflow_id: "greet", priority: "high" } });
}
