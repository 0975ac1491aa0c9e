-- Read agents: ARGV: prefix, then tenant, id, tenant's agents limit for each. Returns what `describe` does, for each.

local answers = {}
for at = 2, #ARGV, 3 do answers[#answers + 1] = describe(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])) end
return answers
