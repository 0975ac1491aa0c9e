-- Kill what a frozen tenant has here, and nothing once it has thawed.
--
-- ARGV: prefix, tenant, kill-JSON, cause, retention ms, how many waiting agents at most.
-- Returns {waiting agents ended, held agents asked to end}. Run twice it ends no agent twice.

if redis.call('EXISTS', P .. 'frozen:' .. ARGV[2]) == 0 then return { 0, 0 } end
local ended, asked = kill_all(ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]))
return { ended, asked }
