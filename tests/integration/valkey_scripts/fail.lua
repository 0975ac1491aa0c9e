-- Always refuses, as a server out of memory does in the middle of a script.
return redis.error_reply('OOM command not allowed')
