// A stand-in inference engine for measuring gateways: it answers the OpenAI chat API with fixed
// tokens and no computing, so that what a client waits for is the gateway in front of it.
//   node mock_engine.mjs --port 9100
// stream=false: one JSON body. stream=true: one server-sent event per token (each its own write),
// then a usage event when stream_options.include_usage is set, then [DONE].
// PUT /mock {"tokens": 64, "gap_ms": 0, "stamp": false} says how it answers from now on: how many tokens, how long
// before each, and whether a token carries the time it was written (nanoseconds of the machine's monotonic clock).
import http from "node:http";

const port = Number(process.argv[process.argv.indexOf("--port") + 1]);
let how = { tokens: 64, gap_ms: 0, stamp: false };
let text = "";
let seen = 0;

const word = (i) => ` token${i}`;
const set = (wish) => {
  how = { ...how, ...wish };
  text = Array.from({ length: how.tokens }, (_, i) => word(i)).join("");
  return how;
};
set({});

const json = (response, value) => {
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
};
const pause = (ms) => new Promise((done) => (ms ? setTimeout(done, ms) : setImmediate(done)));

function whole(id, model, usage) {
  return {
    id, object: "chat.completion", created: 1700000000, model,
    choices: [{ index: 0, message: { role: "assistant", content: text }, logprobs: null, finish_reason: "stop" }],
    usage,
  };
}

async function stream(response, id, model, usage, withUsage) {
  const { tokens, gap_ms, stamp } = how;
  const chunk = (rest) => `data: ${JSON.stringify({ id, object: "chat.completion.chunk", created: 1700000000, model, ...rest })}\n\n`;
  const event = (delta, finish = null) =>
    response.write(chunk({ choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }] }));
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  event({ role: "assistant", content: "" });
  for (let i = 0; i < tokens; i++) {
    await pause(gap_ms);
    if (response.destroyed) return;
    event({ content: stamp ? `${word(i)}@${process.hrtime.bigint()}` : word(i) }, i === tokens - 1 ? "stop" : null);
  }
  if (withUsage) response.write(chunk({ choices: [], usage }));
  response.end("data: [DONE]\n\n");
}

async function answer(request, response, ask) {
  if (request.method === "PUT") return json(response, set(ask));
  const { tokens, gap_ms } = how;
  const id = `chatcmpl-mock${++seen}`;
  const model = ask.model ?? "mock";
  const usage = { prompt_tokens: 16, completion_tokens: tokens, total_tokens: 16 + tokens };
  if (ask.stream) return stream(response, id, model, usage, ask.stream_options?.include_usage);
  if (gap_ms) await pause(gap_ms * tokens);
  return json(response, whole(id, model, usage));
}

const server = http.createServer((request, response) => {
  if (request.method === "GET")
    return json(response, request.url.startsWith("/v1/models")
      ? { object: "list", data: [{ id: "mock", object: "model", created: 1, owned_by: "mock", max_model_len: 8192 }] }
      : { status: "ok", seen });
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    let ask = {};
    try { ask = JSON.parse(Buffer.concat(parts).toString()); } catch { /* an empty ask */ }
    answer(request, response, ask);
  });
});
server.keepAliveTimeout = 120000;
server.listen({ port, host: "127.0.0.1", backlog: 4096 }, () => console.log(`mock engine on ${port}`));
