"""Workers on other machines: who they are, the channel between them and the node, what only the node may decide."""
