-- POSTs one body, to one path or evenly to several:
-- wrk -s post.lua URL -- BODY-FILE CONTENT-TYPE PREFER PATHS-FILE AUTHORIZATION
-- An empty PREFER or AUTHORIZATION sends no such header. Prints its result as a line of JSON.

function init(args)
  wrk.method = "POST"
  wrk.body = io.open(args[1], "rb"):read("*a")
  wrk.headers["Content-Type"] = args[2]
  if args[3] ~= "" then
    wrk.headers["Prefer"] = args[3]
  end
  if args[5] ~= "" then
    wrk.headers["Authorization"] = args[5]
  end
  local requests = {}
  for path in io.lines(args[4]) do
    wrk.path = path
    requests[#requests + 1] = wrk.format()
  end
  -- Without a function `request`, wrk sends the same bytes again and again and need not call Lua for each.
  if #requests > 1 then
    local last = 0
    request = function()
      last = last % #requests + 1
      return requests[last]
    end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"microseconds": %d, "requests": %d, "status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d, ' ..
    '"p50": %d, "p90": %d, "p99": %d, "p999": %d, "max": %d}\n',
    summary.duration, summary.requests, errors.status, errors.connect, errors.read, errors.write, errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max
  ))
end
