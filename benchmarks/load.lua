-- What wrk sends. Arguments: mode, file of "uid<TAB>e-mail" lines, run id, mean pause in ms (0: as fast as it goes).
--
-- get      GET of a random profile of the file
-- search   search by the e-mail of one
-- create   POST of a profile that is new each time (run id and a counter make its e-mail unique)
-- update   PUT of a random profile of the file: same e-mail, new name, so each one is an effective change

local uids, emails, known = {}, {}, 0
local mode, run, mean_pause_ms, sent = "get", "0", 0, 0
local json = { ["Content-Type"] = "application/json" }

local function body(name, email)
  return '{"username":"' .. name .. '","email":"' .. email .. '"}'
end

local requests = {}

function requests.get()
  return wrk.format("GET", "/api/profile/" .. uids[math.random(known)])
end

function requests.search()
  return wrk.format("GET", "/api/search?email=" .. emails[math.random(known)])
end

function requests.create()
  sent = sent + 1
  local name = "bench-" .. run .. "-" .. sent
  return wrk.format("POST", "/api/profile", json, body(name, name .. "@example.com"))
end

function requests.update()
  sent = sent + 1
  local chosen = math.random(known)
  return wrk.format("PUT", "/api/profile/" .. uids[chosen], json, body(run .. "-" .. sent, emails[chosen]))
end

function init(arguments)
  mode, run, mean_pause_ms = arguments[1], arguments[3], tonumber(arguments[4])
  math.randomseed(tonumber(run, 36) % 2147483647)
  for line in io.lines(arguments[2]) do
    local uid, email = line:match("^(%S+)\t(%S+)$")
    known = known + 1
    uids[known], emails[known] = uid, email
  end
  request = requests[mode]
  if mean_pause_ms > 0 then  -- wrk pauses only if the function exists; evenly spread, so that clients do not march in step
    delay = function() return math.floor(math.random() * 2 * mean_pause_ms + 0.5) end
  end
end

function done(summary, latency)
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("\nFIGURES %d %d %d %d %d %d\n", summary.requests, summary.duration, errors.status, broken,
    latency:percentile(50), latency:percentile(99)))
end
