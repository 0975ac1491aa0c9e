-- Says which commands the user who runs this may not call; nothing is called, and nothing goes into the server's ACL LOG.
--
-- ARGV: each a JSON array, a whole call as the node would make it. It must be whole: Valkey 9.1 crashes when it looks
-- for keys in a call that has too few words (EVAL alone does that).
-- Returns the numbers, from 1, of the calls that the user may not make.
local refused = {}
for number, encoded in ipairs(ARGV) do
  if not redis.acl_check_cmd(unpack(cjson.decode(encoded))) then
    refused[#refused + 1] = number
  end
end
return refused
