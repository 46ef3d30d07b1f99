-- wrk's script: one POST body, sent with each of the keys in a file in turn; the figures as post.lua writes them.
--   wrk ... -s keys.lua URL -- KEYS-FILE BODY
local requests, at = {}, 0

function init(args)
  for key in io.lines(args[1]) do
    local headers = {["Authorization"] = "Bearer " .. key, ["Content-Type"] = "application/json"}
    requests[#requests + 1] = wrk.format("POST", nil, headers, args[2])
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, requests)
  local wrong = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "bytes": %d, "bad": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    wrong.status + wrong.connect + wrong.read + wrong.write + wrong.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
