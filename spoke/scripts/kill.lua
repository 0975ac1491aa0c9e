-- Stop an agent for the operator: ARGV: prefix, tenant, id, kill-JSON, cause, retention ms, tenant's agents limit.
-- Returns what `describe` does. Run twice it asks twice, which is the same as once.

request_kill(ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]))
return describe(ARGV[2], ARGV[3], tonumber(ARGV[7]))
