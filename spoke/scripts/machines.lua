-- What the machines of this spoke have: ARGV: prefix.
-- Returns {machine, how many leases its workers hold, the latest deadline of them} for each that holds one or is waited for,
--   with 0 and 0 where agents only wait to go on there.

local found, order = {}, {}

local function of(machine)
  if not found[machine] then
    found[machine] = { machine, 0, 0 }
    order[#order + 1] = found[machine]
  end
  return found[machine]
end

for _, lane in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
  local machine = lane:match('@(.+)$')
  if machine then of(machine) end
end
for _, member in ipairs(redis.call('ZRANGE', P .. 'backoff', 0, -1)) do
  local machine = bound_to(member:match('^(%S+) (%S+)$')) or ''
  if machine ~= '' then of(machine) end
end
local leases = redis.call('ZRANGE', P .. 'leases', 0, -1, 'WITHSCORES')
for at = 1, #leases, 2 do
  local tenant, id = leases[at]:match('^(%S+) (%S+)$')
  local machine = machine_of(redis.call('HGET', agent_key(tenant, id), 'worker'))
  if machine ~= '' then
    local entry = of(machine)
    entry[2] = entry[2] + 1
    entry[3] = math.max(entry[3], tonumber(leases[at + 1]))
  end
end
local answer = {}
for number, entry in ipairs(order) do answer[number] = { entry[1], entry[2], int(entry[3]) } end
return answer
