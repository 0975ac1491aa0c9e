-- Notes an envelope that is about no agent. Safe to run twice: the second time says that it was accepted before.
--
-- ARGV     replay mark, its life (ms), generation and counter of the store as the hub knows it
--
-- Returns what `accept` does.
return accept(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
