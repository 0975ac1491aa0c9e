-- Remove names from the index whose records have expired, a page at a time.
--
-- ARGV: prefix, the last name of the page before ('' for the first page), names in a page.
-- Returns {last name of this page or '' after the last, number removed}. Run twice it changes nothing the second time.

local members = redis.call('ZRANGEBYLEX', P .. 'agents', ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', 'LIMIT', 0, ARGV[3])
local removed = 0
for _, member in ipairs(members) do removed = removed + drop_name(member) end
return { members[#members] or '', removed }
