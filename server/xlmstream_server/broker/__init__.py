"""The queue protocol, both ends of it: keys, Lua scripts and the Python calls around them."""
