-- Twice ARGV[1], by the fragment's function.
return double(tonumber(ARGV[1]))
