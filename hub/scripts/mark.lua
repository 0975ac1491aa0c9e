-- Notes an envelope that is about no agent. Safe to run twice: the second time says that it was accepted before.
--
-- ARGV     replay mark, its life (ms), envelopes a second, generation and counter of the store as the hub knows it
--
-- Returns what `accept` does.
return accept(unpack(ARGV))
