-- Sends several bodies in turn, and ends with one line of JSON.
-- wrk … -s wrk.lua URL -- CONTENT_TYPE FILE…

local requests = {}
local turn = 0

function init(args)
  for number = 2, #args do
    local file = assert(io.open(args[number], "rb"))
    local headers = { ["Content-Type"] = args[1] }
    requests[number - 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "refused": %d, "lost": %d, "p50_ms": %.3f, "p90_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3))
end
