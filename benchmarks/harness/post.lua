-- wrk's script: one POST body for all requests, and the figures as one JSON line.
--   wrk ... -s post.lua URL -- KEY BODY
function init(args)
  wrk.method = "POST"
  wrk.headers["Authorization"] = "Bearer " .. args[1]
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = args[2]
end

function done(summary, latency, requests)
  local wrong = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "bytes": %d, "bad": %d, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    wrong.status + wrong.connect + wrong.read + wrong.write + wrong.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
