-- A fragment: what several scripts call.
local function double(n) return n * 2 end
