// The official `openai` npm package against a gateway; test_strangers_npm.py runs it with node's own test runner.
// OPENAI_BASE_URL and OPENAI_API_KEY are read by the package itself; PACKAGES is where npm installed it.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

const { OpenAI } = createRequire(`${process.env.PACKAGES}/`)("openai");
const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });
const messages = [{ role: "user", content: "the quick brown fox" }];
const model = "echo";

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function text(chunks) {
  return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
}

test("models are listed and found", async () => {
  const ids = (await client.models.list()).data.map((one) => one.id);
  assert.deepEqual(ids.sort(), ["echo", "far"]);
  assert.equal((await client.models.retrieve("echo")).object, "model");
});

test("chat", async () => {
  const answer = await client.chat.completions.create({ model, messages });
  assert.equal(answer.choices[0].message.content, "the quick brown fox");
  assert.equal(answer.choices[0].finish_reason, "stop");
  assert.match(answer.model, /^echo@/);
  assert.match(answer._request_id, /^req_/);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
});

test("a stream is the whole answer, with one finish reason and no usage that nobody asked for", async () => {
  const chunks = await collect(await client.chat.completions.create({ model, messages, stream: true }));
  assert.equal(text(chunks), "the quick brown fox");
  assert.deepEqual(chunks.map((one) => one.choices[0].finish_reason).filter(Boolean), ["stop"]);
  assert.ok(chunks.every((one) => one.usage == null));
});

test("a stream with usage, through the helper that gathers it", async () => {
  const events = [];
  const runner = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
  runner.on("content", (delta) => events.push(delta));
  const final = await runner.finalChatCompletion();
  assert.equal(events.join(""), "the quick brown fox");
  assert.equal(final.choices[0].message.content, "the quick brown fox");
  assert.equal(final.usage.completion_tokens, 4);
});

test("characters of every width come through a stream whole", async () => {
  const said = "naïve 日本語 🎉 Журнал";
  const stream = await client.chat.completions.create({
    model: "far", messages: [{ role: "user", content: said }], stream: true, fault: "bytewise",
  });
  assert.equal(text(await collect(stream)), said);
});

test("tools, whole and in a stream", async () => {
  const tool = { type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } };
  const asked = { model, messages, tools: [tool], tool_choice: "required" };
  const answer = await client.chat.completions.create(asked);
  const call = answer.choices[0].message.tool_calls[0];
  assert.equal(answer.choices[0].finish_reason, "tool_calls");
  assert.equal(call.function.name, "weather");
  assert.equal(typeof JSON.parse(call.function.arguments), "object");
  const final = await client.chat.completions.stream(asked).finalChatCompletion();
  assert.deepEqual(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
});

test("logprobs, n, stop and JSON", async () => {
  const answer = await client.chat.completions.create({ model, messages, n: 2, logprobs: true, top_logprobs: 2 });
  assert.deepEqual(answer.choices.map((one) => one.index), [0, 1]);
  assert.equal(answer.choices[0].logprobs.content.map((one) => one.token).join(""), "the quick brown fox");
  const cut = await client.chat.completions.create({ model, messages, stop: [" brown"] });
  assert.equal(cut.choices[0].message.content, "the quick");
  const json = await client.chat.completions.create({ model, messages, response_format: { type: "json_object" } });
  assert.deepEqual(JSON.parse(json.choices[0].message.content), { echo: "the quick brown fox" });
});

test("completions", async () => {
  const whole = await client.completions.create({ model, prompt: "hello there", echo: true });
  assert.match(whole.choices[0].text, /^hello there/);
  const chunks = await collect(await client.completions.create({ model, prompt: "hello there", stream: true }));
  assert.equal(chunks.map((one) => one.choices[0].text).join(""), "hello there");
});

test("embeddings are the same in both encodings", async () => {
  const input = ["a", "b"];
  const packed = await client.embeddings.create({ model, input }); // the package asks for base64 by itself
  const plain = await client.embeddings.create({ model, input, encoding_format: "float" });
  assert.deepEqual(plain.data.map((one) => one.index), [0, 1]);
  packed.data.forEach((one, row) => one.embedding.forEach((value, column) => {
    assert.ok(Math.abs(value - plain.data[row].embedding[column]) < 1e-6);
  }));
  assert.equal((await client.embeddings.create({ model, input, dimensions: 3 })).data[0].embedding.length, 3);
});

test("errors are the package's own", async () => {
  const refused = async (call, kind, status, code) => {
    const error = await call.then(() => assert.fail("not refused"), (caught) => caught);
    assert.ok(error instanceof kind, `${error}`);
    assert.deepEqual([error.status, error.code], [status, code]);
    assert.match(error.requestID, /^req_/);
  };
  const stranger = new OpenAI({ apiKey: "wrong", maxRetries: 0 });
  await refused(stranger.models.list(), OpenAI.AuthenticationError, 401, "invalid_api_key");
  const chat = (fields) => client.chat.completions.create({ model, messages, ...fields });
  await refused(chat({ model: "none" }), OpenAI.NotFoundError, 404, "model_not_found");
  await refused(chat({ messages: [] }), OpenAI.BadRequestError, 400, "invalid_request");
  await refused(chat({ model: "far", fault: "no_answer" }), OpenAI.InternalServerError, 502, "engine_unreachable");
  await refused(chat({ model: "far", fault: "truncated" }), OpenAI.InternalServerError, 502, "engine_lost");
});

for (const fault of ["die", "reset", "unfinished", "error_event", "bad_chunk"]) {
  test(`a stream that breaks never looks whole: ${fault}`, async () => {
    const stream = await client.chat.completions.create({ model: "far", messages, stream: true, fault });
    await assert.rejects(collect(stream), OpenAI.APIError);
  });
}

test("a stream can be left", async () => {
  const long = [{ role: "user", content: "word ".repeat(20_000) }];
  const stream = await client.chat.completions.create({ model, messages: long, stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
  assert.ok(stream.controller.signal.aborted);
  assert.equal((await client.chat.completions.create({ model, messages })).choices.length, 1);
});
